"""A model on the spots of one slide: windows cut, matched in scale and stain, predicted, and compared with training."""

from collections.abc import Callable

import numpy as np

from data_prep import checks, cli, files, patches, tiles
from data_prep.errors import InputError
from data_prep.section import DISC, POLYGON, Section
from data_prep.slide import Slide
from data_prep.tissue import Transform
from stjax import metrics
from stjax.data.tile_records import TileTables
from stjax.inference import domain, stream
from stjax.inference.dense import px_scale_of, scale_and_stain
from stjax.inference.prediction import SectionPrediction, gene_names
from stjax.inference.predictor import Predictor
from stjax.inference.sources import SLIDES
from stjax.ops.spot_pool import Shapes

HIRES_PX = 2000  # longer side of the slide's picture, as Space Ranger's
_NAMED = 5  # genes that a warning names
LEGACY_LAYOUTS = ("her2st", "stnet", "cscc")


def window_px(model: Predictor, um_per_px: float) -> float:
    """Side of what must lie inside the image around a spot, full-resolution pixels; 0 of a model of tiles."""
    return 0.0 if model.data.tiles is not None else model.data.image_size_px * px_scale_of(model, um_per_px)


def predict_slide(
    model: Predictor, section: Section, slide: Slide, *, plain: Predictor | None = None
) -> SectionPrediction:
    """Predicts every spot of a section: of a model of patches, those whose whole window lies inside the image.

    Prints warnings when the slide is far from what the model was trained on.

    Args:
        plain: where `model` means over the eight symmetries, the model that does not; a model of patches then gives
            the layer "symmetry_sd" too, the predictions' standard deviation over them.

    Raises:
        InputError: a slide far too coarse for the model, or no spot that can be predicted.
    """
    warnings = domain.check_scale(model, slide, section.um_per_px) + about_image(section, slide)
    px_scale, transform = scale_and_stain(model, slide, section.um_per_px)
    warnings += domain.check_species(model, section)
    warnings += domain.check_stain(slide, transform)
    if transform is not None:
        transform(np.zeros((1, 1, 3), np.uint8))  # makes its table before threads share it
    colours = domain.Colours()
    if model.data.tiles is None:
        inside = _inside(model, section, slide, px_scale)
        found = of_patches(model, section, slide, inside, px_scale, transform, colours=colours, plain=plain)
    else:
        inside, found = _of_tiles(model, section, slide, px_scale, transform, colours=colours)
    warnings += colours.check(model, slide) + constant_warnings(model, slide, found["expression"])
    for warning in warnings:
        print(f"warning: {warning}")
    return _as_prediction(model, section, slide, inside, found)


def constant_warnings(model: Predictor, slide: Slide, expression: np.ndarray) -> list[str]:
    """Warnings about genes that are predicted the same at every spot: [S, M] expression of a slide."""
    constant = metrics.constant(expression)
    count, genes = int(constant.sum()), len(constant)
    if not count:
        return []
    which = gene_names(model.data.panel)[constant][:_NAMED].tolist()
    named = "" if count == genes else f" ({', '.join(which)}{', ...' if count > len(which) else ''})"
    return [
        f"{slide.path.name}: {count} of {genes} genes do not vary over the spots of this slide{named}: "
        "the model says the same everywhere, whatever the image"
    ]


def about_image(section: Section, slide: Slide) -> list[str]:
    """Warnings about the image, its scale, and how spots that were measured lie on it; prints what is less.

    Raises:
        InputError: they do not lie on this image, or not at this scale.
    """
    bare = section.layout == SLIDES
    problems = checks.of_image(slide, section.um_per_px) if bare else checks.placed(section, slide)
    if errors := [problem.text for problem in problems if problem.level == checks.ERROR]:
        raise InputError(
            f"Section {section.name!r}: {'; '.join(errors)}; if you know the scale, state it with --um_per_px"
        )
    notes = [*(section.notes if bare else ()), *(problem.text for problem in problems if problem.level == checks.NOTE)]
    for text in notes:
        print(f"note: {slide.path.name}: {text}")
    return [f"{slide.path.name}: {problem.text}" for problem in problems if problem.level == checks.WARNING]


def _inside(model: Predictor, section: Section, slide: Slide, px_scale: float) -> np.ndarray:
    """[N] bool: the spots whose whole window lies inside the image."""
    size = model.data.image_size_px
    inside = patches.inside_mask(slide, section.spot_xy, patch_size_px=size, px_scale=px_scale)
    if not inside.all():
        print(f"note: section {section.name}: {int((~inside).sum())} spots too near the border are not predicted")
    if not inside.any():
        raise InputError(
            f"Section {section.name!r}: no spot has its whole {size} px window inside the image; "
            "check scale and coordinates with python -m data_prep.check"
        )
    return inside


def of_patches(
    model: Predictor,
    section: Section,
    slide: Slide,
    inside: np.ndarray,
    px_scale: float,
    transform: Transform | None,
    *,
    colours: domain.Colours,
    plain: Predictor | None,
) -> dict[str, np.ndarray]:
    """A model of patches on the spots `inside`: {"expression": [S, M], and "symmetry_sd" [S, M] with `plain`}."""
    xy, size = section.spot_xy[inside], model.data.image_size_px
    order = stream.reading_order(slide, xy, window_px=size * px_scale)
    origins = patches.patch_origins(xy[order], patch_size_px=size, px_scale=px_scale)
    cut = _cutter(slide, size, px_scale, transform)
    images = colours.watched(stream.ahead(cut, origins, most=stream.batch_size(model) + stream.THREADS))
    images = cli.progress(images, total=len(xy), description=section.name, unit="spot")
    if plain is None:
        parts = ({"expression": part} for part in stream.predict_patches(model, images, len(xy)))
    else:
        parts = stream.predict_symmetries(plain, images, len(xy))
    result: dict[str, np.ndarray] = {}
    done = 0
    for part in parts:
        for name, values in part.items():
            rows = order[done : done + len(values)]
            result.setdefault(name, np.empty((len(xy), values.shape[1]), np.float32))[rows] = values
        done += len(part["expression"])
    return result


def _of_tiles(
    model: Predictor,
    section: Section,
    slide: Slide,
    px_scale: float,
    transform: Transform | None,
    *,
    colours: domain.Colours,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A model of tiles on the spots of a section.

    Returns:
        [N] bool, the spots that cover a pixel of the slide, and of those {"expression": [S, M], and from a model of
        rates "total" [S], their expected reads}.
    """
    size = model.data.image_size_px
    rows = np.arange(len(section.spot_id))
    reach = float(section.spots.reach_px().max(initial=0)) / px_scale
    margin = tiles.context_px(section.name, size, reach, model.data.parameters["context_px"])
    origins, members = tiles.lay_out(section.spot_xy, rows, size_px=size, context_px=margin, px_scale=px_scale)
    side = size * px_scale
    in_order = stream.reading_order(slide, origins + side / 2, window_px=side)
    origins, members = origins[in_order], [members[tile] for tile in in_order]

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
    cut = _cutter(slide, size, px_scale, transform)
    images = colours.watched(stream.ahead(cut, origins, most=stream.batch_size(model) + stream.THREADS))
    found = list(stream.predict_tiles(model, tables, lambda _: next(images), section.name))
    order, covers = np.concatenate(members), np.concatenate(tables.pixels) > 0
    if not covers.all():
        print(f"note: section {section.name}: {int((~covers).sum())} spots cover no pixel and are not predicted")
    inside = np.zeros(len(rows), bool)
    inside[order] = covers
    result = {}
    for name in found[0]:
        values = np.concatenate([tile[name] for tile in found])
        by_spot = np.empty_like(values)
        by_spot[order] = values
        result[name] = by_spot[inside]
    return inside, result


def _cutter(
    slide: Slide, size_px: int, px_scale: float, transform: Transform | None
) -> Callable[[np.ndarray], np.ndarray]:
    def cut(origin: np.ndarray) -> np.ndarray:
        return patches.cut_window(slide, origin, size_px=size_px, px_scale=px_scale, transform=transform)[0]

    return cut


def _as_prediction(
    model: Predictor, section: Section, slide: Slide, inside: np.ndarray, found: dict[str, np.ndarray]
) -> SectionPrediction:
    rows = np.flatnonzero(inside)
    truth, total = _measured(model, section, rows)
    thumbnail = slide.thumbnail(HIRES_PX)
    image_sha256 = files.sha256(section.image_path)
    kind, size = section.spot_kind[rows], section.spot_size_px[rows].astype(np.float64)
    size_um = np.where(kind == DISC, 2, 1) * size * section.um_per_px
    polygons = {int(place): section.polygons[int(size[place])] for place in np.flatnonzero(kind == POLYGON)}
    for place, ring in polygons.items():
        size_um[place] = 2 * np.sqrt(_area(ring) / np.pi) * section.um_per_px  # of the disc of the same area
    layers = {name: values for name, values in found.items() if name not in ("expression", "total")}
    if (intervals := model.intervals) is not None:
        layers |= intervals.layers(found["expression"], None if model.data.tiles is None else size_um)
    return SectionPrediction(
        section=section.name,
        patient=section.patient,
        spot_id=section.spot_id[rows],
        spot_xy=section.spot_xy[rows],
        spot_radius_px=float(np.median(size_um)) / 2 / section.um_per_px,
        spot_size_um=size_um,
        slide=image_sha256,
        um_per_px=section.um_per_px,
        expression=found["expression"],
        truth=truth,
        synthetic=section.synthetic,
        total=total,
        data_sha256=image_sha256,
        thumbnail=thumbnail,
        thumbnail_scale=thumbnail.shape[1] / slide.width,
        predicted_total=found.get("total"),
        spot_kind=kind,
        polygons=polygons,
        layers=layers,
    )


def _measured(model: Predictor, section: Section, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """[S, M] measured expression, None of a bare slide, and [S] reads, then NaN."""
    if section.layout == SLIDES:
        return None, np.full(len(rows), np.nan)
    panel = model.data.panel
    counts = section.counts[rows]
    columns = panel.columns(section.genes)[: panel.num_main]
    # Legacy count files leave out genes without any count; elsewhere a gene that is not there was not measured.
    missing = 0.0 if section.layout in LEGACY_LAYOUTS else np.nan
    measured = np.full((len(rows), panel.num_main), missing)
    measured[:, columns >= 0] = counts[:, columns[columns >= 0]].toarray()
    total = np.asarray(counts.sum(axis=1), np.float64)
    return model.protocol.transform(measured, total[:, None], panel.num_genes), total


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
