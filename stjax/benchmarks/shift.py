"""What predictions lose on other stains, scanners and files: `python -m stjax.bench --what=shift --workdir=RUN`.

The spots that the run held out are predicted again and again, their images changed in one way each time
(`stjax.shifts`): other stains, published ones and those of other sections of the data set; more and less stain;
another brightness and gamma; blur; another scale; JPEG. A row each says the PCC that is left. docs/shift.md says how to
read it.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep import system_errors
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import evaluate, metrics, shifts, trained
from stjax.benchmarks import Row, row_of, shift_results
from stjax.benchmarks.shift_images import FromSlides, Pixels, Stored
from stjax.benchmarks.shift_results import Outcome
from stjax.config import spot_sizes
from stjax.data.images import Images
from stjax.data.items import Items
from stjax.data.selection import Selection
from stjax.features.images import PATCH, Window
from stjax.inference import domain, prepared, stream
from stjax.shifts import NONE, Shift
from stjax.trained import Trained
from stjax.workdir import CONFIG, Run

MOST_SECTIONS = 6  # whose stains are tried besides the published ones


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """A row of the images as they are and of every shift; prints what they mean, and writes the results.

    Args:
        given: options of `stjax.bench`: workdir, data_dir, sections, source, weights, out.

    Raises:
        InputError: no trained model or data set, or a model that sees more than the data set holds.
    """
    out = _folder(given.workdir, given.out)
    model = trained.load(given.workdir, encoder_weights=given.weights).on_slides
    dataset, sections = _data(model, given.data_dir, given.sections)
    items = _items(model, dataset, sections)
    panel, protocol, found = model.fold.panel, model.protocol, list[Outcome]()
    with FromSlides.found(dataset, given.source, model) if given.source else Stored(dataset) as pixels:
        spots = sum(int(np.sum(each.weight > 0)) for each in items)
        print(
            f"{', '.join(sections)}: {spots} spots, {panel.num_main} genes, protocol {protocol.name} "
            f"({protocol.target}), PCC {protocol.pooling}; {pixels.origin}"
        )
        every = shifts.every(_other_stains(dataset, pixels, sections))
        for outcome in outcomes(model, dataset, pixels, items, every):
            found.append(outcome)
            figures = {name: getattr(outcome, name) for name in ("pcc_mean", "pcc_median", "share_kept")}
            figures = {name: value if np.isfinite(value) else None for name, value in figures.items()}
            yield row_of(outcome.shift.title, model.model_name, outcome.seconds, note=outcome.note, **figures)
    print("\n".join(shift_results.summary(found)))
    main = slice(panel.num_main)
    for path in shift_results.write(out, found, panel.names[main], panel.ensembl_id[main], title=model.model_name):
        print(path)


def outcomes(
    model: Trained, dataset: PatchDataset, pixels: Pixels, items: Sequence[Items], every: Iterable[Shift]
) -> Iterator[Outcome]:
    """What is left of a model's PCCs: of the images as they are, then under each shift.

    Args:
        model: as it takes images (`Trained.on_slides`).
        items: of the data set, groups of which each is predicted together.
    """
    unshifted = None
    for shift in (NONE, *every):
        started, colours = time.perf_counter(), domain.Colours()
        parts = [_predicted(model, pixels, each, shift, colours) for each in items]
        expression, inside = ([part[i] for part in parts] for i in range(2))
        unshifted = unshifted or expression
        pcc, before = (_pcc(model, dataset, items, values, inside) for values in (expression, unshifted))
        spots, seconds = sum(int(each.sum()) for each in inside), time.perf_counter() - started
        yield Outcome(shift, pcc, before, spots=spots, distance=colours.distance(model), seconds=seconds)


def _predicted(
    model: Trained, pixels: Pixels, items: Items, shift: Shift, colours: domain.Colours
) -> tuple[np.ndarray, np.ndarray]:
    """[N, M] expression of the items' spots, and [N] bool, which are scored: the others are in another item, or lie
    outside an enlarged image."""
    view, inside = model.view, items.weight > 0

    def shifted(images: Images, index: int, window: Window = PATCH) -> np.ndarray:
        image = pixels.image(shift, images, index, window)
        if window == PATCH:
            colours.watch(image)
        return image

    windows, image = view.with_images(items, shifted, model.embedder)
    if shift.factor != 1:
        windows, within = view.enlarged(windows, model.fold, shift.factor)
        inside = inside & within
    parts = stream.predict(model, windows, image, shift.title)
    return np.concatenate([part["expression"] for part in parts]), inside


def _pcc(
    model: Trained,
    dataset: PatchDataset,
    items: Sequence[Items],
    expression: Sequence[np.ndarray],
    inside: Sequence[np.ndarray],
) -> np.ndarray:
    """[M] PCC of each gene over the spots `inside`, under the model's protocol."""
    patients, predictions, truths = [], [], []
    for each, predicted, scored in zip(items, expression, inside, strict=True):
        truth = each.main_expression(model.protocol)
        scored = scored & np.isfinite(truth).any(axis=1)
        for section in dict.fromkeys(each.section[scored]):
            which = scored & (each.section == section)
            patients.append(dataset.section(each.slide_section[int(np.argmax(which))])["patient"])
            predictions.append(predicted[which])
            truths.append(truth[which])
    return metrics.pooled_pcc(predictions, truths, patients, pooling=model.protocol.pooling)


def _folder(workdir: Path, out: Path | None) -> Path:
    """Where results go: by default among a run's others."""
    if out is None and not (workdir / CONFIG).is_file():
        raise InputError(f"{workdir} is no work directory; name a folder for the results with --out")
    out = out or workdir / "shift"
    system_errors.check_folder(out, "--out")
    return out


def _data(model: Trained, data_dir: str, sections: Sequence[str]) -> tuple[PatchDataset, tuple[str, ...]]:
    """The data set, and which of its sections are tried: unless said, those held out, of another data set all.

    Raises:
        InputError: there is none, another than was trained on, or one prepared otherwise; no such section.
    """
    path = data_dir or model.fold.data_dir
    if not path:
        raise InputError(f"{model.folder} does not say where its data set is; name it with --data-dir")
    dataset = model.fold.divided(PatchDataset.open(path))
    own = dataset.content_hash == model.fold.content_hash
    if not data_dir and not own:
        raise InputError(f"the data set {path} has changed since the model was trained; name one with --data-dir")
    prepared.check_preparation(model, dataset)
    known = tuple(section["name"] for section in dataset.sections)
    chosen = tuple(sections) or (model.fold.split.test if own else known)
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"--sections names {', '.join(unknown)}; {dataset.path} has {', '.join(known)}")
    if not chosen:
        raise InputError(f"{model.folder} names no held-out section; name those to try with --sections")
    return dataset, chosen


def _items(model: Trained, dataset: PatchDataset, sections: Sequence[str]) -> list[Items]:
    """Those of the sections, as far as the protocol uses spots of them. Raises InputError where it uses none."""
    sizes = spot_sizes(model.config) if isinstance(model, Run) else ()  # an exported model is tried on all there are
    most = evaluate.MAX_SPOTS if model.view.any_size else 0
    every = [
        model.view.open(Selection(dataset, group, model.protocol, False, sizes, most), model.fold.panel)
        for group in model.view.groups(sections)
    ]
    if not any(map(len, every)):
        raise InputError(f"no spot of {', '.join(sections)} has the {model.protocol.min_counts} counts that are asked")
    return [items for items in every if len(items)]


def _other_stains(dataset: PatchDataset, pixels: Pixels, sections: Sequence[str]) -> dict[str, np.ndarray]:
    """Stains of sections that are not tried: of all, or of some evenly apart in the data set's order."""
    tried = {dataset.of_whole(name) for name in sections}
    others = [section["name"] for section in dataset.whole.sections if section["name"] not in tried]
    chosen = np.unique(np.linspace(0, len(others) - 1, min(MOST_SECTIONS, len(others))).astype(int))
    return {f"of section {others[i]}": pixels.seen(others[i]).stains for i in chosen}
