"""Views: what one item of training, evaluation and prediction is. A patch around one spot; a tile that holds many.

`stjax/views/<name>.py` defines `View`, and all that is particular to its items: how they are read from a data set or
cut from a bare slide, what a batch of them holds, how they are augmented on the device, what a model must know to be
built, how its outputs are those of spots again, and what an exported model takes and gives. A module of `stjax/models`
names the view that its model takes. Nothing outside asks which view it is: it asks the view.
"""

import abc
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_prep import csr
from data_prep.errors import InputError
from stjax import augmentation
from stjax.data.blocks import Field
from stjax.data.items import Batch, Cut, Items, Measured, Windows
from stjax.data.panel import Panel
from stjax.protocols import Protocol
from stjax.splits import Split
from stjax.symmetries import turn

if TYPE_CHECKING:
    from pathlib import Path

    from jax.sharding import Mesh

    from data_prep.dataset import PatchDataset
    from data_prep.section import Section
    from data_prep.section_table import SectionTable
    from data_prep.slide import Slide
    from stjax.config import Config
    from stjax.data.fold import Fold
    from stjax.data.selection import Selection
    from stjax.features.embedder import Embedder
    from stjax.features.store import Features

Outputs = dict[str, jax.Array]
Function = Callable[..., jax.Array]  # exported


def get(name: str, facts: Mapping[str, Any] = MappingProxyType({})) -> "View":
    """The view of a name. Raises InputError when there is none.

    Args:
        facts: of the fold whose items it gives, where there is one.
    """
    if name not in names():
        raise InputError(f"there is no view {name!r}; this version of stjax knows {', '.join(names())}")
    return importlib.import_module(f"stjax.views.{name}").View(facts)


def of(fold: "Fold") -> "View":
    """The view of a fold's items."""
    return get(fold.view, fold.facts)


def names() -> list[str]:
    """Of all views."""
    return sorted(entry.name for entry in pkgutil.iter_modules(__path__))


class View(abc.ABC):
    """One kind of item; see the module.

    Attributes:
        item, items: what one and several are called in messages.
        of_dataset: the kind of data set that it reads, and build_flag, which makes such a one.
        what: an item in a few words, for model cards.
        any_size: whether items hold spots of any size, those asked for: else each is as the data set has it.
        one_spot: whether an item holds one spot, in its middle, which no other item says anything of.
        maps: whether a model can be asked for a map of the whole slide.
        encoded: whether an item of a data set is what an encoder made of its image, which is made of a slide's anew.
        standardises: whether items may be standardised over the section that they are of.
        two_passes: whether an encoder goes over all windows of a slide first, and the model then takes its features.
        stacks: whether several runs may be trained in one program: batches are alike in shape.
        ridge_spots: of a training section and size, at most, that the baselines are fitted to; 0: all.
        kinds: {what an exported function may give: what its numbers mean}.
    """

    item: str
    items: str
    of_dataset: ClassVar[str]
    build_flag: ClassVar[str]
    what: ClassVar[str]
    any_size: ClassVar[bool]
    one_spot: ClassVar[bool]
    maps: ClassVar[bool] = False
    encoded: bool = False
    standardises: ClassVar[bool] = False
    two_passes: bool = False
    stacks: ClassVar[bool] = False
    ridge_spots: ClassVar[int] = 0
    kinds: ClassVar[Mapping[str, str]]

    def __init__(self, facts: Mapping[str, Any] = MappingProxyType({})):
        """
        Args:
            facts: of the fold whose items it gives, where there is one.
        """
        self.facts = facts

    @property
    def name(self) -> str:
        """As `get` takes it."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def encoder(self) -> str:
        """Name of the encoder that made the items, as `stjax.encoders` has it; "" where none did."""
        return ""

    # ------------------------------------------------------------------------------------------- from a data set

    def of_config(self, config: "Config") -> "View":
        """This view of what a config asks for. Raises InputError where it asks for what items have not, or lacks what
        they need."""
        for name in ("spots_per_item", "gene_vectors"):
            if config[name]:
                raise InputError(
                    f"config.{name} is {config[name]}, which is for models of sections; leave it at its default"
                )
        self.check_standardised(config.standardise_features)
        return self.of_features(config.features)

    def check_standardised(self, over: str) -> None:
        """Raises InputError for `config.standardise_features` that items cannot have."""
        if over != "training" and not self.standardises:
            raise InputError(
                f"config.standardise_features is {over!r}, which is for probes (configs/probe_linear.py); leave it at "
                "its default"
            )

    def of_features(self, name: str) -> "View":
        """This view of the features that a config names. Raises InputError where items are no features, or none are
        named."""
        if name:
            raise InputError(
                f"config.features is {name!r}, but the model is one of {self.items}; leave it empty, or choose a model "
                "of features (configs/probe_linear.py)"
            )
        return self

    def features(self, dataset: "PatchDataset") -> "Features | None":
        """Those that items of a data set are read from; None where they are read from its images."""
        del dataset

    def check_dataset(self, dataset: "PatchDataset", module: str) -> None:
        """Raises InputError for a data set that models of `module` cannot be trained on."""
        if dataset.kind != self.of_dataset:
            raise InputError(
                f"config.model.module {module} is a model of {self.items}, {dataset.path} holds {dataset.kind}; "
                f"build the data set with {self.build_flag}"
            )

    def check_spots(self, dataset: "PatchDataset", protocol: Protocol, split: Split) -> None:
        """Raises InputError when the protocol uses no spot of the sections to validate or to test on."""
        del dataset, protocol, split

    def check_augmentation(self, settings: Mapping[str, Any]) -> None:
        """Raises InputError for `config.augmentation` that items cannot have."""
        if self.encoded and augmentation.active(settings):
            raise InputError("config.augmentation changes pixels, and features have none; leave all of it at 0")
        if moving := [name for name in augmentation.MOVES if settings[name] and not self.one_spot]:
            raise InputError(
                f"config.augmentation.{moving[0]} moves what an image shows, and the spots of {self.items} would not "
                "follow: it is for patches; leave it off (config.augment turns every image by the square's symmetries)"
            )

    def white(self, table: "SectionTable") -> np.ndarray | None:
        """[S] how white the image around each spot is, by which a protocol may leave it out; None: it never does."""
        del table

    def field(self, dataset: "PatchDataset", name: str) -> Field:
        """What a model is shown of the slide for each spot of a section, its fields of view: the images of the records
        that hold them.

        Raises:
            InputError: it is not known.
        """
        entry, source = dataset.section(name), dataset.source((name,))
        side_px = dataset.size_px * entry["px_scale"]
        origin_xy = [source.record(record, image=False)["origin_xy"] for record in range(entry["records"])]
        middle_xy = np.reshape(origin_xy, (-1, 2)).astype(np.float64) + side_px / 2
        record, first = [], 0
        for table in dataset.spot_tables(name, names=False):
            record.append(table.record_of_spot + first)
            first += len(table.white_fraction)
        return Field(middle_xy[np.concatenate(record)], side_px)

    def used(self, chosen: "Selection") -> tuple[list["SectionTable"], list[np.ndarray]]:
        """The sections' tables, and [S] bool of each: its spots that are used, of any size."""
        tables, uses = [chosen.dataset.table(name) for name in chosen.sections], chosen.protocol.uses
        return tables, [uses(table.total_counts, self.white(table), train=chosen.train) for table in tables]

    def measured(self, chosen: "Selection") -> Measured:
        """What the spots chosen say, to select genes and fit statistics by."""
        tables, kept = self.used(chosen)
        records = [np.unique(table.record_of_spot[rows]) for table, rows in zip(tables, kept, strict=True)]
        return Measured(
            (csr.stack([table.counts[rows] for table, rows in zip(tables, kept, strict=True)]),),
            np.concatenate([table.total_counts[rows] for table, rows in zip(tables, kept, strict=True)]),
            np.concatenate([table.channel_mean[rows] for table, rows in zip(tables, records, strict=True)]),
            np.concatenate([table.channel_mean_square[rows] for table, rows in zip(tables, records, strict=True)]),
        )

    @abc.abstractmethod
    def open(self, chosen: "Selection", panel: Panel) -> Items:
        """The items that hold the spots chosen, with the counts of a panel's genes.

        Raises:
            InputError: sizes that there are none of, or no spot is left.
        """

    def fit(self, fold: "Fold", protocol: Protocol, train: Items, val: Items | None) -> "Fold":
        """A fold with what this view must know of the items it is trained on."""
        return fold

    def start(self, config: "Config", fold: "Fold", protocol: Protocol, train: Items) -> dict[str, Any]:
        """Keywords that take the place of `model_options` where a run begins: of arrays that the model then keeps among
        its weights, where `model_options` has their shapes alone."""
        return {}

    def refit(self, fold: "Fold", chosen: "Selection") -> "Fold":
        """A fold with the statistics that `fit` would give it, of its training spots."""
        return fold

    def statistics(self, fold: "Fold") -> tuple[np.ndarray, ...]:
        """What `fit` measured on the training spots besides what every fold has, and the model is built with."""
        return ()

    def prepare(self, fold: "Fold", items: Items) -> None:
        """Makes items fit the programs compiled for a fold."""
        del fold, items

    def penalty_scale(self, fold: "Fold") -> np.ndarray | None:
        """[D] what standardised features are multiplied with before a ridge penalises them; None: they count alike."""
        del fold

    def check_facts(self, fold: "Fold", name: str) -> None:
        """Raises InputError when `fold.facts`, as read from the file `name`, are not this view's."""
        if fold.facts:
            raise InputError(f"{name}: facts of {self.items} are none that this version of stjax knows")

    def embedder(self, fold: "Fold", kind: str, weights: "Path | None", mesh: "Mesh") -> "Embedder | None":
        """What makes of windows cut from a slide the features that a model of this kind, a key of `kinds`, takes; None
        where it takes the windows.

        Args:
            weights: file of the encoder's.

        Raises:
            InputError: the encoder's weights are not given, or are others than those the model was trained with.
        """
        del fold, kind, weights, mesh

    def trained_sizes_um(self, fold: "Fold") -> tuple[float, ...]:
        """The sizes of the spots that a model was trained on; none where it does not say."""
        return tuple(fold.facts.get("sizes_um", ()))

    def groups(self, sections: Sequence[str]) -> list[tuple[str, ...]]:
        """Sections that are opened, and predicted, together."""
        return [(name,) for name in sections]

    @abc.abstractmethod
    def colours(self, items: Items, item: int, image: np.ndarray) -> np.ndarray:
        """[S, D] colour statistics at each spot of an item, whose image is given."""

    def centres(self, items: Items, item: int) -> np.ndarray:
        """[S, 2] the middle of each spot of an item, in pixels of its image counted from the corner."""
        rows = items.windows.rows(item)
        return np.full((rows.stop - rows.start, 2), items.images[item].shape[0] / 2)

    def with_images(
        self, items: Items, image: Callable[..., np.ndarray], embedder: "Embedder | None"
    ) -> tuple[Windows, Callable[[int], np.ndarray]]:
        """Items of a data set with other images in place of theirs, as a model `on_slides` takes them: their windows,
        and the image of each.

        Args:
            image: given images of the data set, and a position among them, what takes the place of that one; given a
                `features.images.Window` too, of that window around it.
            embedder: the model's, where an encoder goes over all images first.

        Raises:
            InputError: items are made of more than these images.
        """
        del embedder
        return items.windows, lambda item: image(items.images, item)

    def enlarged(self, windows: Windows, fold: "Fold", factor: float) -> tuple[Windows, np.ndarray]:
        """Windows whose images are enlarged by `factor` about their middle, and [N] bool, which of their spots still
        lie in them."""
        del fold, factor  # a spot is in the middle of its image
        return windows, np.ones(int(windows.start[-1]), bool)

    # --------------------------------------------------------------------------------------------- from a bare slide

    def window_px(self, fold: "Fold", px_scale: float) -> float:
        """Side of what must lie inside the image around a spot, full-resolution pixels.

        Args:
            px_scale: full-resolution pixels per pixel of the model.
        """
        return 0.0

    @abc.abstractmethod
    def cut(self, fold: "Fold", section: "Section", slide: "Slide", px_scale: float) -> Cut:
        """The items that hold the spots of a section; says how many spots cannot be predicted.

        Raises:
            InputError: none can.
        """

    def with_vectors(self, cut: Cut, vectors: np.ndarray, inside: np.ndarray) -> Cut:
        """The items of a slide with what an encoder made of its windows, where it goes over them first.

        Args:
            vectors: [N, W, D] of the square of windows around each spot of `cut`, as features with context have them.
            inside: [N, W] which of them lie in the image.
        """
        del vectors, inside
        return cut

    def standardised(self, vectors: np.ndarray, name: str) -> np.ndarray:
        """Features [N, D] of all spots of a slide, as a model of single spots takes them. Raises InputError for too few
        spots where they are standardised over these.

        Args:
            name: of the slide, for messages.
        """
        del name
        return vectors

    # ------------------------------------------------------------------------------------------------ on the device

    def model_options(self, fold: "Fold") -> dict[str, Any]:
        """Keywords that the `build` of a model takes from the training data."""
        return {"image_size_px": fold.image_size_px}

    def inputs(self, batch: Batch, fold: "Fold", parts: jax.Array | None) -> dict[str, Any]:
        """A batch as keywords of the model: images normalised and, with `parts`, turned as `symmetries.turn` says."""
        images = batch["image"] if parts is None else turn(batch["image"], parts)
        return {"images": normalise(images, fold)}

    # ---------------------------------------------------------------------------------------------------- exported

    @abc.abstractmethod
    def kind_of(self, model: Any) -> str:
        """What a model's exported function gives, a key of `kinds`."""

    @abc.abstractmethod
    def exported(self, graphdef: Any, fold: "Fold", protocol: Protocol) -> Function:
        """The function of {"params", "statistics"} and of what `signature` says that a model is exported as."""

    def signature(self, fold: "Fold", kind: str, items: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What the exported function takes besides the weights.

        Args:
            kind: what it gives.
            items: how many; a symbol of any number.
        """
        side = fold.image_size_px
        return (jax.ShapeDtypeStruct((items, side, side, 3), np.uint8),)

    @abc.abstractmethod
    def given(self, fold: "Fold", kind: str) -> tuple[int, ...]:
        """The shape of what the exported function gives for one item."""

    @abc.abstractmethod
    def predicted(
        self, call: Function, batch: Batch, fold: "Fold", protocol: Protocol, kind: str, *, turned: bool
    ) -> Outputs:
        """What `expression.predicted` says of the spots of a batch, by an exported function.

        Args:
            call: the function, with its weights, of what `signature` says.
            kind: what it gives.
            turned: give the mean over the eight symmetries, which the function does not by itself.
        """


def normalise(images: jax.Array, fold: "Fold") -> jax.Array:
    """uint8 [B, H, W, 3] to float32 of zero mean and unit deviation over the training images, or over those of
    `fold.normalisation`."""
    own = fold.normalisation
    by = (own["mean"], own["std"]) if own else (fold.image_mean, fold.image_std)
    mean, std = (jnp.asarray(value, jnp.float32)[None, None, None, :] for value in by)
    return (images.astype(jnp.float32) - mean) * (1 / std)  # rounded alike whether std is a constant or an argument
