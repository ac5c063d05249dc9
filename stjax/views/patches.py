"""Patches: an item is a patch of the slide, with one spot in its middle. BrST-Net, ST-Net, and any backbone."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from data_prep import csr, patches
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import Section
from data_prep.slide import Slide
from data_prep.spots import Spots
from stjax import baselines, expression, views
from stjax.data.images import Images
from stjax.data.panel import Panel
from stjax.protocols import Protocol, Split
from stjax.symmetries import mean_over_symmetries, turn

if TYPE_CHECKING:
    from stjax.data.fold import Fold

EXPRESSION = "expression"


class View(views.View):
    """Patches of a data set, or cut around the spots of a slide."""

    item, items = "spot", "patches"
    of_dataset, build_flag = "patches", "--patch-size-px"
    what = "patches, one spot in the middle of each,"
    any_size, one_spot, stacks = False, True, True
    kinds = {EXPRESSION: "expression of the spot in the middle of each patch"}  # noqa: RUF012

    # ------------------------------------------------------------------------------------------- from a data set

    def check_spots(self, dataset: PatchDataset, protocol: Protocol, split: Split) -> None:
        for part, sections in (("val", split.val), ("test", split.test)):
            _require_spots(dataset, protocol, sections, part)

    def measured(
        self,
        dataset: PatchDataset,
        sections: Sequence[str],
        protocol: Protocol,
        *,
        train: bool,
        sizes_um: Sequence[float],
    ) -> views.Measured:
        _refuse_sizes(dataset, sizes_um)
        tables = [dataset.table(name) for name in sections]
        kept = [protocol.uses(table.total_counts, _white(table), train=train) for table in tables]
        records = [np.unique(table.record_of_spot[rows]) for table, rows in zip(tables, kept, strict=True)]
        return views.Measured(
            csr.stack([table.counts[rows] for table, rows in zip(tables, kept, strict=True)]),
            np.concatenate([table.total_counts[rows] for table, rows in zip(tables, kept, strict=True)]),
            np.concatenate([table.channel_mean[rows] for table, rows in zip(tables, records, strict=True)]),
            np.concatenate([table.channel_mean_square[rows] for table, rows in zip(tables, records, strict=True)]),
        )

    def open(
        self,
        dataset: PatchDataset,
        sections: Sequence[str],
        panel: Panel,
        protocol: Protocol,
        *,
        train: bool,
        sizes_um: Sequence[float] = (),
        max_spots: int = 0,
    ) -> views.Items:
        _refuse_sizes(dataset, sizes_um)
        columns = panel.columns(dataset.genes)
        record, counts, left_out, offset = [], [], 0, 0
        spots: list[Spots] = []
        parts: dict[str, list[np.ndarray]] = {}
        for name in sections:
            table = dataset.table(name)
            white = _white(table)
            keep = protocol.uses(table.total_counts, white, train=train)
            left_out += int(np.sum(~keep))
            record.append(offset + table.record_of_spot[keep].astype(np.int64))
            counts.append(table.counts[keep])
            of_spots = {
                "size_um": table.spots[keep].across_um(dataset.section(name)["um_per_px"]),
                "total": table.total_counts[keep].astype(np.float32),
                "white": white[keep],
                "section": np.full(int(keep.sum()), name),
            }
            for key, values in of_spots.items():
                parts.setdefault(key, []).append(values)
            spots.append(table.spots[keep])
            offset += len(table.white_fraction)
        of_all = {key: np.concatenate(values) for key, values in parts.items()}
        every = Spots.concatenate(spots)
        return views.Items(
            images=Images(dataset.source(tuple(sections)), np.concatenate(record)),
            windows=views.Windows(np.arange(len(of_all["total"]) + 1)),
            panel=panel,
            absent=columns < 0,
            counts=csr.take_columns(csr.stack(counts), columns),
            weight=np.ones(len(of_all["total"]), np.float32),
            left_out=left_out,
            spots=every,
            names=lambda item: f"{of_all['section'][item]}/{every.id[item]}",
            slide_section=of_all["section"],
            **of_all,
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
            print(f"note: section {section.name}: {int((~inside).sum())} spots too near the border are not predicted")
        if not inside.any():
            raise InputError(
                f"Section {section.name!r}: no spot has its whole {size} px window inside the image; "
                "check scale and coordinates with python -m data_prep.check"
            )
        spots = np.flatnonzero(inside)
        spots = spots[patches.reading_order(slide, section.spots.xy[spots], window_px=size * px_scale)]
        origins = patches.patch_origins(section.spots.xy[spots], patch_size_px=size, px_scale=px_scale)
        return views.Cut(views.Windows(np.arange(len(spots) + 1)), origins, spots, np.ones(len(spots), bool))

    # ---------------------------------------------------------------------------------------------------- exported

    def kind_of(self, model: Any) -> str:
        return EXPRESSION

    def exported(self, graphdef: Any, fold: "Fold", protocol: Protocol) -> Callable[..., jax.Array]:
        from stjax import forward

        def function(state: dict[str, Any], images: jax.Array) -> jax.Array:
            found = forward.forward(self, graphdef, state, {"image": images}, fold, protocol)
            return expression.to_expression(found, fold, protocol)[:, 0]

        return function

    def given(self, fold: "Fold", kind: str) -> tuple[int, ...]:
        return (fold.panel.num_main,)

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
        if not turned:
            return {"expression": call(batch["image"])[:, None]}
        return {"expression": mean_over_symmetries(lambda parts: call(turn(batch["image"], parts)))[:, None]}


def _white(table: Any) -> np.ndarray:
    """[S] of the patch around each spot."""
    return table.white_fraction[table.record_of_spot]


def _refuse_sizes(dataset: PatchDataset, sizes_um: Sequence[float]) -> None:
    if sizes_um:
        raise InputError(f"config.spot_sizes_um is for tiles, {dataset.path} holds patches; leave it empty")


def _require_spots(dataset: PatchDataset, protocol: Protocol, sections: Sequence[str], part: str) -> None:
    """Raises InputError when the protocol uses no patch of some sections, and says why."""
    count = few = 0
    for name in sections:
        table = dataset.table(name)
        if protocol.uses(table.total_counts, _white(table), train=False).any():
            return
        count += len(table.total_counts)
        few += int(np.sum(table.total_counts < protocol.min_counts))
    if sections:
        why = f"{few} have fewer than {protocol.min_counts} counts"
        why += f", {count - few} a patch that is white" if count > few else ""
        raise InputError(
            f"protocol {protocol.name} uses none of the {count} spots of {', '.join(sections)}, the {part} sections: "
            f"{why}; choose others (--config.test_sections, --config.val_sections, --config.fold) or another protocol"
        )
