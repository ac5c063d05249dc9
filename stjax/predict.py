"""Predicts expression from slides: a grid of spots on the tissue of a bare slide, or the spots of raw sections.

usage: python -m stjax.predict (--workdir=DIR | --model=DIR) --source=SLIDE_OR_DIR --out=DIR [--formats=h5ad,png]

writes, for each slide or section, <out>/<name>.<ending> in every format asked for: h5ad (AnnData), spatialdata, geojson
(QuPath), csv, parquet, and maps of single genes, <name>_<gene>.png and .svg; measured expression, where there is any,
next to the predicted. Of a model that was evaluated, <out>/trust.csv says how far each gene can be believed, and marks
those below --floor; --gene-sets adds scores of gene sets (docs/trust.md). With --dense, of a model of tiles, also
<name>.ome.zarr: the map of the slide (docs/dense.md).
<name>.prediction.json records what they were made from; repeated, the command keeps what exists (docs/predict.md).

examples:
  python -m stjax.predict --workdir=runs/enet_b0_aux --source=slide.svs --out=predictions
  python -m stjax.predict --workdir=runs/enet_b0_aux --source=slides --out=predictions --source-um-per-px=0.5
  python -m stjax.predict --model=exported --source=slides --out=predictions --formats=h5ad,geojson --shard=1/4
  python -m stjax.predict --workdir=runs/enet_b0_aux --source=raw/her2st --out=predictions --genes=ERBB2,GNAS
  python -m stjax.predict --workdir=runs/pixnet --source=raw/her2st --out=predictions --sections=C5 --dense
"""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data_prep import cli, files, json_files, system_errors
from data_prep.cli import names
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.patch_slide import open_image
from data_prep.section import Section
from data_prep.slide import Slide
from stjax import outputs, progress, trained, trust
from stjax.gene_sets import GeneSets
from stjax.inference import grid
from stjax.inference.dense_format import TILE_PX
from stjax.inference.prediction import SectionPrediction, gene_columns, with_sets
from stjax.inference.records import Record, spots_sha256
from stjax.inference.slide_prediction import about_image, lay_spots, predict_slide, symmetric
from stjax.inference.sources import Source, open_source
from stjax.targets import FORMULAS
from stjax.trained import ENCODER_HELP, Trained

_OF_ARRAY = ("spot_um", "pitch_um", "pattern")
_AREAS_HELP = (
    "of slides: squares:100, discs:55:100 (um), a file of polygons (GeoJSON, image of labels) or a folder of "
    "<slide>.geojson; of a layout: as stjax build takes it"
)
_LEAST_BYTES = 2  # that a spot's value of a gene takes in a file, compressed


def parser() -> cli.Parser:
    """The command line's options."""
    made = cli.Parser("python -m stjax.predict", renamed={"--um-per-px": "--source-um-per-px"}, description=__doc__)
    model = made.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=Path, help="a run of stjax.train")
    model.add_argument("--model", type=Path, help="a folder that stjax.export wrote, or hf://NAME/MODEL of the Hub")
    made.add_argument(
        "--source", required=True, type=Path, help="a slide, a folder of slides, or raw sections in a known layout"
    )
    made.add_argument("--out", required=True, type=Path, help="folder for the results")
    default = ",".join(outputs.DEFAULT_FORMATS)
    made.add_argument("--formats", help=f"some of {', '.join(outputs.format_names())} ({default})")
    made.add_argument("--layout", default="auto", help="the source's layout, or slides; detected by default")
    made.add_argument("--sections", default="", help="comma-separated; default all whose files are complete")
    made.add_argument(
        "--genes", default="", help="comma-separated, by any name (HER2 is ERBB2); default the main panel"
    )
    made.add_argument(
        "--source-um-per-px", dest="um_per_px", type=float, metavar="X", help="the slides' scale; overrides the files'"
    )
    made.add_argument("--shard", default="1/1", help="i/n: every n-th slide from the i-th on, for array jobs")
    made.add_argument("--overwrite", action="store_true", help="replace results of another model or other options")
    made.add_argument("--symmetries", action="store_true", help="predict means over the eight symmetries")
    made.add_argument("--weights", type=Path, help=ENCODER_HELP)
    _add_places(made)
    return made


@cli.when_interrupted(lambda: "finished sections are kept; the same command goes on")
def main(arguments: list[str]) -> None:
    """The command line."""
    known = parser()
    given = known.parse_args(arguments)
    check(known, given)
    run(given)


def check(known: cli.Parser, given: argparse.Namespace) -> None:
    """Raises InputError for options that exclude each other."""
    if given.areas is not None and (twice := known.given & {"spots", *_OF_ARRAY}):
        raise InputError(
            f"--areas says where to predict, and so does --{min(twice).replace('_', '-')}; give one of the two"
        )


def run(given: argparse.Namespace) -> None:
    """Carries out what the options say."""
    array = {name: getattr(given, name) for name in _OF_ARRAY if getattr(given, name) is not None}
    options = Options(
        formats=outputs.default_formats() if given.formats is None else names(given.formats),
        genes=names(given.genes),
        array=dataclasses.replace(grid.PRESETS[given.spots], **array),
        min_tissue=given.min_tissue,
        tile_px=given.tile_px if given.dense else None,
        symmetries=given.symmetries,
        overwrite=given.overwrite,
        weights=given.weights,
        floor=given.floor,
        gene_sets=given.gene_sets,
    )
    source = {"layout": given.layout, "sections": names(given.sections), "um_per_px": given.um_per_px}
    source |= {"areas": given.areas, "elements": given.elements}
    folder, shard = given.workdir or given.model, parse_shard(given.shard)
    written = predict(folder, given.source, given.out, **source, shard=shard, options=options)
    print("results:")
    for path in written:
        print(path)


def _add_places(parser: cli.Parser) -> None:
    """Adds the options that say where to predict, those of maps, and of what to believe."""
    places = parser.add_argument_group("where to predict")
    places.add_argument("--areas", metavar="KIND|FILE", help=_AREAS_HELP)
    places.add_argument(
        "--elements", metavar="KIND=NAME", help="SpatialData: which of several, as stjax build takes it"
    )
    bare = parser.add_argument_group("bare slides")
    bare.add_argument(
        "--spots", default="st", choices=sorted(grid.PRESETS), help="st: 100 um, 200 apart (default); visium: 55, 100"
    )
    bare.add_argument("--spot-um", type=float, help="diameter of the spots, instead of that of --spots")
    bare.add_argument("--pitch-um", type=float, help="from centre to centre, instead of that of --spots")
    bare.add_argument("--pattern", choices=[grid.SQUARE_GRID, grid.HEXAGONAL_GRID], help="instead of that of --spots")
    bare.add_argument(
        "--min-tissue", type=float, default=grid.MIN_TISSUE, help=f"share of a spot, at least ({grid.MIN_TISSUE})"
    )
    maps = parser.add_argument_group("maps of whole slides")
    maps.add_argument("--dense", action="store_true", help="also the map of the whole slide, of a model of tiles")
    maps.add_argument("--tile-px", type=int, default=TILE_PX, help=f"side of the tiles of --dense ({TILE_PX})")
    believed = parser.add_argument_group("what to believe")
    help_of_floor = f"mark genes whose PCC on held-out sections is not shown to reach it ({trust.FLOOR}; docs/trust.md)"
    believed.add_argument("--floor", type=float, metavar="PCC", help=help_of_floor)
    believed.add_argument("--gene-sets", type=Path, help="a GMT file: also scores of its gene sets (docs/trust.md)")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is made of each section.

    Attributes:
        formats: modules of `stjax.outputs`.
        genes: which to write; default the model's main panel.
        array, min_tissue: of bare slides, see `grid.lay_grid`.
        tile_px: write the map of the whole slide too, in tiles of this side; None writes none.
        symmetries: predict means over the eight symmetries (spots, not maps).
        overwrite: replace results of another model or other options.
        weights: of a model of features, the file of its encoder's; default that of its training.
        floor: genes whose library-normalised PCC on held-out sections is not shown to reach it are marked; default
            `trust.FLOOR`, where the model was evaluated.
        gene_sets: a GMT file, whose sets are scored too.
    """

    formats: Sequence[str] = outputs.DEFAULT_FORMATS
    genes: Sequence[str] = ()
    array: grid.Array = grid.PRESETS["st"]
    min_tissue: float = grid.MIN_TISSUE
    tile_px: int | None = None
    symmetries: bool = False
    overwrite: bool = False
    weights: Path | None = None
    floor: float | None = None
    gene_sets: Path | None = None


def predict(
    folder: Path,
    source: Path,
    out: Path,
    *,
    layout: str = "auto",
    sections: Sequence[str] = (),
    um_per_px: float | None = None,
    areas: str | None = None,
    elements: str | None = None,
    shard: tuple[int, int] = (1, 1),
    options: Options = Options(),
) -> list[Path]:
    """Predicts slides or raw sections, one after another, and writes the results of each.

    What is in `out` already, of the same model, slide and options, is not predicted again.

    Args:
        folder: the work directory of the model, or the folder it was exported to.
        source: a slide, a folder of slides, or raw sections; see `stjax.inference.sources.open_source` for `layout`,
            `sections`, `um_per_px`, `areas` and `elements`.
        shard: (i, n), i from 1: every n-th section.

    Returns:
        The files of the results.

    Raises:
        InputError: no trained model, nothing to predict, a gene or format that is not known, results of something else
            in `out`, or sections that cannot be predicted; the others are done by then.
    """
    job = SectionWriter.of(folder, out, options)
    aliases = job.model.fold.parameters["resolve_aliases"]
    reading = {"um_per_px": um_per_px, "areas": areas, "elements": elements, "resolve_aliases": aliases}
    found = open_source(source, layout=layout, sections=sections, **reading)
    mine = found.shard(shard)
    print(f"{source}: {found.about}" + (f", {len(mine.names)} of {len(found.names)}" if shard[1] > 1 else ""))
    if not mine.names:
        print(f"nothing to do for part {shard[0]} of {shard[1]}: there are {len(found.names)} slides or sections")
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    failed: list[str] = []
    for name in mine.names:
        try:
            written += job.run(mine, name)
        except InputError as error:
            if len(mine.names) == 1:
                raise
            failed.append(f"{name}: {error}")
            print(f"left out: {failed[-1]}")
    if job.model.trust is not None:
        written.append(job.write_trust())
    if failed:
        raise InputError(f"{len(failed)} of {len(mine.names)} were not predicted, the others are done; {failed[0]}")
    return written


@dataclasses.dataclass(frozen=True, eq=False)
class SectionWriter:
    """What to do with each section; see `predict`.

    Attributes:
        plain: the model without the mean over symmetries, whose deviation then tells how sure it is.
        writers: the formats' modules, by name.
        columns: [G] of the main panel, the genes to write.
        floor: genes below it are marked.
        gene_sets: to score.
    """

    model: Trained
    plain: Trained | None
    out: Path
    options: Options
    writers: dict[str, ModuleType]
    columns: np.ndarray
    floor: float
    gene_sets: GeneSets | None

    @classmethod
    def of(cls, folder: Path, out: Path, options: Options) -> "SectionWriter":
        """Raises InputError for a folder without a trained model, and for options that do not suit it."""
        writers = outputs.get_formats(options.formats)
        if not writers and not options.tile_px:
            raise InputError(f"--formats names nothing to write; choose some of {', '.join(outputs.format_names())}")
        grid.check(options.array, min_tissue=options.min_tissue)
        system_errors.check_folder(out, "--out")
        plain = trained.load(folder, encoder_weights=options.weights).on_slides
        progress.say(str(folder), plain.progress)
        if caveat := plain.fold.caveat:
            print(f"note: {caveat}")
        floor = trust.check_floor(trust.FLOOR if options.floor is None else options.floor)
        if options.tile_px:
            from stjax.inference.dense import check_maps  # with Flax, which spots of an exported model do without

            check_maps(plain)
        model, spread = symmetric(plain, options.symmetries)
        sets = None if options.gene_sets is None else GeneSets.read(options.gene_sets, model.fold)
        job = cls(model, spread, out, options, writers, gene_columns(model, options.genes), floor, sets)
        print(job.about_trust())
        return job

    def about_trust(self) -> str:
        """What is said first: in which units predictions are, and how many genes are below the floor.

        Raises:
            InputError: a floor is asked for, and how well genes are predicted is not known.
        """
        units = f"units: {FORMULAS[self.model.protocol.target]}"
        if (known := self.model.trust) is None:
            why = f"{self.model.folder} has no {trust.FILE} of such predictions (stjax evaluate writes it)"
            if self.options.floor is not None:
                raise InputError(f"--floor {self.floor:g}: {why}; evaluate the run, or leave out --floor")
            return f"{units}\nnote: which genes to believe is not known: {why}"
        below = int(known.below(self.floor)[self.columns].sum())
        return f"{units}; {below} of {len(self.columns)} genes are below the floor of {self.floor:g} and marked"

    def run(self, source: Source, name: str) -> list[Path]:
        """Predicts one section, unless its results are there; returns their files."""
        section = source.read(files.check_name(name, "Section"))
        busy = f"another process is predicting {name} into {self.out}; wait for it, or choose another --out"
        with files.lock(self.out / f".{name}.lock", busy=busy):
            return self.write_section(section, name, (source.array or self.options.array) if source.bare else None)

    def write_section(self, section: Section, name: str, array: grid.Array | None) -> list[Path]:
        """`run`, of a section that no other process writes meanwhile.

        Args:
            array: of a bare slide, what is laid on its tissue; None where the section has spots.
        """
        record = Record(self.out, name, self.identity(section, array), overwrite=self.options.overwrite)
        missing, tile_px = record.lacks(self.writers), self.options.tile_px
        written: list[Path] = []
        if missing or tile_px:
            with open_image(section) as slide:
                if tile_px:
                    for warning in () if missing else about_image(section, slide):  # else the spots' prediction says it
                        print(f"warning: {warning}")
                    written.append(self.write_dense(section, slide, tile_px))
                if missing:
                    prediction = self.predict(section, slide, array)
                    if self.gene_sets is not None:
                        prediction = with_sets(prediction, self.model, self.gene_sets)
                    for form in missing:
                        record.add(form, self.write(form, prediction))
        done = [*missing, *(["the map"] if tile_px else [])]
        print(f"{name}: " + ("written " + ", ".join(done) if done else "there already"))
        return written + [self.out / file for form in self.writers for file in record.files[form]]

    def identity(self, section: Section, array: grid.Array | None) -> dict[str, Any]:
        """What results are of; those of something else are not taken for them."""
        fold = self.model.fold
        learned = [fold.learned(), fold.protocol_hash, fold.stain_target, fold.image_size_px, fold.um_per_px]
        # The best epoch so far may stay the best: what says "2 of 30 epochs" is not left there once 30 are done.
        of = {} if self.model.progress.finished else {"trained": str(self.model.progress)}
        if (known := self.model.trust) is not None:
            of |= {"trust_sha256": known.sha256, "floor": self.floor}
        if self.gene_sets is not None:
            of |= {"gene_sets_sha256": self.gene_sets.sha256}
        return of | {
            "model_sha256": self.model.model_sha256,
            "training_sha256": json_files.digest(learned),
            "mean_over_symmetries": self.model.protocol.test_symmetries,
            "intervals": None if (intervals := self.model.intervals) is None else intervals.to_json(),
            "genes": fold.panel.labels[self.columns].tolist(),
            "slide_sha256": files.sha256(section.image_path),
            "um_per_px": section.um_per_px,
            "spots": dataclasses.asdict(array) | {"min_tissue": self.options.min_tissue}
            if array
            else spots_sha256(section),
        }

    def write_dense(self, section: Section, slide: Slide, tile_px: int) -> Path:
        """The map of the whole slide."""
        from stjax.inference.dense import predict_dense

        return predict_dense(
            self.model,
            slide,
            self.out / f"{section.name}.ome.zarr",
            um_per_px=section.um_per_px,
            genes=self.columns,
            tile_px=tile_px,
            synthetic=section.synthetic,
        )

    def predict(self, section: Section, slide: Slide, array: grid.Array | None) -> SectionPrediction:
        """Predicts the section's spots, or of a bare slide those laid on its tissue."""
        if array is None:
            outputs.require_space(self.out, len(section.spots) * len(self.columns) * _LEAST_BYTES)
            return predict_slide(self.model, section, slide, plain=self.plain, floor=self.floor)
        section, laid = lay_spots(self.model, section, slide, array, min_tissue=self.options.min_tissue)
        spacing = f"{array.spot_um:g} um, {array.pitch_um:g} um apart"
        print(f"{section.name}: {counted(len(laid), 'spots')} of {spacing}, on tissue")
        outputs.require_space(self.out, len(laid) * len(self.columns) * _LEAST_BYTES)
        how = {"plain": self.plain, "floor": self.floor}
        return predict_slide(self.model, section, slide, columns=laid.columns, **how)

    def write_trust(self) -> Path:
        """The table of the genes written, with the mark, next to the predictions."""
        from stjax.tables import write_csv  # with pandas

        assert self.model.trust is not None
        table = self.model.trust.marked(self.floor).iloc[self.columns]
        write_csv(self.out / trust.FILE, table)
        return self.out / trust.FILE

    def write(self, form: str, prediction: SectionPrediction) -> list[str]:
        """Writes one format; returns the files' names."""
        writer = self.writers[form]
        shown = outputs.drawn(prediction.expression, self.columns, asked=bool(self.options.genes))
        labels = self.model.fold.panel.labels
        files = {f"{prediction.section}{writer.SUFFIX}": int(shown[0])}
        if getattr(writer, "ONE_GENE", False):
            files = {
                f"{prediction.section}_{outputs.file_name(str(labels[gene]))}{writer.SUFFIX}": int(gene)
                for gene in shown
            }
        for file, gene in files.items():
            writer.write(self.out / file, prediction, self.model, genes=self.columns, shown=gene)
        if prediction.gene_sets is None or not getattr(writer, "ONE_GENE", False):
            return list(files)
        from stjax.outputs import _map  # with Matplotlib

        return [*files, *_map.write_sets(self.out, prediction, self.model, suffix=writer.SUFFIX)]


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/4" to (2, 4). Raises InputError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise InputError(f"--shard is {text!r}, expected i/n with i from 1 to n")
    return part


if __name__ == "__main__":
    cli.program(main)
