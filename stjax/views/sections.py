"""Sections: an item is a section with all its spots, or some spots of one with all that is known of the others.

What a model is called with follows from its module's `needs(variant)`. B items hold S spots that are asked about, of
sections of N spots; padding comes last, and S and N have few sizes.

need      keyword       shape                 meaning
image     images        float32 [B,S,H,W,3]   normalised patch around each spot asked about
features  features      float32 [B,N,D]       of every spot of the section, from the data set's features/<name>
grid      grid          int32   [B,N,2]       (x, y) on the array's lattice, from 0; see `stjax.data.lattice`
near      near          int32   [B,N,8]       rows in N of the neighbours on the array, the nearest first; -1: none
context   context       float32 [B,S,W,D]     features of the square of windows around each spot asked about
          context_mask  bool    [B,S,W]       which of them lie in the image
bank      group         int32   [B,S]         of a training spot, whose spots of the bank it must not see; -1: of none
genes     nothing; the model is built from `gene_vectors` [M + A, T, W], see `stjax.data.gene_vectors`
always    spots_mask    bool    [B,S]         which of the S are spots
where N   present       bool    [B,N]         which of the N are spots
          rows          int32   [B,S]         row in N of each spot asked about; of whole sections 0 to N - 1
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export
from jax.sharding import Mesh

from data_prep import files, json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.json_files import Lacking
from data_prep.section import Section
from data_prep.section_table import SectionTable
from data_prep.slide import Slide
from stjax import baselines, models, views
from stjax.data import arrays, lattice
from stjax.data.blocks import Field
from stjax.data.gene_vectors import gene_vectors
from stjax.data.images import Images
from stjax.data.items import filled
from stjax.data.panel import Panel
from stjax.data.sections import (
    BANK,
    CONTEXT,
    FEATURES,
    GENES,
    GRID,
    IMAGE,
    NEAR,
    NEEDS,
    NO_GROUP,
    Around,
    SectionWindows,
    Stacks,
    dealt,
    inputs_of,
    middle,
)
from stjax.data.selection import Selection
from stjax.features.store import Features
from stjax.models import expression
from stjax.protocols import Protocol
from stjax.splits import Split
from stjax.symmetries import mean_over_symmetries, turned_alike
from stjax.views import features, patches
from stjax.views.patches import REMEDY

if TYPE_CHECKING:
    from stjax.config import Config
    from stjax.data.fold import Fold
    from stjax.features.embedder import Embedder

PATIENT, SECTION = "patient", "section"
EACH_SPOT = "expression_of_section"
_SPOTS = 64  # the smallest room for spots
_KEYWORDS = ("present", "rows", FEATURES, GRID, NEAR, CONTEXT, "context_mask", "group", "spots_mask")
FACTS = {
    "needs": json_files.TEXTS,
    "spots_per_item": json_files.COUNT,
    "seed": json_files.COUNT,
    "grid_size": Lacking(json_files.numbers(1, whole=True, length=2)),
    "context": Lacking(json_files.whole_number(1, 99)),
    "bank": Lacking(
        {
            "rows": json_files.whole_number(2, 1 << 24),
            "width": json_files.whole_number(0, 1 << 16),
            "by": json_files.one_of(PATIENT, SECTION),
        }
    ),
    "genes": Lacking(json_files.numbers(1, whole=True, length=2)),
    **arrays.FACTS,
}
"""What a model of sections needs, of how many spots an item is, by which seed they are drawn, how far the lattice goes
along x and y over all sections of the data set, and how many windows a side are around a spot; of the bank, how many
training spots with how many features (0: none), and by what they are told apart; how many vectors a gene has, and how
wide they are; and of the features, as `features.FACTS`."""


class View(features.View):
    """Sections of a data set of patches."""

    what = "sections of spots, a patch around each,"
    one_spot, stacks, standardises = False, False, False
    kinds = {EACH_SPOT: "expression of each spot asked about, of what the model is told of it and of its section"}  # noqa: RUF012

    def __init__(self, facts: Mapping[str, Any] = MappingProxyType({})):
        super().__init__(facts)
        self._needs, self.two_passes = frozenset(facts.get("needs", ())), True
        self.encoded = bool(self._needs & {FEATURES, CONTEXT})
        whole = not facts.get("spots_per_item")
        self.item, self.items = ("section", "sections") if whole else ("group of spots", "groups of spots")

    @property
    def _alike(self) -> type[patches.View]:
        """The view that reads each spot as this one does."""
        return features.View if self.encoded else patches.View

    # ------------------------------------------------------------------------------------------- from a data set

    def of_config(self, config: "Config") -> "View":
        needs = models.needs(config.model.module, config.model.variant)
        self.check_standardised(config.standardise_features)
        if unknown := sorted(set(needs) - set(NEEDS)):
            raise InputError(
                f"stjax.models.{config.model.module} needs {', '.join(unknown)}; a model of sections may need "
                f"{', '.join(NEEDS)}"
            )
        facts = {"needs": list(needs), "spots_per_item": config.spots_per_item, "seed": config.seed}
        if GENES in needs:
            facts["gene_vectors"] = config.gene_vectors
        elif config.gene_vectors:
            raise InputError(f"{config.model.module} has no need of config.gene_vectors; leave it empty")
        if View(facts).encoded:
            return View(facts | dict(features.View.of_features(self, config.features).facts))
        views.View.of_features(self, config.features)  # refuses what it has no need of
        return View(facts)

    def check_spots(self, dataset: PatchDataset, protocol: Protocol, split: Split) -> None:
        self._alike.check_spots(self, dataset, protocol, split)

    def field(self, dataset: PatchDataset, name: str) -> Field:
        """As `views.View` says, of the spots of a part: it is told of no spot of another."""
        return self._alike.field(self, dataset, name)

    def used(self, chosen: Selection) -> tuple[list[SectionTable], list[np.ndarray]]:
        return self._alike.used(self, chosen)

    def open(self, chosen: Selection, panel: Panel) -> views.Items:
        spots = patches.View.open(self, chosen, panel)
        self._dataset, per_item = chosen.dataset, self.facts["spots_per_item"]
        tables, used = self.used(chosen)
        each = list(zip(chosen.sections, tables, used, strict=True))
        parts = [self._around(chosen, *of) for of in each]
        first = np.repeat(np.cumsum([0, *map(np.sum, used)])[:-1], [len(of) for of in parts])  # used spot of each part
        names, around = np.repeat(chosen.sections, [len(of) for of in parts]).tolist(), list(itertools.chain(*parts))
        seed = self.facts["seed"] if chosen.train else None  # elsewhere spots keep their order
        start, section, row, spot = dealt(names, around, per_item, seed=seed)
        order = np.concatenate([np.zeros(0, np.int64), *map(np.add, first, (of.rows for of in around))])[spot]
        own = np.concatenate([np.zeros(0, bool), *(of.own for of in around)])[spot]
        known = ("counts", "weight", "spots", "size_um", "total", "white", "section", "slide_section")
        items = dataclasses.replace(spots, **{name: getattr(spots, name)[order] for name in known})
        items.weight = np.where(own, items.weight, np.float32(0))
        group = self._groups(chosen, items.section)
        items.windows = SectionWindows(start, self._needs, around, section, row, group, per_item)
        stack = items.windows.most_spots if IMAGE in self._needs else 0
        every_patch = Images(chosen.dataset.source(tuple(chosen.sections)), spots.images.record[order])
        items.images = Stacks(every_patch, start, stack)
        items.describe = lambda item: f"{self.item} of {items.section[start[item]]}"
        return items

    def _around(self, chosen: Selection, name: str, table: SectionTable, used: np.ndarray) -> list[Around]:
        """What is known of the spots of a section that are used."""
        scale, facts = chosen.dataset.section(name)["um_per_px"], {"arrays": self._arrays, **self.facts}
        around = arrays.around(name, table.spots.xy, np.flatnonzero(used), scale, self._needs, facts)
        if not self.encoded:
            return around
        known, record = self.features(chosen.dataset), table.record_of_spot[used]
        vectors = {"vectors": known.sections[name], "inside": known.masks.get(name)}
        return [dataclasses.replace(each, record=record[each.rows], **vectors) for each in around]

    def _check_context(self, found: Features) -> None:
        if len(found.fields) > 1:
            raise InputError(f"{found.path}: made with --fields, which is for probes; embed the data set without")
        if CONTEXT in self._needs and found.context == 1:
            raise InputError(
                f"{found.path}: of one window a spot, and this model needs those around it; embed the data set with "
                "--context (5 for TRIPLEX)"
            )
        if CONTEXT in self._needs and (trained := self.facts.get("context", found.context)) != found.context:
            raise InputError(
                f"{found.path}: of {found.context} x {found.context} windows around each spot, the model was trained "
                f"on {trained} x {trained}; embed the data set as that was"
            )

    def fit(self, fold: "Fold", protocol: Protocol, train: views.Items, val: views.Items | None) -> "Fold":
        facts = {name: self.facts[name] for name in ("needs", "spots_per_item", "seed")} | self._sizes(train)
        if self.encoded:
            facts |= self._of_vectors(train)
        if GRID in self._needs:
            facts["grid_size"] = self._grid_size()
        if BANK in self._needs:
            by = PATIENT if len(fold.train_patients) > 1 else SECTION
            if len(np.unique(_windows(train).group)) < 2:
                raise InputError(
                    "this model looks up training spots of other patients, or of one patient's other sections, and "
                    f"there is one training section, {fold.split.train[0]}; train on more, or choose another model"
                )
            if by == SECTION:
                print("note: all training sections are of one patient: training spots look up those of other sections")
            facts["bank"] = {"rows": train.num_spots, "width": facts.get("width", 0), "by": by}
        if GENES in self._needs:
            facts["genes"] = list(gene_vectors(fold.panel, self.facts["gene_vectors"]).shape[1:])
        return dataclasses.replace(fold, facts=facts)

    def start(self, config: "Config", fold: "Fold", protocol: Protocol, train: views.Items) -> dict[str, Any]:
        known = {"gene_vectors": gene_vectors(fold.panel, config.gene_vectors)} if GENES in self._needs else {}
        return known | (self._bank(fold, protocol, train) if BANK in self._needs else {})

    def _bank(self, fold: "Fold", protocol: Protocol, train: views.Items) -> dict[str, Any]:
        """The training spots: targets and groups, and their own features where the model takes features."""
        main, windows = fold.main, _windows(train)
        targets = (train.main_expression(protocol) - main.target_mean) / main.target_std
        bank = {"targets": targets.astype(np.float32), "group": windows.group}
        return {"bank": bank | ({"features": windows.own_features()} if self.encoded else {})}

    def _groups(self, chosen: Selection, section: np.ndarray) -> np.ndarray:
        """[N] int32 number of each training spot's patient, or of its section where there is one patient; -1 of others.

        Args:
            section: [N] of each spot.
        """
        if BANK not in self._needs or not chosen.train:
            return np.full(len(section), NO_GROUP, np.int32)
        whose = {name: patient for name, (patient, _) in chosen.dataset.patients(chosen.sections).items()}
        by_patient = len(set(whose.values())) > 1
        of = [whose[name] if by_patient else name for name in section]
        return np.unique(of, return_inverse=True)[1].astype(np.int32)

    def refit(self, fold: "Fold", chosen: Selection) -> "Fold":
        if not self.encoded:
            return fold
        train = self.open(chosen, fold.panel)
        return dataclasses.replace(fold, facts=dict(self.facts) | self._of_vectors(train))

    def _of_vectors(self, train: views.Items) -> dict[str, Any]:
        """What a model must know of features, and of those of the training spots."""
        found = self.features(self._dataset)
        parts: list[Any] = [middle(each.vectors) for each in _windows(train).around if each.vectors is not None]
        known = self._measured(features.Vectors(parts, train.images.patches), found)
        return known | ({"context": found.context} if CONTEXT in self._needs else {})

    def _grid_size(self) -> list[int]:
        """How far the lattices of a data set go along x and y; sections without one are refused where they are used."""
        tables = (self._dataset.table(section["name"]) for section in self._dataset.sections)
        found = (lattice.find(table.spots.xy) for table in tables)
        sizes = [each.places.max(axis=0, initial=0) + 1 for each in found if each is not None]
        return np.max(sizes, axis=0).tolist()

    def statistics(self, fold: "Fold") -> tuple[np.ndarray, ...]:
        return features.View.statistics(self, fold) if self.encoded else ()

    def check_facts(self, fold: "Fold", name: str) -> None:
        facts = json_files.require(fold.facts, FACTS, f"{name}: facts of sections", remedy=REMEDY)
        of_needs = {GRID: "grid_size", CONTEXT: "context", BANK: "bank", GENES: "genes"}
        lacking = [need for need, fact in of_needs.items() if (need in facts["needs"]) != (fact in facts)]
        if unknown := [*sorted(set(facts["needs"]) - set(NEEDS)), *lacking]:
            raise InputError(
                f"{name}: facts of sections do not go with the need of {files.shown(unknown[0])}; {REMEDY}"
            )
        if self.encoded:
            features.View.check_facts(self, fold, name)

    def colours(self, items: views.Items, item: int, image: np.ndarray) -> np.ndarray:
        rows = items.windows.rows(item)
        every = image if len(image) else np.stack([items.images.patches[row] for row in range(rows.start, rows.stop)])
        return baselines.colour_statistics(every[: rows.stop - rows.start])

    def with_images(
        self, items: views.Items, image: Callable[..., np.ndarray], embedder: "Embedder | None"
    ) -> tuple[views.Windows, Callable[[int], np.ndarray]]:
        windows, patches = _windows(items), items.images.patches
        if CONTEXT in self._needs:
            raise InputError("the model sees windows around each spot too, and a data set holds the spots' own alone")
        if embedder is not None:
            vectors = features.vectors_of(patches, image, embedder)
            windows = windows.with_vectors(vectors, np.ones((len(vectors), 1), bool))

        def stack(item: int) -> np.ndarray:
            if IMAGE not in self._needs:
                return np.zeros(0, np.uint8)
            rows = windows.rows(item)
            return filled(np.stack([image(patches, row) for row in range(rows.start, rows.stop)]), windows.most_spots)

        return windows, stack

    # --------------------------------------------------------------------------------------------- from a bare slide

    def cut(self, fold: "Fold", section: Section, slide: Slide, px_scale: float) -> views.Cut:
        found, per_item = patches.View.cut(self, fold, section, slide, px_scale), self.facts["spots_per_item"]
        place = section.name, section.spots.xy, found.spots, section.um_per_px
        around = arrays.around(*place, self._needs, {"arrays": self._arrays, **self.facts})
        start, of_item, row, spot = dealt([section.name] * len(around), around, per_item, seed=None)
        order, own = (np.concatenate([getattr(each, what) for each in around])[spot] for what in ("rows", "own"))
        group = np.full(len(order), NO_GROUP, np.int32)
        windows = SectionWindows(start, self._needs, around, of_item, row, group, per_item)
        origins = found.origin_xy[order] if IMAGE in self._needs else found.origin_xy[:0]
        spots, known = found.spots[order], found.known[order] & own
        return views.Cut(windows, origins, spots, known, stacked=True)

    def with_vectors(self, cut: views.Cut, vectors: np.ndarray, inside: np.ndarray) -> views.Cut:
        assert isinstance(cut.windows, SectionWindows)
        return cut._replace(windows=cut.windows.with_vectors(vectors, inside))

    def embedder(self, fold: "Fold", kind: str, weights: Path | None, mesh: Mesh) -> "Embedder | None":
        return features.View.embedder(self, fold, features.OF_FEATURES, weights, mesh) if self.encoded else None

    # ------------------------------------------------------------------------------------------------ on the device

    def model_options(self, fold: "Fold") -> dict[str, Any]:
        options = views.View.model_options(self, fold)
        if self.encoded:
            options |= features.View.model_options(self, fold)
        if "bank" in fold.facts:
            rows, width = fold.facts["bank"]["rows"], fold.facts["bank"]["width"]
            shapes = {"targets": (rows, fold.panel.num_main)} | ({"features": (rows, width)} if width else {})
            bank = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            options["bank"] = bank | {"group": np.zeros(rows, np.int32)}
        if "genes" in fold.facts:
            options["gene_vectors"] = np.zeros((len(fold.panel.names), *fold.facts["genes"]), np.float32)
        return options | {name: fold.facts[name] for name in ("grid_size", "context") if name in fold.facts}

    def inputs(self, batch: views.Batch, fold: "Fold", parts: jax.Array | None) -> dict[str, Any]:
        """A batch as keywords of the model; all patches of an item are turned alike."""
        given = {name: batch[name] for name in _KEYWORDS if name in batch}
        if "image" in batch:
            stacks = batch["image"] if parts is None else turned_alike(batch["image"], parts)
            images = views.normalise(stacks.reshape(-1, *stacks.shape[2:]), fold)
            given["images"] = images.reshape(stacks.shape)
        return given

    # ---------------------------------------------------------------------------------------------------- exported

    def kind_of(self, model: Any) -> str:
        return EACH_SPOT

    def exported(self, graphdef: Any, fold: "Fold", protocol: Protocol) -> views.Function:
        from stjax import forward

        names = [name for name, *_ in self._takes(fold)]

        def function(state: dict[str, Any], *arrays: jax.Array) -> jax.Array:
            batch = dict(zip(names, arrays, strict=True))
            return expression.to_expression(
                forward.forward(self, graphdef, state, batch, fold, protocol), fold, protocol
            )

        return function

    def signature(self, fold: "Fold", kind: str, items: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of any number of spots, where `items` is a symbol."""
        takes = self._takes(fold)
        sizes: dict[Any, Any] = {"B": items, "S": _SPOTS, "N": _SPOTS}
        if not isinstance(items, int):
            whole, there = not self.facts["spots_per_item"], {size for *_, shape in takes for size in shape}
            free = [size for size in ("S", "N") if size in there]  # whole sections are asked about: S is N
            free = free[-1:] if whole else free
            least = [f"{size} >= {_SPOTS if whole or size == 'N' else 1}" for size in free]
            sizes["B"], *found = export.symbolic_shape(", ".join([str(items), *free]), constraints=least)
            sizes |= dict.fromkeys(("S", "N"), found[0]) if whole else dict(zip(free, found, strict=True))
        return tuple(jax.ShapeDtypeStruct(tuple(sizes.get(s, s) for s in shape), dtype) for _, dtype, shape in takes)

    def _takes(self, fold: "Fold") -> list[tuple[str, Any, tuple[Any, ...]]]:
        windows, width = fold.facts.get("context", 1) ** 2, fold.facts.get("width", 0)
        return inputs_of(self._needs, side=fold.image_size_px, width=width, windows=windows)

    def given(self, fold: "Fold", kind: str) -> tuple[int, ...]:
        return (_SPOTS, fold.panel.num_main)

    def predicted(
        self, call: views.Function, batch: views.Batch, fold: "Fold", protocol: Protocol, kind: str, *, turned: bool
    ) -> views.Outputs:
        names = [name for name, *_ in self._takes(fold)]

        def of(parts: jax.Array | None) -> jax.Array:
            given = batch if parts is None else batch | {"image": turned_alike(batch["image"], parts)}
            return call(*(given[name] for name in names))

        return {"expression": mean_over_symmetries(of) if turned else of(None)}


def _windows(items: views.Items) -> SectionWindows:
    assert isinstance(items.windows, SectionWindows)
    return items.windows
