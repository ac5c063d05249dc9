"""Patches: an item is a patch of the slide, with one spot in its middle. BrST-Net, ST-Net, and any backbone."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from data_prep import csr, json_files, patches
from data_prep.counted import counted
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.section_table import SectionTable
from data_prep.slide import Slide
from data_prep.spots import Spots
from stjax import baselines, views
from stjax.data import arrays, tile_spots
from stjax.data.blocks import Field
from stjax.data.images import Images
from stjax.data.panel import Panel
from stjax.data.selection import Selection
from stjax.models import expression
from stjax.protocols import Protocol
from stjax.splits import Split
from stjax.symmetries import mean_over_symmetries, turn

if TYPE_CHECKING:
    from stjax.data.fold import Fold

EXPRESSION = "expression"
REMEDY = "restore it, or train in a new work directory"


class View(views.View):
    """Patches of a data set, or cut around the spots of a slide."""

    item, items = "spot", "patches"
    of_dataset, build_flag = "patches", "--patch-size-px"
    what = "patches, one spot in the middle of each,"
    any_size, one_spot, stacks = False, True, True
    kinds = {EXPRESSION: "expression of the spot in the middle of each patch"}  # noqa: RUF012

    def __init__(self, facts: Mapping[str, Any] = MappingProxyType({})):
        super().__init__(facts)
        self._arrays: list[dict[str, Any]] = []  # of the training sections

    # ------------------------------------------------------------------------------------------- from a data set

    def check_spots(self, dataset: PatchDataset, protocol: Protocol, split: Split) -> None:
        for part, sections in (("val", split.val), ("test", split.test)):
            tables, used = self.used(Selection(dataset, sections, protocol, train=False))
            if not tables or any(each.any() for each in used):
                continue
            total = np.concatenate([table.total_counts for table in tables])
            few = int(np.sum(total < protocol.min_counts))
            why = f"{few} have fewer than {protocol.min_counts} counts"
            why += f", {len(total) - few} a patch that is white" if len(total) > few else ""
            raise InputError(
                f"protocol {protocol.name} uses none of the {len(total)} spots of {', '.join(sections)}, the {part} "
                f"sections: {why}; choose others (--config.test_sections, --config.val_sections, --config.fold) or "
                "another protocol"
            )

    def fit(self, fold: "Fold", protocol: Protocol, train: views.Items, val: views.Items | None) -> "Fold":
        return dataclasses.replace(fold, facts=self._sizes(train))

    def _sizes(self, train: views.Items) -> dict[str, Any]:
        """What a model must know of the sizes of the training spots, and of their arrays."""
        sizes = [np.median(train.size_um[train.section == name]) for name in np.unique(train.section)]
        return {"sizes_um": np.unique(tile_spots.rounded(np.array(sizes))).tolist(), "arrays": self._arrays}

    def check_facts(self, fold: "Fold", name: str) -> None:
        if set(fold.facts) - set(arrays.FACTS):
            super().check_facts(fold, name)
        json_files.require(fold.facts, arrays.FACTS, f"{name}: facts of patches", remedy=REMEDY)

    def white(self, table: SectionTable) -> np.ndarray:
        return table.white_fraction[table.record_of_spot]

    def field(self, dataset: PatchDataset, name: str) -> Field:
        xy, px_scale = dataset.table(name).spots.xy, dataset.section(name)["px_scale"]
        origin_xy = patches.patch_origins(xy, patch_size_px=dataset.size_px, px_scale=px_scale)
        return Field(origin_xy + dataset.size_px * px_scale / 2, dataset.size_px * px_scale)

    def measured(self, chosen: Selection) -> views.Measured:
        _refuse_sizes(chosen)
        return super().measured(chosen)

    def open(self, chosen: Selection, panel: Panel) -> views.Items:
        _refuse_sizes(chosen)
        dataset, columns = chosen.dataset, panel.columns(chosen.dataset.genes)
        if chosen.train and "arrays" not in self.facts:
            self._arrays = arrays.of_sections(dataset, chosen.sections)
        tables, kept = self.used(chosen)
        each = list(zip(chosen.sections, tables, kept, strict=True))
        spots = Spots.concatenate([table.spots[rows] for _, table, rows in each])
        section = np.concatenate([np.full(int(rows.sum()), name) for name, _, rows in each])
        first = np.cumsum([0, *(len(table.white_fraction) for table in tables)])  # record of each section
        record = [start + table.record_of_spot[rows] for start, (_, table, rows) in zip(first, each, strict=False)]
        scale = [dataset.section(name)["um_per_px"] for name in chosen.sections]
        across = [table.spots[rows].across_um(um) for um, (_, table, rows) in zip(scale, each, strict=True)]
        return views.Items(
            images=Images(dataset.source(tuple(chosen.sections)), np.concatenate(record)),
            windows=views.Windows(np.arange(len(section) + 1)),
            describe=lambda item: f"{section[item]}/{spots.id[item]}",
            panel=panel,
            absent=columns < 0,
            counts=csr.take_columns(csr.stack([table.counts[rows] for _, table, rows in each]), columns),
            weight=np.ones(len(section), np.float32),
            left_out=sum(int(np.sum(~rows)) for rows in kept),
            spots=spots,
            size_um=np.concatenate(across),
            total=np.concatenate([table.total_counts[rows] for _, table, rows in each]).astype(np.float32),
            white=np.concatenate([self.white(table)[rows] for _, table, rows in each]),
            section=section,
            slide_section=section,
        )

    def colours(self, items: views.Items, item: int, image: np.ndarray) -> np.ndarray:
        return baselines.colour_statistics(image[None])

    # --------------------------------------------------------------------------------------------- from a bare slide

    def window_px(self, fold: "Fold", px_scale: float) -> float:
        return fold.image_size_px * px_scale

    def cut(self, fold: "Fold", section: Section, slide: Slide, px_scale: float) -> views.Cut:
        size = fold.image_size_px
        inside = patches.inside_mask(slide, section.spots.xy, patch_size_px=size, px_scale=px_scale)
        if not inside.all():
            lost = counted(int((~inside).sum()), "spots too near the border are not predicted")
            print(f"note: section {section.name}: {lost}")
        if not inside.any():
            raise InputError(
                f"Section {section.name!r}: no spot has its whole {size} px window inside the image; "
                "check scale and coordinates with python -m data_prep.check"
            )
        spots = np.flatnonzero(inside)
        xy = section.spots.xy[spots]
        spots = spots[patches.reading_order(slide, xy, window_px=size * px_scale, px_scale=px_scale)]
        origins = patches.patch_origins(section.spots.xy[spots], patch_size_px=size, px_scale=px_scale)
        return views.Cut(views.Windows(np.arange(len(spots) + 1)), origins, spots, np.ones(len(spots), bool))

    # ---------------------------------------------------------------------------------------------------- exported

    def kind_of(self, model: Any) -> str:
        return EXPRESSION

    def exported(self, graphdef: Any, fold: "Fold", protocol: Protocol) -> views.Function:
        from stjax import forward

        def function(state: dict[str, Any], given: jax.Array) -> jax.Array:
            found = forward.forward(self, graphdef, state, self.batch_of(given), fold, protocol)
            return expression.to_expression(found, fold, protocol)[:, 0]

        return function

    def batch_of(self, given: jax.Array) -> views.Batch:
        """What an exported function is given, as a batch."""
        return {"image": given}

    def given(self, fold: "Fold", kind: str) -> tuple[int, ...]:
        return (fold.panel.num_main,)

    def predicted(
        self, call: views.Function, batch: views.Batch, fold: "Fold", protocol: Protocol, kind: str, *, turned: bool
    ) -> views.Outputs:
        if not turned:
            return {"expression": call(batch["image"])[:, None]}
        return {"expression": mean_over_symmetries(lambda parts: call(turn(batch["image"], parts)))[:, None]}


def _refuse_sizes(chosen: Selection) -> None:
    if chosen.sizes_um:
        raise InputError(f"config.spot_sizes_um is for tiles, {chosen.dataset.path} holds patches; leave it empty")
