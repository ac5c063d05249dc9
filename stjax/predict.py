"""Predicts expression for the spots of raw sections, opened the way preparation opens them.

usage: python -m stjax.predict --workdir=DIR --source=DIR --out=DIR [--sections=A,B] [--genes=ERBB2,FASN]

writes <out>/<section>.h5ad (predictions in X, measured expression, where there is any, in layers["truth"]) and
<out>/<section>_<gene>.png: one gene over the tissue, truth and prediction side by side. With --dense, of a model of
tiles, also <out>/<section>.ome.zarr: the map of the whole slide, a channel a gene (docs/dense.md)

examples:
  python -m stjax.predict --workdir=runs/enet_b0_aux --source=raw/her2st --out=predictions --sections=C5
  python -m stjax.predict --workdir=runs/enet_b0_aux --source=raw/her2st --out=predictions --genes=ERBB2,GNAS
  python -m stjax.predict --workdir=runs/pixnet --source=raw/her2st --out=predictions --sections=C5 --dense
"""

import argparse
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import cli, patches, readers, tiles
from data_prep.errors import InputError
from data_prep.section import DISC, POLYGON, Section
from data_prep.slide import Slide, file_sha256, open_slide
from stjax import predictor, writer
from stjax.config import names
from stjax.dense import TILE_PX, predict_dense, scale_and_stain
from stjax.ops.spot_pool import Shapes
from stjax.predictor import Predictor
from stjax.tile_records import TileTables

THUMBNAIL_PX = 1000
LEGACY_LAYOUTS = ("her2st", "stnet")


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stjax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path, help="a run of stjax.train")
    parser.add_argument("--source", required=True, type=Path, help="raw sections in a layout data_prep reads")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--layout", default="auto", help="the source's layout; recognised when left out")
    parser.add_argument("--sections", default="", help="comma-separated; default all whose files are complete")
    parser.add_argument("--genes", default="", help="comma-separated symbols or Ensembl ids; default the main panel")
    parser.add_argument("--um_per_px", type=float, help="the slides' scale, where nothing else tells it")
    parser.add_argument("--dense", action="store_true", help="also the map of the whole slide, of a model of tiles")
    parser.add_argument("--tile_px", type=int, default=TILE_PX, help=f"side of the tiles of --dense ({TILE_PX})")
    parser.add_argument("--symmetries", action="store_true", help="predict means over the eight symmetries")
    given = parser.parse_args(arguments)
    written = predict(
        given.workdir,
        given.source,
        given.out,
        layout=given.layout,
        sections=names(given.sections),
        genes=names(given.genes),
        um_per_px=given.um_per_px,
        dense=given.dense,
        tile_px=given.tile_px,
        symmetries=given.symmetries,
    )
    print("results:")
    for path in written:
        print(path)


def predict(
    folder: Path,
    source: Path,
    out: Path,
    *,
    layout: str = "auto",
    sections: Sequence[str] = (),
    genes: Sequence[str] = (),
    um_per_px: float | None = None,
    dense: bool = False,
    tile_px: int = TILE_PX,
    symmetries: bool = False,
) -> list[Path]:
    """Predicts the spots of raw sections and writes a file and a picture a section.

    Args:
        folder: the work directory of the model.
        source: raw sections.
        genes: which to write; default the model's main panel.
        dense: write the map of each whole slide too, in tiles of `tile_px`.
        symmetries: predict means over the eight symmetries (spots, not maps).

    Returns:
        The files written.

    Raises:
        InputError: no trained model, unreadable sections, a gene the model does not know.
    """
    model = predictor.load(folder)
    model = model.over_symmetries() if symmetries else model
    columns = gene_columns(model, genes)
    reader, reason = readers.find_layout(source, layout)
    print(f"{source}: {reader.__name__.rpartition('.')[2]} ({reason})")
    options: dict[str, Any] = {"um_per_px": um_per_px, "resolve_aliases": model.data.parameters["resolve_aliases"]}
    chosen = reader.list_sections(source, sections=list(sections) or None, skip_incomplete=not sections, **options)
    for name, lack in reader.find_sections(source, **options).items():
        if lack and not sections:
            print(f"left out: section {name}: {lack}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out} is no folder; choose another") from None
    written = []
    for name in chosen:
        section = reader.read_section(source, name, **options)
        with open_slide(section.image_path) as slide:
            prediction = predict_slide(model, section, slide)
            if dense:
                dense_map = predict_dense(
                    model,
                    slide,
                    out / f"{name}.ome.zarr",
                    um_per_px=section.um_per_px,
                    genes=columns,
                    tile_px=tile_px,
                    synthetic=section.synthetic,
                )
                written.append(dense_map)
        path = out / f"{name}.h5ad"
        writer.write_h5ad(path, prediction, model, genes=columns)
        gene = int(columns[np.argmax(prediction.expression[:, columns].std(axis=0))])
        picture = out / f"{name}_{writer.file_name(writer.gene_names(model.data.panel)[gene])}.png"
        writer.write_map(picture, prediction, model, gene=gene)
        written += [path, picture]
    return written


def gene_columns(model: Predictor, genes: Sequence[str]) -> np.ndarray:
    """[G] columns of the main panel, by symbol or Ensembl id. Raises InputError with the nearest names."""
    panel = model.data.panel
    if not genes:
        return np.arange(panel.num_main)
    place = {str(name): column for column, name in enumerate(panel.ensembl_id[: panel.num_main]) if name}
    place |= {str(name): column for column, name in enumerate(writer.gene_names(panel))}
    for gene in genes:
        if gene not in place:
            near = ", ".join(difflib.get_close_matches(gene, list(place), n=3, cutoff=0.4)) or "none"
            raise InputError(f"the model does not predict gene {gene!r}; nearest names: {near}")
    return np.array([place[gene] for gene in genes])


def predict_slide(model: Predictor, section: Section, slide: Slide) -> writer.SectionPrediction:
    """Predicts every spot of a section: of a model of patches, those whose whole window lies inside the image."""
    data = model.data
    px_scale, transform = scale_and_stain(model, slide, section.um_per_px)
    if data.tiles is None:
        inside = patches.inside_mask(slide, section.spot_xy, patch_size_px=data.image_size_px, px_scale=px_scale)
        if not inside.all():
            print(f"note: section {section.name}: {int((~inside).sum())} spots too near the border are not predicted")
        if not inside.any():
            raise InputError(
                f"Section {section.name!r}: no spot has its whole {data.image_size_px} px window inside the image; "
                "check scale and coordinates with python -m data_prep.check"
            )
        images = patches.cut_patches(
            slide,
            section.spot_xy[inside],
            patch_size_px=data.image_size_px,
            px_scale=px_scale,
            transform=transform,
        )
        images = cli.progress(images, total=int(inside.sum()), description=section.name, unit="spot")
        expression = np.concatenate(list(predict_patches(model, images, int(inside.sum()))))
    else:
        inside, expression = predict_section_tiles(model, section, slide, px_scale=px_scale, transform=transform)
    xy = section.spot_xy[inside]
    counts = section.counts[inside]
    columns = data.panel.columns(section.genes)[: data.panel.num_main]
    # Legacy count files leave out genes without any count; elsewhere a gene that is not there was not measured.
    missing = 0.0 if section.layout in LEGACY_LAYOUTS else np.nan
    measured = np.full((len(xy), data.panel.num_main), missing)
    measured[:, columns >= 0] = counts[:, columns[columns >= 0]].toarray()
    total = np.asarray(counts.sum(axis=1), np.float64)[:, None]
    thumbnail = slide.thumbnail(THUMBNAIL_PX)
    discs = section.spot_size_px[section.spot_kind == DISC]
    image_sha256 = file_sha256(section.image_path)
    radius = float(np.median(discs)) if len(discs) else 50 / section.um_per_px
    return writer.SectionPrediction(
        section=section.name,
        patient=section.patient,
        spot_id=section.spot_id[inside],
        spot_xy=xy,
        spot_radius_px=radius,
        spot_size_um=np.full(len(xy), 2 * radius * section.um_per_px),
        slide=image_sha256,
        um_per_px=section.um_per_px,
        expression=expression,
        truth=model.protocol.transform(measured, total, data.panel.num_genes),
        synthetic=section.synthetic,
        total=total[:, 0],
        data_sha256=image_sha256,
        thumbnail=thumbnail,
        thumbnail_scale=thumbnail.shape[1] / slide.width,
    )


def predict_section_tiles(
    model: Predictor, section: Section, slide: Slide, *, px_scale: float, transform: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A model of tiles on the spots of a raw section.

    Returns:
        [N] bool, the spots that cover a pixel of the slide, and [S, M] their expression.
    """
    size = model.data.image_size_px
    rows = np.arange(len(section.spot_id))
    reach = tiles.spot_reach_px(section, rows) / px_scale
    margin = tiles.context_px(section.name, size, reach, model.data.parameters["context_px"])
    origins, members = tiles.lay_out(section.spot_xy, rows, size_px=size, context_px=margin, px_scale=px_scale)

    def shapes_of(origin: np.ndarray, spots: np.ndarray) -> Shapes:
        # Coordinates count from the image's corner, shapes' from the first pixel's centre.
        kind = section.spot_kind[spots]
        size_px = section.spot_size_px[spots].astype(np.float64) / px_scale
        is_polygon = kind == POLYGON
        rings = (section.polygons[int(section.spot_size_px[spot])] for spot in spots[is_polygon])
        outlines = [(ring - origin) / px_scale - 0.5 for ring in rings]
        size_px[is_polygon] = np.arange(len(outlines))
        return Shapes(kind, (section.spot_xy[spots] - origin) / px_scale - 0.5, size_px, tuple(outlines))

    tables = TileTables([shapes_of(*tile) for tile in zip(origins, members, strict=True)], size_px=size)

    def image(tile: int) -> np.ndarray:
        window = patches.cut_window(slide, origins[tile], size_px=size, px_scale=px_scale, transform=transform)
        return window[0]

    found = np.concatenate([each["expression"] for each in predict_tiles(model, tables, image, section.name)])
    order, covers = np.concatenate(members), np.concatenate(tables.pixels) > 0
    if not covers.all():
        print(f"note: section {section.name}: {int((~covers).sum())} spots cover no pixel and are not predicted")
    expression = np.empty_like(found)
    expression[order] = found
    inside = np.zeros(len(rows), bool)
    inside[order] = covers
    return inside, expression[inside]


def predict_tiles(
    model: Predictor, tables: TileTables, image: Callable[[int], np.ndarray], description: str
) -> Iterator[dict[str, np.ndarray]]:
    """Streams tiles through the model; yields each tile's {"expression": [S, M] float32, and "total" [S] of rates}.

    Args:
        tables: the tiles' spots.
        image: gives tile i, [H, W, 3] uint8.
    """
    size = model.batch_size
    count = len(tables.pixels)
    with cli.progress(total=count, description=description, unit="tile") as bar:
        for start in range(0, count, size):
            index = range(start, min(start + size, count))
            images = np.stack([image(tile) for tile in index])
            images = np.pad(images, [(0, size - len(index)), (0, 0), (0, 0), (0, 0)])
            batch = {"image": images, "spots": tables.stacked(index, size)}
            outputs = {name: np.asarray(value) for name, value in model.predict(batch).items()}
            for place, tile in enumerate(index):
                spots = len(tables.pixels[tile])
                yield {name: value[place, :spots] for name, value in outputs.items()}
            bar.update(len(index))


def predict_patches(model: Predictor, images: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Streams [H, W, 3] uint8 patches through the model; yields [B, M] float32 in the protocol's expression units."""
    size = model.batch_size
    batch: list[np.ndarray] = []
    for position, image in enumerate(images, start=1):
        batch.append(image)
        if len(batch) == size or position == count:
            padded = np.zeros((size, *image.shape), np.uint8)
            padded[: len(batch)] = batch
            yield np.asarray(model.predict({"image": padded})["expression"])[: len(batch), 0]
            batch.clear()


if __name__ == "__main__":
    cli.run(main)
