"""A model on the spots of one slide: windows cut, matched in scale and stain, predicted, and compared with training."""

import dataclasses
import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from data_prep import checks, files, patches
from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.slide import Slide
from data_prep.tissue import Transform
from stjax import metrics
from stjax.data.items import Windows, filled
from stjax.features.images import SlideWindows
from stjax.inference import domain, grid, stream
from stjax.inference.matching import px_scale_of, scale_and_stain
from stjax.inference.prediction import DISTANCE, WIDENED, SectionPrediction
from stjax.inference.prediction import FLOOR as MARKED
from stjax.inference.sources import SLIDES, place_spots
from stjax.intervals import Intervals
from stjax.trained import Trained
from stjax.trust import FLOOR
from stjax.views import Cut

HIRES_PX = 2000  # longer side of the slide's picture, as Space Ranger's
_NAMED = 5  # genes that a warning names
LEGACY_LAYOUTS = ("her2st", "stnet", "cscc")


def window_px(model: Trained, um_per_px: float) -> float:
    """Side of what must lie inside the image around a spot, full-resolution pixels."""
    return model.view.window_px(model.fold, px_scale_of(model, um_per_px))


def lay_spots(
    model: Trained, section: Section, slide: Slide, array: grid.Array, *, min_tissue: float
) -> tuple[Section, grid.Grid]:
    """A bare slide's section with spots on its tissue that the model can predict; see `grid.lay_grid`.

    Raises:
        InputError: a slide far too coarse for the model, or no spot on tissue.
    """
    domain.check_scale(model, slide, section.um_per_px)  # before tissue is looked for at a scale that cannot be
    window = window_px(model, section.um_per_px)
    return place_spots(section, slide, array, min_tissue=min_tissue, window_px=window)


def symmetric(plain: Trained, symmetries: bool) -> tuple[Trained, Trained | None]:
    """The model that predicts, which means over the eight symmetries where that is asked for; and as `plain` of
    `predict_slide` the one that does not, where its deviation then tells how sure it is."""
    if not symmetries:
        return plain, None
    return plain.over_symmetries(), None if plain.protocol.test_symmetries else plain


def predict_slide(
    model: Trained,
    section: Section,
    slide: Slide,
    *,
    plain: Trained | None = None,
    columns: Mapping[str, np.ndarray] = MappingProxyType({}),
    floor: float = FLOOR,
) -> SectionPrediction:
    """Predicts every spot of a section whose window, where its view has one, lies inside the image.

    Prints warnings when the slide is far from what the model was trained on.

    Args:
        plain: where `model` means over the eight symmetries, the model that does not; one of single spots then gives
            the layer "symmetry_sd" too, the predictions' standard deviation over them.
        columns: what else is known of each of the section's spots: its place in the array, for instance.
        floor: genes below it are marked (`stjax.trust`).

    Raises:
        InputError: a slide far too coarse for the model, or no spot that can be predicted.
    """
    warnings = domain.check_scale(model, slide, section.um_per_px * slide.patch_scale) + about_image(section, slide)
    px_scale, transform = scale_and_stain(model, slide, section.um_per_px)
    warnings += domain.check_species(model, section)
    warnings += domain.check_stain(slide, transform)
    if transform is not None:
        transform(np.zeros((1, 1, 3), np.uint8))  # makes its table before threads share it
    colours = domain.Colours()
    cut = model.view.cut(model.fold, section, slide, px_scale)
    if model.embedder is not None:
        cut = _embedded(model, cut, section, slide, px_scale, transform, colours)
    spread = plain if model.view.one_spot else None
    found = predict_cut(model, cut, slide, px_scale, transform, section.name, colours=colours, plain=spread)
    warnings += colours.check(model, slide) + constant_warnings(model, slide, found["expression"])
    for warning in warnings:
        print(f"warning: {warning}")
    facts = {DISTANCE: domain.distance(colours.mean, model.fold)} if colours.count else {}
    return trusted(_as_prediction(model, section, slide, cut, found, columns, facts), model, floor)


def of_expression(model: Trained, section: Section, slide: Slide, expression: np.ndarray) -> SectionPrediction:
    """What was predicted of every spot of a section in another way: [S, M] in the protocol's units."""
    rows = np.arange(len(expression))
    cut = Cut(Windows(np.arange(len(rows) + 1)), np.zeros((0, 2)), rows, np.ones(len(rows), bool))
    return trusted(_as_prediction(model, section, slide, cut, {"expression": expression}, {}, {}), model)


def _embedded(
    model: Trained,
    cut: Cut,
    section: Section,
    slide: Slide,
    px_scale: float,
    transform: Transform | None,
    colours: domain.Colours,
) -> Cut:
    """The items of a slide with what the model's encoder makes of the windows around each spot."""
    from stjax.inference import embedding  # with Flax, which not every exported model needs

    assert model.embedder is not None
    options: dict[str, Any] = {"size_px": model.fold.image_size_px, "px_scale": px_scale, "transform": transform}
    options |= {name: model.fold.facts[name] for name in ("context", "fields") if name in model.fold.facts}
    windows = SlideWindows(slide, section.spots.xy[cut.spots], **options)
    title = f"{section.name}: {model.view.encoder}"
    vectors = embedding.vectors_of(model.embedder, windows, description=title, watch=colours.watch)
    return model.view.with_vectors(cut, vectors, windows.inside)


def constant_warnings(model: Trained, slide: Slide, expression: np.ndarray) -> list[str]:
    """Warnings about genes that are predicted the same at every spot: [S, M] expression of a slide."""
    constant = metrics.constant(expression)
    count, genes = int(constant.sum()), len(constant)
    if not count:
        return []
    which = model.fold.panel.labels[constant][:_NAMED].tolist()
    named = "" if count == genes else f" ({', '.join(which)}{', ...' if count > len(which) else ''})"
    return [
        f"{slide.path.name}: {count} of {genes} genes do not vary over the spots of this slide{named}: "
        "the model predicts the same value everywhere, whatever the image"
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
            f"Section {section.name!r}: {'; '.join(errors)}; if you know the scale, state it with --source-um-per-px"
        )
    notes = [*(section.notes if bare else ()), *(problem.text for problem in problems if problem.level == checks.NOTE)]
    for text in notes:
        print(f"note: {slide.path.name}: {text}")
    return [f"{slide.path.name}: {problem.text}" for problem in problems if problem.level == checks.WARNING]


def predict_cut(
    model: Trained,
    cut: Cut,
    slide: Slide,
    px_scale: float,
    transform: Transform | None,
    name: str,
    *,
    colours: domain.Colours,
    plain: Trained | None,
) -> dict[str, np.ndarray]:
    """A model on the items of a slide.

    Args:
        name: of the section, for the progress bar.

    Returns:
        Of the spots of `cut` that are known, in the section's order: {"expression": [S, M], from a model of rates
        "total" [S], and "symmetry_sd" [S, M] with `plain`}.
    """
    size = model.fold.image_size_px

    def window(origin: np.ndarray) -> np.ndarray:
        return patches.cut_window(slide, origin, size_px=size, px_scale=px_scale, transform=transform)[0]

    images = stream.ahead(window, cut.origin_xy, most=stream.batch_size(model) + stream.THREADS)
    images = colours.watched(images)

    def image(item: int) -> np.ndarray:
        if not cut.stacked:
            return next(images)
        rows = cut.windows.rows(item)
        stack = list(itertools.islice(images, rows.stop - rows.start))
        return filled(np.stack(stack), cut.windows.most_spots) if stack else np.zeros(0, np.uint8)

    stream_of = stream.predict if plain is None else stream.predict_symmetries
    parts = list(stream_of(plain or model, cut.windows, image, name))
    order = np.argsort(cut.spots, kind="stable")
    order = order[cut.known[order]]
    return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}


def _as_prediction(
    model: Trained,
    section: Section,
    slide: Slide,
    cut: Cut,
    found: dict[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
    facts: Mapping[str, float],
) -> SectionPrediction:
    rows = np.sort(cut.spots[cut.known])
    truth, total = _measured(model, section, rows)
    thumbnail = slide.thumbnail(HIRES_PX)
    image_sha256 = files.sha256(section.image_path)
    spots = section.spots[rows]
    layers = {name: values for name, values in found.items() if name not in ("expression", "total")}
    prediction = SectionPrediction(
        section=section.name,
        patient=section.patient,
        spots=spots,
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
        layers=layers,
        columns={name: values[rows] for name, values in columns.items()},
        facts=facts,
    )
    return prediction if (intervals := model.intervals) is None else within(prediction, intervals, model)


def within(prediction: SectionPrediction, intervals: Intervals, model: Trained) -> SectionPrediction:
    """The prediction with the ends of its intervals as layers, widened for a section unlike those they are of."""
    factor = intervals.factor(prediction.facts.get(DISTANCE, 0.0), prediction.depth)
    ends = intervals.layers(prediction.expression, prediction.size_um if model.view.any_size else None, factor)
    rests_on = {"interval_patients": intervals.patients, "interval_guaranteed": intervals.guaranteed_level}
    facts = {**prediction.facts, WIDENED: factor, **rests_on} if ends else prediction.facts
    return dataclasses.replace(prediction, layers={**prediction.layers, **ends}, facts=facts)


def trusted(prediction: SectionPrediction, model: Trained, floor: float = FLOOR) -> SectionPrediction:
    """The prediction with what is known of each gene, where the model was evaluated."""
    if (trust := model.trust) is None:
        return prediction
    return dataclasses.replace(prediction, genes=trust.columns(floor), facts={**prediction.facts, MARKED: floor})


def _measured(model: Trained, section: Section, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """[S, M] measured expression, and [S] total counts; None and NaN where no gene was measured."""
    if not len(section.genes):
        return None, np.full(len(rows), np.nan)
    panel = model.fold.panel
    counts = section.counts[rows]
    columns = panel.columns(section.genes)[: panel.num_main]
    # Legacy count files leave out genes without any count; elsewhere a gene that is not there was not measured.
    missing = 0.0 if section.layout in LEGACY_LAYOUTS else np.nan
    measured = np.full((len(rows), panel.num_main), missing)
    measured[:, columns >= 0] = counts[:, columns[columns >= 0]].toarray()
    total = np.asarray(counts.sum(axis=1), np.float64)
    return model.protocol.transform(measured, total[:, None], panel.num_genes), total
