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

from data_prep import cli
from data_prep.cli import names
from data_prep.errors import InputError
from stjax import outputs, trust
from stjax.inference import grid
from stjax.inference.dense_format import TILE_PX
from stjax.inference.sources import open_source
from stjax.section_writer import Options, SectionWriter
from stjax.trained import ENCODER_HELP

_OF_ARRAY = ("spot_um", "pitch_um", "pattern")
_DEFAULTS = Options()
_AREAS_HELP = (
    "of slides: squares:100, discs:55:100 (um), a file of polygons (GeoJSON, image of labels) or a folder of "
    "<slide>.geojson; of a layout: as stjax build takes it"
)


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
    options: Options = _DEFAULTS,
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


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/4" to (2, 4). Raises InputError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise InputError(f"--shard is {text!r}, expected i/n with i from 1 to n")
    return part


if __name__ == "__main__":
    cli.program(main)
