"""Suites: studies as data. A module here has `suite(options)`, which says what is trained on what, and what of it was
published; `stjax.suite` plans it, runs it and makes its tables."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_prep.dataset import MANIFEST, PatchDataset
from data_prep.errors import InputError

if TYPE_CHECKING:
    from stjax.suites._state import Place
    from stjax.suites._table import Part

MOST_SEEDS = 100


class Embedding(NamedTuple):
    """Features of a data set that a suite needs: `features/<name>`, by an encoder that `stjax encoders` lists; with
    those of so many windows a side around each spot, or of several fields of view, and pooled in another way than the
    encoder's own, both as `stjax embed` takes them."""

    name: str
    encoder: str
    context: int = 1
    fields: str = ""
    pooling: str = ""


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set of a suite, `data/<name>` of its folder.

    Attributes:
        raw: the folder under --root that has the raw files; "" is --root itself, None: it is always synthetic tissue.
        about: what they are, and where they are to be had.
        build: options of `data_prep.build`.
        demo: options of `data_prep.demo`, whose tissue takes their place with --tiny, or always ...
        tiny: ... and of `data_prep.build` then.
        sections: of each patient as published, for plans made before the data is there.
        spots: as published.
        features: made of it.
        demo_module: what takes the options of `demo`.
        as_it_lies: nothing is built: runs read the raw files.
    """

    name: str
    raw: str | None
    about: str
    build: tuple[str, ...]
    demo: tuple[str, ...]
    tiny: tuple[str, ...]
    sections: Mapping[str, tuple[str, ...]]
    spots: int
    features: tuple[Embedding, ...] = ()
    demo_module: str = "data_prep.demo"
    as_it_lies: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says of a suite.

    Attributes:
        root: folder of the raw data; None: not needed any more, or --tiny.
        out: folder of all that is made.
        weights: {name that the suite asks for: file}.
        synthetic: synthetic tissue takes the place of raw data, and is prepared as these are.
        encoders: whom to compare, of suites that do; none: those that the suite itself names.
    """

    out: Path
    root: Path | None = None
    seeds: tuple[int, ...] = (0,)
    tiny: bool = False
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    encoders: tuple[str, ...] = ()
    synthetic: bool = False

    def raw(self, data: Data) -> Path:
        """The folder of the raw files of a data set. Raises InputError where --root does not say where they are."""
        if self.is_made(data):
            return self.out / "raw" / data.name
        if self.root is None:
            raise InputError(f"data/{data.name} is not prepared: give the raw files' folder with --root")
        return self.root / (data.raw or "")

    def path(self, data: Data) -> Path:
        """The folder of a data set."""
        return self.out / "data" / data.name

    def is_prepared(self, data: Data) -> bool:
        """Whether it is there, with its features."""
        return self.is_built(data) and not self.features_to_make(data)

    def is_built(self, data: Data) -> bool:
        """Whether it is there."""
        if data.as_it_lies:
            return (self.is_made(data) or self.root is not None) and self.raw(data).is_dir()
        return (self.path(data) / MANIFEST).is_file()

    def features_to_make(self, data: Data) -> list[Embedding]:
        """Those of its features that are not there."""
        folder = self.path(data) / "features"
        return [each for each in data.features if not (folder / each.name / "features.json").is_file()]

    def is_made(self, data: Data) -> bool:
        """Whether its tissue is synthetic."""
        return self.tiny or self.synthetic or data.raw is None

    def patients(self, data: Data) -> dict[str, tuple[str, ...]]:
        """{patient: sections}, by name: of the data set where it is there, else as published."""
        if not self.is_built(data):
            return dict(sorted(data.sections.items()))
        found: dict[str, tuple[str, ...]] = {}
        for section in PatchDataset.open(self.path(data)).sections:
            found[section["patient"]] = (*found.get(section["patient"], ()), section["name"])
        return dict(sorted(found.items()))


class Command(NamedTuple):
    """A command line; `leaves` is the file, a pattern under the run's folder, that is there when it is done."""

    module: str
    arguments: tuple[str, ...]
    leaves: str


class Cell(NamedTuple):
    """The place of a run where every head is trained on every encoder's features."""

    head: str
    encoder: str
    fold: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One training with its scoring.

    Attributes:
        name: of its folder under runs/: names joined by "/".
        part, row: the table, and its row, that it belongs to.
        data: the data sets that it needs.
        commands: carried out in turn.
        trainings: how many networks it trains.
        scored: the folder, under its own, of the work directory with its scores.
        needs: runs that must be finished first.
        lacks: why it cannot run here, "" when it can.
        cell: its head and encoder, where rows differ in both.
        embeds: of a run that trains nothing: the encoder, and how many images it embeds.
    """

    name: str
    part: str
    row: str
    data: tuple[Data, ...]
    commands: tuple[Command, ...]
    trainings: int = 1
    scored: str = ""
    needs: "tuple[Run, ...]" = ()
    lacks: str = ""
    cell: Cell | None = None
    embeds: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A column of a table: a metric of metrics.json, "raw:..." one of raw counts, "gene:NAME", the PCC of one gene,
    "together:..." one of `of_patients`, "cost:processor_s" or "cost:peak_bytes"; shown in so many of its `unit`."""

    key: str
    title: str
    digits: int = 3
    higher_is_better: bool = True
    unit: float = 1.0


@dataclasses.dataclass(frozen=True)
class Suite:
    """A study.

    Attributes:
        title: what it is.
        source: what is quoted, as `quoted`: {part: {row: {metric: value}}}.
        figures: {part: its columns}.
        notes: {part: what is to be known of the published table}; "" of all.
        reference: the row that others are compared with where it is finished; "": the best one.
        parts: makes the tables of runs that no training left; returns them, and whether they are of synthetic tissue.
        of_encoders: whether `Options.encoders` says what is run.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    figures: Mapping[str, tuple[Figure, ...]]
    source: str = ""
    quoted: Mapping[str, Mapping[str, Mapping[str, float]]] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    reference: str = ""
    parts: "Callable[[Suite, Sequence[Place]], tuple[list[Part], bool]] | None" = None
    of_encoders: bool = False

    @property
    def data(self) -> tuple[Data, ...]:
        """Every data set that a run needs."""
        return merged(each for run in self.runs for each in run.data)


def merged(data: Iterable[Data]) -> tuple[Data, ...]:
    """Each data set once, by its name, with the features that any of them names."""
    found: dict[str, Data] = {}
    for each in data:
        known = found.setdefault(each.name, each)
        found[each.name] = dataclasses.replace(known, features=tuple(dict.fromkeys((*known.features, *each.features))))
    return tuple(found.values())


def names() -> list[str]:
    """Of every suite."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str, options: Options) -> Suite:
    """A suite by its name. Raises InputError for one that is not known, or options that it has not."""
    known = names()
    if (module := name.replace("-", "_")) not in known:
        raise InputError(f"suite {name!r} is not known; choose one of {', '.join(known)}")
    if twice := [each for each in options.encoders if options.encoders.count(each) > 1]:
        raise InputError(f"--encoder names {twice[0]} twice")
    found: Suite = importlib.import_module(f"stjax.suites.{module}").suite(options)
    if options.encoders and not found.of_encoders:
        raise InputError(f"--encoder is for suites that compare encoders, and {name} does not")
    return found


def train(options: Options, name: str, data: Data, config: str, **settings: object) -> Command:
    """`stjax.train` of a config that comes with stjax; a "." of a key is written "__"."""
    given = {key.replace("__", "."): value for key, value in settings.items()}
    arguments = (f"--config={config}", f"--workdir={options.out / 'runs' / name}")
    arguments += (f"--config.data_dir={options.path(data)}",)
    arguments += tuple(f"--config.{key}={value}" for key, value in given.items())
    return Command("stjax.train", arguments, "evaluation/*/metrics.json")
