"""Whether reading a slide keeps a model waiting: `python -m stjax.bench --what=predict --workdir=RUN --source=SLIDE`.

The same number of patches goes through the model twice: as one batch that lies ready, again and again, the reference;
and cut from the slide, from its tissue, as prediction does it: decoded, matched in scale and stain, on the way while
the model computes.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import InputError
from data_prep.slide import open_slide
from stjax import trained
from stjax.benchmarks import Interleave, Row, row_of
from stjax.inference import domain, grid, matching, slide_prediction, sources, stream

PATCHES = 512


def rows(model_folder: Path, source: Path, rounds: int, interleave: Interleave) -> Iterator[Row]:
    """A row each of the bare model and of the model with the slide behind it."""
    model = trained.load(model_folder).on_slides
    if not model.view.one_spot:
        raise InputError(
            f"{model_folder} is a model of {model.view.items}; --what=predict times models of single spots"
        )
    found = sources.open_source(source, layout=sources.SLIDES, sections=(), um_per_px=None, resolve_aliases=False)
    section = found.read(found.names[0])
    with open_slide(section.image_path) as slide:
        window = slide_prediction.window_px(model, section.um_per_px)
        section, _ = sources.place_spots(
            section, slide, grid.PRESETS["st"], min_tissue=grid.MIN_TISSUE, window_px=window
        )
        rows = np.sort(np.lexsort(section.spots.xy.T)[:PATCHES])
        section = dataclasses.replace(section, counts=section.counts[rows], spots=section.spots[rows])
        px_scale, transform = matching.scale_and_stain(model, slide, section.um_per_px)
        cut = model.view.cut(model.fold, section, slide, px_scale)
        count, size = len(cut.windows), stream.batch_size(model)
        side = model.fold.image_size_px
        batch = np.random.default_rng(0).integers(0, 256, (size, side, side, 3)).astype(np.uint8)

        def bare() -> None:
            for _ in range(0, count, size):
                np.asarray(model.predict({"image": batch})["expression"])

        def streamed() -> None:
            slide_prediction.predict_cut(
                model, cut, slide, px_scale, transform, section.name, colours=domain.Colours(), plain=None
            )

        seconds = interleave({"bare": bare, "from the slide": streamed}, rounds=rounds, description="predict")
    for method, taken in seconds.items():
        reference = None if method == "bare" else seconds["bare"]
        case, note = f"{count} patches, {model.model_name}", f"{count / taken:.1f} patches/s"
        yield row_of(case, method, taken, reference, note=note)
