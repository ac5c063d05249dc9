"""Features: an item is what an encoder made of the patch around a spot, read from a data set's features/<name>.

Windows cut from a slide go through the encoder first, on the device, as a part of the model (`Trained.on_slides`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_prep import json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Lacking
from data_prep.section import Section
from data_prep.section_table import SectionTable
from data_prep.slide import Slide
from stjax import views
from stjax.data import arrays
from stjax.data.blocks import Field
from stjax.data.images import Images
from stjax.data.items import filled
from stjax.data.panel import Panel
from stjax.data.selection import Selection
from stjax.encoders import ENCODERS
from stjax.features.images import joined, windows_of
from stjax.features.store import RANDOM, Features
from stjax.protocols import Protocol
from stjax.splits import Split
from stjax.symmetries import turn
from stjax.views import patches
from stjax.views.patches import EXPRESSION, REMEDY

if TYPE_CHECKING:
    from stjax.config import Config
    from stjax.data.fold import Fold
    from stjax.features.embedder import Embedder

OF_FEATURES = "expression_of_features"
SECTION = "section"
KNOWN = ("encoder", "weights_sha256", "pooling", "width", "compute", "px")  # of features, what a model must know
FACTS = {
    "features": json_files.NAME,
    "encoder": json_files.NAME,
    "weights_sha256": json_files.TEXT,
    "pooling": json_files.TEXT,
    "width": json_files.SIZE_PX,
    "compute": json_files.TEXT,
    "px": json_files.SIZE_PX,
    "mean": json_files.numbers(),
    "std": json_files.numbers(0),
    "fields": Lacking(json_files.numbers(0.25)),
    "parts": Lacking(json_files.numbers(1, whole=True)),
    "standardise": Lacking(json_files.one_of(SECTION)),
    **arrays.FACTS,
}
"""Of features what a model must know, and their mean and deviation over the training spots; and, where they are not the
usual ones, the sides of the windows they are of, how many are of each kind, and that those of each section are
standardised over its spots first."""
_BLOCK = 4096  # vectors whose statistics are taken at a time
_FEWEST = 20  # spots of a section whose mean and deviation say anything of its stain


def moments(rows: int, block_of: Callable[[range], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """[D] float64 mean and deviation of vectors that are read a block at a time; 1 where all are the same."""
    blocks = [range(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK)]

    def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return sum((function(block_of(block).astype(np.float64)).sum(axis=0) for block in blocks), np.zeros(())) / rows

    mean = mean_of(lambda values: values)
    std = np.sqrt(mean_of(lambda values: (values - mean) ** 2))
    return mean, np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0)


def over_section(vectors: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`moments` of the records of a section that have features. Raises InputError for too few of them."""
    rows = np.flatnonzero(~np.isnan(vectors[:, 0]))
    if len(rows) < _FEWEST:
        raise InputError(
            f"{name}: {len(rows)} spots, and a model whose features are standardised over each section needs "
            f"{_FEWEST} to know its colours by; give more of them"
        )
    return moments(len(rows), lambda block: vectors[rows[block.start : block.stop]])


def vectors_of(
    patches: Images, image: Callable[..., np.ndarray], embedder: "Embedder", fields: Sequence[float] = (1,)
) -> np.ndarray:
    """[N, D] float32 of the images that take the place of N patches, or of the windows of several fields around them.
    A batch of images at a time is held."""
    rows, size = range(len(patches)), embedder.batch_size
    windows, field = windows_of(fields)
    parts = []
    for start in rows[::size]:
        block = rows[start : start + size]
        found = [embedder.vectors(np.stack([image(patches, row, window) for row in block])) for window in windows]
        parts.append(joined(np.stack(found, axis=1), field).reshape(len(block), -1))
    return np.concatenate(parts)


class Vectors:
    """Feature vectors [D] float32 of the patches of some spots, by position.

    Attributes:
        patches: those patches.
    """

    def __init__(
        self, parts: Sequence[np.memmap], patches: Images, *, over: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    ):
        """
        Args:
            parts: [R, D] of each of the sections whose records `patches` counts through, memory-mapped.
            over: mean and deviation of each section by which its vectors are standardised, where they are.
        """
        self.patches, self._parts, self._over = patches, parts, over
        self._first = np.cumsum([0, *(len(part) for part in parts)])

    def __getstate__(self) -> dict[str, Any]:
        """Where the vectors lie in place of them: decoding processes map the same memory rather than have a copy."""
        return {**vars(self), "_parts": [part.filename for part in self._parts]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = [np.load(file, mmap_mode="r", allow_pickle=False) for file in state["_parts"]]
        vars(self).update({**state, "_parts": parts})

    @property
    def record(self) -> np.ndarray:
        """[N] of each spot, as `Images.record`."""
        return self.patches.record

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> np.ndarray:
        record = self.record[index]
        part = int(np.searchsorted(self._first, record, side="right")) - 1
        vector = np.asarray(self._parts[part][record - self._first[part]], np.float32)
        if not self._over:
            return vector
        mean, std = self._over[part]
        return ((vector - mean) / std).astype(np.float32)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """As `moments`."""
        return moments(len(self), lambda block: np.stack([self[i] for i in block]))


class FeatureWindows(views.Windows):
    """Spots whose items are feature vectors: those given, or those that an encoder made of a slide first."""

    def __init__(self, start: np.ndarray, vectors: np.ndarray | None = None):
        """
        Args:
            vectors: [N, D] of a slide's spots.
        """
        super().__init__(start)
        self._vectors = vectors

    def inputs(self, images: np.ndarray, index: Sequence[int] | np.ndarray, size: int) -> views.Batch:
        """As `Windows.inputs`, of vectors [b, D]."""
        vectors = images if self._vectors is None else self._vectors[np.asarray(index, np.int64)]
        return {"features": filled(vectors, size)}


class View(patches.View):
    """Features of the patches of a data set, or of those cut around the spots of a slide."""

    items = "features"
    what = "patches, one spot in the middle of each, through an encoder,"
    encoded, standardises = True, True
    kinds = {  # noqa: RUF012
        EXPRESSION: "expression of the spot in the middle of each patch",
        OF_FEATURES: "expression of a spot, of the features that the encoder makes of the patch around it",
    }

    def __init__(self, facts: Mapping[str, Any] = MappingProxyType({})):
        super().__init__(facts)
        self._opened: dict[tuple[str, ...], Features] = {}  # of data sets, by their path and sections
        self.two_passes = len(facts.get("fields", ())) > 1 or "standardise" in facts

    @property
    def encoder(self) -> str:
        return self.facts.get("encoder", "")

    # ------------------------------------------------------------------------------------------- from a data set

    def of_config(self, config: "Config") -> "View":
        view, of = super().of_config(config), config.standardise_features
        return View({**view.facts, **({"standardise": of} if of == SECTION else {})})

    def of_features(self, name: str) -> "View":
        if not name:
            raise InputError(
                "config.features names no features: give the name of a folder in the data set's features/, which stjax "
                "embed makes"
            )
        return View({"features": name})

    def check_spots(self, dataset: PatchDataset, protocol: Protocol, split: Split) -> None:
        super().check_spots(dataset, protocol, split)
        if protocol.test_symmetries:
            raise InputError(
                f"protocol {protocol.name} predicts means over the eight symmetries of a patch, features are of one; "
                "choose another --config.protocol"
            )

    def field(self, dataset: PatchDataset, name: str) -> Field:
        """As `views.View` says: the square of windows around each spot, which another tool may have cut larger than the
        data set's patches."""
        found, patch = self.features(dataset), super().field(dataset, name)
        px, um_per_px = found.key["px"], found.key["um_per_px"].get(dataset.of_whole(name))
        if not px or not um_per_px:
            raise InputError(
                f"{found.path}: the features do not say how large the patches are that they were made of, and blocks "
                "must be farther apart than these; embed the data set (stjax embed)"
            )
        window_px = px * um_per_px / dataset.section(name)["um_per_px"]
        return patch._replace(side_px=max(found.context, *found.fields) * max(window_px, patch.side_px))

    def used(self, chosen: Selection) -> tuple[list[SectionTable], list[np.ndarray]]:
        tables, kept = super().used(chosen)
        found = self.features(chosen.dataset)
        there = [found.known(name)[table.record_of_spot] for name, table in zip(chosen.sections, tables, strict=True)]
        for name, known in zip(chosen.sections, there, strict=True):
            if not known.any():
                raise InputError(
                    f"{found.path}: no spot of section {name} has features; leave the section out, or embed it"
                )
        return tables, [rows & known for rows, known in zip(kept, there, strict=True)]

    def open(self, chosen: Selection, panel: Panel) -> views.Items:
        items, found = super().open(chosen, panel), self.features(chosen.dataset)
        parts = [found.sections[name] for name in chosen.sections]
        named = zip(parts, chosen.sections, strict=True) if "standardise" in self.facts else ()
        over = [over_section(part, f"Section {name!r}") for part, name in named]
        items.images = Vectors(parts, items.images, over=over)
        items.windows = FeatureWindows(items.windows.start)
        return items

    def features(self, dataset: PatchDataset) -> Features:
        """As `views.View` says, opened once. Raises InputError where there are none of this name, or others than were
        trained on."""
        of = (str(dataset.path), *(section["name"] for section in dataset.sections))
        if of not in self._opened:
            name = self.facts["features"]
            found = Features.open(dataset, name)
            self._check_context(found)
            trained = "mean" in self.facts
            for key in (*KNOWN, "fields"):
                ours = found.key.get(key)
                if trained and self.facts.get(key) != ours:
                    raise InputError(
                        f"{found.path}: {key} is {ours}, of the features that the model was trained on "
                        f"{self.facts.get(key)}; embed the data set as those were, or train a new model"
                    )
            self._opened[of] = found
        return self._opened[of]

    def _check_context(self, found: Features) -> None:
        """Raises InputError for features of other windows than the model's."""
        if found.context > 1:
            raise InputError(
                f"{found.path}: of {found.context} x {found.context} windows around each spot, a probe is of one; "
                "embed the data set without --context"
            )

    def fit(self, fold: "Fold", protocol: Protocol, train: views.Items, val: views.Items | None) -> "Fold":
        known = self._measured(train.images, next(iter(self._opened.values())))
        return dataclasses.replace(fold, facts=known | self._sizes(train))

    def refit(self, fold: "Fold", chosen: Selection) -> "Fold":
        known = self._measured(self.open(chosen, fold.panel).images, self.features(chosen.dataset))
        return dataclasses.replace(fold, facts=dict(self.facts) | known)

    def _measured(self, train: Vectors, found: Features) -> dict[str, Any]:
        """What a model must know of features, and of those of the training spots."""
        mean, std = train.statistics()
        known = {"features": self.facts["features"], **{key: found.key[key] for key in KNOWN}}
        known |= {key: found.key[key] for key in ("fields", "parts") if key in found.key}
        known |= {"standardise": SECTION} if "standardise" in self.facts else {}
        return known | {"mean": mean.tolist(), "std": std.tolist()}

    def statistics(self, fold: "Fold") -> tuple[np.ndarray, ...]:
        return np.array(fold.facts["mean"]), np.array(fold.facts["std"])

    def check_facts(self, fold: "Fold", name: str) -> None:
        facts = json_files.require(fold.facts, FACTS, f"{name}: facts of features", remedy=REMEDY)
        lengths = {len(facts["mean"]), len(facts["std"]), facts["width"]}
        whole = sum(self.parts(facts)) == facts["width"] and 1 in facts.get("fields", (1,))
        if len(lengths) > 1 or min(facts["std"]) <= 0 or not whole:
            raise InputError(f"{name}: statistics of {facts['width']} features that are no such; {REMEDY}")

    def colours(self, items: views.Items, item: int, image: np.ndarray) -> np.ndarray:
        return super().colours(items, item, items.images.patches[item])

    def with_images(
        self, items: views.Items, image: Callable[..., np.ndarray], embedder: "Embedder | None"
    ) -> tuple[views.Windows, Callable[[int], np.ndarray]]:
        patches = items.images.patches
        if embedder is None:
            return views.Windows(items.windows.start), lambda item: image(patches, item)
        vectors = vectors_of(patches, image, embedder, self.facts.get("fields", (1,)))
        made = self.standardised(vectors, f"Section {items.section[0]!r}")
        return FeatureWindows(items.windows.start, made), lambda _: np.zeros(0, np.uint8)

    def parts(self, facts: Mapping[str, Any]) -> list[int]:
        """As `store.Features.parts`."""
        fields = len(facts.get("fields", (1,)))
        return list(facts.get("parts", [facts["width"] // fields])) * fields

    def penalty_scale(self, fold: "Fold") -> np.ndarray:
        """As `views.View` says: features of a kind (`parts`) count together as much as those of another."""
        parts = np.array(self.parts(fold.facts))
        return np.repeat(np.sqrt(parts.sum() / (len(parts) * parts)), parts)

    # --------------------------------------------------------------------------------------------- from a bare slide

    def cut(self, fold: "Fold", section: Section, slide: Slide, px_scale: float) -> views.Cut:
        found = super().cut(fold, section, slide, px_scale)
        return found._replace(origin_xy=found.origin_xy[:0], stacked=True) if self.two_passes else found

    def with_vectors(self, cut: views.Cut, vectors: np.ndarray, inside: np.ndarray) -> views.Cut:
        made = self.standardised(vectors.reshape(len(vectors), -1), "this slide")
        return cut._replace(windows=FeatureWindows(cut.windows.start, made))

    def standardised(self, vectors: np.ndarray, name: str) -> np.ndarray:
        if "standardise" not in self.facts:
            return vectors
        mean, std = over_section(vectors, name)
        return ((vectors - mean) / std).astype(np.float32)

    def embedder(self, fold: "Fold", kind: str, weights: Path | None, mesh: Mesh) -> "Embedder | None":
        if kind != OF_FEATURES:
            return None
        from stjax.features.embedder import Embedder  # with Flax, which not every exported model needs

        name, wanted = fold.facts["encoder"], fold.facts["weights_sha256"]
        packaged = name in ENCODERS and ENCODERS[name].package
        if weights is None and not packaged and wanted and not wanted.startswith(RANDOM):
            raise InputError(
                f"a model of features of {name} predicts images with that encoder's weights; give their file, SHA-256 "
                f"{wanted[:12]}..., with --weights (stjax encoders {name} says how to get it)"
            )
        return Embedder.of_facts(fold.facts, weights, mesh=mesh)

    # ------------------------------------------------------------------------------------------------ on the device

    def model_options(self, fold: "Fold") -> dict[str, Any]:
        mean, std = self.statistics(fold)
        return {"feature_mean": mean, "feature_std": std}

    def inputs(self, batch: views.Batch, fold: "Fold", parts: jax.Array | None) -> dict[str, Any]:
        if "features" in batch:  # of patches as they lie: nothing is left to turn
            return {"features": batch["features"]}
        return {"images": batch["image"] if parts is None else turn(batch["image"], parts)}

    # ---------------------------------------------------------------------------------------------------- exported

    def kind_of(self, model: Any) -> str:
        return OF_FEATURES if model.front is None else EXPRESSION

    def batch_of(self, given: jax.Array) -> views.Batch:
        return super().batch_of(given) if given.ndim > 2 else {"features": given}

    def signature(self, fold: "Fold", kind: str, items: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        if kind == OF_FEATURES:
            return (jax.ShapeDtypeStruct((items, fold.facts["width"]), np.float32),)
        return super().signature(fold, kind, items)

    def predicted(
        self,
        call: Callable[..., jax.Array],
        batch: views.Batch,
        fold: "Fold",
        protocol: Protocol,
        kind: str,
        *,
        turned: bool,
    ) -> views.Outputs:
        if "features" in batch:
            return {"expression": call(batch["features"])[:, None]}
        return super().predicted(call, batch, fold, protocol, kind, turned=turned)
