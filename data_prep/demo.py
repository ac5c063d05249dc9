"""Demo data: synthetic H&E tissue with known cells, in the files of real layouts. No patient, no biology.

python -m data_prep.demo --out demo                         # 4 patients x 2 sections, her2st layout
python -m data_prep.demo --out demo --patients 6 --seed 1
python -m data_prep.demo --out demo --layout visium_hd      # 2, 8 and 16 um bins of the same cells
python -m data_prep.demo --out demo --stain-shift 1 --counts-per-spot 4000    # other stains and fewer counts than usual
python -m data_prep.demo --out demo --bins 11200000         # a whole Visium HD slide of 2 um bins, block by block
"""

import dataclasses
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import (
    cli,
    demo_bins,
    demo_layouts,
    demo_merscope,
    demo_slide,
    demo_space_ranger,
    demo_spatialdata,
    demo_tissue,
    demo_xenium,
    files,
    system_errors,
)
from data_prep.demo_layouts import DemoSection
from data_prep.demo_tissue import Biology, Cells, Tissue
from data_prep.errors import InputError
from data_prep.readers._sections import SYNTHETIC_MARK

PITCH_UM, SPOT_RADIUS_UM = 200.0, 50.0  # legacy Spatial Transcriptomics
DENSE_PITCH_UM, DENSE_RADIUS_UM = 150.0, 55.0  # the same on arrays of 1,934 spots
VISIUM_PITCH_UM, VISIUM_RADIUS_UM = 100.0, 27.5
BINS_COUNTS = 60_000.0  # `counts_per_spot` with --bins: about 25 genes are found in a bin of 2 um, as on real slides
EXAMPLES = """examples:
  python -m data_prep.demo --out demo
  python -m data_prep.demo --out demo_hd --layout visium_hd --patients 2 --sections-per-patient 1
  python -m data_prep.demo --out demo_stnet --layout stnet --spots 60 --seed 1
  python -m data_prep.demo --out demo_bins --bins 2000000
"""
VERSION = 3  # of what a recipe makes and a build says of it; a cache of demo data is named after it
_MARGIN_UM = 170.0  # a 224 px window around any spot stays inside the slide
_TISSUE_SHARE = 0.42  # of the slide within its margin


class Layout(NamedTuple):
    """How a layout is written.

    Attributes:
        array: where it is measured: "legacy" spots, "grid" (the same without printing error), "dense" (closer),
            "hexagonal" or "molecules" (no spots: each where it was caught).
        write: one section to the folder; returns the name it has there.
        finish: what ties the sections together, given section -> patient.
    """

    array: str
    write: Callable[[Path, DemoSection], str]
    finish: Callable[[Path, dict[str, str]], None] | None = None


LAYOUTS = {
    "her2st": Layout("legacy", demo_layouts.write_her2st),
    "stnet": Layout("grid", demo_layouts.write_stnet, demo_layouts.finish_stnet),
    "cscc": Layout("dense", demo_layouts.write_cscc),
    "visium": Layout("hexagonal", demo_space_ranger.write_visium, demo_layouts.write_patients),
    "visium_hd": Layout("molecules", demo_space_ranger.write_visium_hd, demo_layouts.write_patients),
    "xenium": Layout("molecules", demo_xenium.write_xenium, demo_layouts.write_patients),
    "merscope": Layout("molecules", demo_merscope.write_merscope, demo_layouts.write_patients),
    "hest": Layout("hexagonal", demo_layouts.write_hest),
    "anndata": Layout("hexagonal", demo_layouts.write_anndata),
    "spatialdata": Layout("hexagonal", demo_spatialdata.write_spatialdata, demo_layouts.write_patients),
    "bundle": Layout("hexagonal", demo_layouts.write_bundle, demo_layouts.finish_bundle),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to make; `seed` and these decide every byte.

    Attributes:
        layout: whose files to write.
        patients, sections_per_patient: how many.
        spots: about how many spots (or, for other areas, how much tissue: 200 x 200 um each) per section.
        um_per_px: scale of the slides.
        counts_per_spot: mean depth of a spot.
        stain_shift: how far every patient's stains are from what laboratories usually have; 1 is about three standard
            deviations, in a direction of the patient's own.
        seed: of everything.
        bins: in place of `spots`, about how many bins of 2 um per section of visium_hd, which then has these alone.
    """

    layout: str = "her2st"
    patients: int = 4
    sections_per_patient: int = 2
    spots: int = 104
    um_per_px: float = 1.4
    counts_per_spot: float = 9000.0
    stain_shift: float = 0.0
    seed: int = 0
    bins: int = 0

    @property
    def area_um2(self) -> float:
        """Tissue of a section."""
        return self.bins * float(demo_space_ranger.BIN_UM[0] ** 2) if self.bins else self.spots * PITCH_UM**2


def make_demo(out: str | Path, *, workers: int | None = None, **options: Any) -> Path:
    """Write a synthetic data set to the folder `out` and return it; the folder appears only when complete.

    Args:
        out: must not exist, or be empty.
        workers: threads; by default one per core.
        options: the fields of `Recipe`.

    Raises:
        InputError: `out` is in use, or a number is out of range.
    """
    recipe = Recipe(**options)
    _check(recipe)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already there and not empty; choose another --out or remove it first")
    with files.whole(out) as partial:
        partial.mkdir()
        _write(partial, recipe, workers or os.cpu_count() or 1)
    return out


class _Specimen(NamedTuple):
    """A section before anything is measured: its tissue, how it was stained, mean counts of a spot, and what decides
    the rest."""

    tissue: Tissue
    staining: demo_slide.Staining
    depth: float
    rng: np.random.Generator


def _specimen(recipe: Recipe, life: Biology, patient: int, section: int) -> _Specimen:
    rng = np.random.default_rng([recipe.seed, 0, patient])
    patient_effect = rng.normal(0, 0.12, len(life.genes))
    favour = rng.normal(0, 0.25, len(demo_tissue.TYPES))
    staining = demo_slide.patient_staining(rng)
    if recipe.stain_shift:
        staining = demo_slide.shifted(np.random.default_rng([recipe.seed, 2, patient]), staining, recipe.stain_shift)
    depth = recipe.counts_per_spot * rng.lognormal(0, 0.2)

    rng = np.random.default_rng([recipe.seed, 1, patient, section])
    side = float(np.sqrt(recipe.area_um2 / _TISSUE_SHARE)) + 2 * _MARGIN_UM
    tissue = demo_tissue.grow(
        rng,
        width_um=side,
        height_um=side * 0.96,
        tissue_um2=recipe.area_um2,
        patient_effect=patient_effect,
        favour=favour,
    )
    return _Specimen(tissue, staining, depth, rng)


def make_section(recipe: Recipe, life: Biology, patient: int, section: int) -> DemoSection:
    """One section, the same whatever else is made with it."""
    tissue, staining, depth, rng = _specimen(recipe, life, patient, section)
    image = demo_slide.paint(rng, tissue, demo_slide.section_staining(rng, staining), um_per_px=recipe.um_per_px)
    bare = DemoSection(patient, section, image, recipe.um_per_px, life.genes, tissue, rng)
    array = LAYOUTS[recipe.layout].array
    if array == "molecules":
        gene, xy_um = demo_tissue.sample_molecules(rng, tissue.cells, life, _density(depth) * recipe.area_um2)
        return dataclasses.replace(bare, molecule_gene=gene, molecule_xy_um=xy_um)
    if array == "hexagonal":
        (array_xy, grid_xy, xy_um, on), radius_um = hexagonal_grid(tissue), VISIUM_RADIUS_UM
    else:
        error = 0.0 if array == "grid" else 0.03  # STNet's files name spots by whole positions only
        pitch_um, radius_um = (DENSE_PITCH_UM, DENSE_RADIUS_UM) if array == "dense" else (PITCH_UM, SPOT_RADIUS_UM)
        array_xy, grid_xy, xy_um, on = spot_grid(rng, tissue, error=error, pitch_um=pitch_um)
    discs = demo_tissue.cells_in_discs(tissue.cells, xy_um[on], radius_um)
    mean = demo_tissue.expected_expression(tissue.cells, life, discs)
    mean *= depth / mean.sum(axis=1).mean() * rng.lognormal(0, 0.2, (len(mean), 1))
    return dataclasses.replace(
        bare,
        array_xy=array_xy,
        grid_xy=grid_xy,
        spot_xy=xy_um / recipe.um_per_px,
        in_tissue=on,
        counts=demo_tissue.sample_counts(rng, mean),
    )


def _density(depth: float) -> float:
    """Counts per um2, as many as a legacy spot would catch."""
    return depth / (np.pi * SPOT_RADIUS_UM**2)


def _write_bins(root: Path, recipe: Recipe, life: Biology, patient: int, section: int) -> tuple[str, Tissue]:
    """A section of `recipe.bins`, written block by block; its name and tissue."""
    tissue, staining, depth, rng = _specimen(recipe, life, patient, section)
    name = demo_layouts.section_name(patient, section)
    sample = demo_bins.Sample(
        tissue=tissue,
        staining=demo_slide.section_staining(rng, staining),
        life=life,
        molecules=_density(depth),
        um_per_px=recipe.um_per_px,
        seed=(recipe.seed, 3, patient, section),
    )
    demo_bins.write_sample(root / name, name, sample)
    return name, tissue


def spot_grid(
    rng: np.random.Generator, tissue: Tissue, *, error: float, pitch_um: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Legacy spots on tissue: array positions [S, 2], the same with printing error, centres in um, and all True.

    Args:
        rng: decides the error.
        tissue: where to print.
        error: its standard deviation in units of the pitch.
        pitch_um: between neighbours.
    """
    columns = int((tissue.width_um - 2 * _MARGIN_UM) // pitch_um) + 1
    rows = int((tissue.height_um - 2 * _MARGIN_UM) // pitch_um) + 1
    array_xy = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) + 1
    grid_xy = array_xy + rng.normal(0, error, array_xy.shape).round(3)
    xy_um = (grid_xy - 1) * pitch_um + _MARGIN_UM
    on = demo_tissue.covered(tissue, xy_um) > 0.6
    return array_xy[on], grid_xy[on], xy_um[on], np.ones(int(on.sum()), bool)


def hexagonal_grid(tissue: Tissue) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Visium's spots: array positions (column, row) [S, 2], twice, centres in um, and which lie on tissue."""
    step = np.array([0.5, np.sqrt(3) / 2]) * VISIUM_PITCH_UM
    columns, rows = (np.array([tissue.width_um, tissue.height_um]) / step).astype(int)
    row, column = np.mgrid[:rows, :columns]
    array_xy = np.stack([column, row], axis=-1)[(row + column) % 2 == 0]
    xy_um = (array_xy + 0.5) * step
    return array_xy, array_xy.astype(float), xy_um, demo_tissue.covered(tissue, xy_um) > 0.6


def load_truth(root: str | Path, name: str) -> tuple[Cells, Biology]:
    """The cells of section `name` of a demo, and what they express: truth at any spot size.

    Pass them to `demo_tissue.cells_in_discs` and `demo_tissue.expected_expression`.
    """
    with np.load(Path(root) / "truth" / f"{name}.npz", allow_pickle=False) as file:
        cells = Cells(**{field.name: file[field.name] for field in dataclasses.fields(Cells)})
    return cells, demo_tissue.biology()


def _check(recipe: Recipe) -> None:
    for name in ("patients", "sections_per_patient", "spots", "um_per_px", "counts_per_spot"):
        if not getattr(recipe, name) > 0:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(recipe, name)}, expected a positive number")
    for name in ("seed", "stain_shift"):
        if not getattr(recipe, name) >= 0:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(recipe, name)}, expected zero or more")
    if recipe.bins < 0 or (recipe.bins and recipe.layout != "visium_hd"):
        found = f"--bins is {recipe.bins}, --layout {recipe.layout}"
        raise InputError(f"{found}; expected a positive number of bins, and visium_hd or no layout beside it")
    if recipe.layout not in LAYOUTS:
        raise InputError(f"--layout is {recipe.layout!r}, expected one of {', '.join(sorted(LAYOUTS))}")


def _write(root: Path, recipe: Recipe, workers: int) -> None:
    life = demo_tissue.biology()
    layout = LAYOUTS[recipe.layout]
    (root / "truth").mkdir()

    def one(numbers: tuple[int, int]) -> str:
        if recipe.bins:
            name, tissue = _write_bins(root, recipe, life, *numbers)
        else:
            section = make_section(recipe, life, *numbers)
            name, tissue = layout.write(root, section), section.tissue
        np.savez_compressed(root / "truth" / f"{name}.npz", **dataclasses.asdict(tissue.cells))
        return name

    jobs = list(np.ndindex(recipe.patients, recipe.sections_per_patient))
    with ThreadPoolExecutor(1 if recipe.bins else min(workers, len(jobs))) as pool:
        names = list(cli.progress(pool.map(one, jobs), total=len(jobs), description="demo", unit="section"))
    if layout.finish:
        layout.finish(root, {name: demo_layouts.letters(job[0]) for name, job in zip(names, jobs, strict=True)})
    (root / SYNTHETIC_MARK).write_text(
        "SYNTHETIC DATA. Everything in this folder was generated by data_prep.demo: the tissue was painted, the cells\n"
        "and their expression invented. The gene names are real, their numbers are not. It shows that software runs;\n"
        f"it says nothing about any patient or disease.\n\nrecipe: {json.dumps(_said(recipe))}\n"
        f"sections: {', '.join(names)}\ntruth/<section>.npz: the cells (xy_um, type, level, size, patient_effect)\n"
    )


def _said(recipe: Recipe) -> dict[str, Any]:
    """The recipe's numbers, of `spots` and `bins` the one that counts."""
    values = dataclasses.asdict(recipe)
    del values["spots" if recipe.bins else "bins"]
    return values


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser(
        "python -m data_prep.demo", renamed={"--um-per-px": "--source-um-per-px"}, description=__doc__, epilog=EXAMPLES
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--layout", help=f"one of {', '.join(sorted(LAYOUTS))} ({Recipe.layout}; visium_hd with --bins)"
    )
    parser.add_argument("--patients", type=int, help=f"how many ({Recipe.patients}; 1 with --bins)")
    parser.add_argument(
        "--sections-per-patient", type=int, help=f"how many ({Recipe.sections_per_patient}; 1 with --bins)"
    )
    parser.add_argument("--spots", type=int, default=Recipe.spots, help="about how many per section")
    parser.add_argument(
        "--bins",
        type=int,
        default=0,
        metavar="N",
        help="in place of --spots: Visium HD with about N bins of 2 um per section, and no other areas, written block "
        "by block",
    )
    parser.add_argument(
        "--source-um-per-px",
        dest="um_per_px",
        type=float,
        default=Recipe.um_per_px,
        metavar="X",
        help=f"the slides' scale ({Recipe.um_per_px:g})",
    )
    parser.add_argument(
        "--counts-per-spot",
        type=float,
        help=f"expected total ({Recipe.counts_per_spot:g}; {BINS_COUNTS:g} with --bins, 25 genes a bin)",
    )
    parser.add_argument(
        "--stain-shift",
        type=float,
        default=Recipe.stain_shift,
        help="stains of other laboratories than usual: 1 is about three standard deviations (0)",
    )
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="another seed gives other tissue")
    parser.add_argument("--workers", type=int, help="threads; one per core by default")
    given = parser.parse_args(arguments)
    system_errors.check_folder(given.out, "--out")
    usual = {"layout": "visium_hd", "patients": 1, "sections_per_patient": 1, "counts_per_spot": BINS_COUNTS}
    usual = usual if given.bins else {name: getattr(Recipe, name) for name in usual}
    stated = {name: value for name, value in vars(given).items() if value is not None}
    out = make_demo(**(usual | stated))
    print("Synthetic data, for trying out only: no patient, no biology")
    print(out)


if __name__ == "__main__":
    cli.program(main)
