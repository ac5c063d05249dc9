"""What the rest of a suite takes, from a few timed steps of one run of each row on this machine."""

import collections
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep import cli, json_files
from data_prep.dataset import PatchDataset
from stjax import encoders
from stjax.features.images import fields_of, windows_of
from stjax.features.store import FOLDER, MASK, RANDOM, VECTORS, Writer, patches_sha256
from stjax.suites import Data, Embedding, Options, Run, Suite
from stjax.suites._state import DONE, LACKING, Place, why

_KEPT = 2  # checkpoints of a run: the newest and the best
_NOTES = (
    "estimated from the duration of a few steps of one run a row, after compilation, times the steps of its config, "
    "and the time to start; whatever else the machine is doing adds to them",
    "not included: preparing raw slides, validation, and scoring (minutes a run); early stopping may shorten runs",
)


class Pace(NamedTuple):
    """What was timed of a training: seconds to start and compile, of a step, how many it has, spots that it trains on,
    and bytes of a checkpoint."""

    start_s: float
    step_s: float
    steps: int
    spots: int
    state_bytes: int

    def seconds(self, spots: float | None) -> float:
        """A whole training's, on so many spots to train on; None: those that it was timed on."""
        return self.start_s + self.step_s * self.steps * (1 if spots is None else spots / self.spots)


class Row(NamedTuple):
    """What is left of a row.

    Attributes:
        runs: that are left.
        seconds, size: of one of them, seconds and bytes.
        why: why it is not known, "" when it is.
        synthetic: whether it was timed on tissue that is not the suite's.
    """

    part: str
    name: str
    runs: int
    seconds: float
    size: float
    why: str
    synthetic: bool


class Pooled(NamedTuple):
    """An encoder, and how its vectors are pooled, if not in its own way."""

    encoder: str
    pooling: str = ""


class Features(NamedTuple):
    """Features that are to be made: how many images, and what one takes, seconds and bytes; `why` as of `Row`."""

    name: str
    images: int
    image_s: float
    image_bytes: float
    why: str


# ------------------------------------------------------------------------------------------------------- arithmetic


def lines(rows: Sequence[Row], features: Sequence[Features], processes: int) -> list[str]:
    """What is printed: every row and every encoder, and the sums."""
    head = ["", "runs left", "h a run", "h in all", "GB in all", "timed on"]
    body = [
        [f"{row.part}: {row.name}", str(row.runs)]
        + ([""] * 3 if row.why else [_hours(row.seconds), _hours(row.runs * row.seconds), _gb(row.runs * row.size)])
        + [f"NOT TIMED: {row.why}" if row.why else ("synthetic tissue" if row.synthetic else "its data")]
        for row in rows
    ]
    body += [
        [f"features: {each.name}", ""]
        + ([""] * 3 if each.why else ["", _hours(each.images * each.image_s), _gb(each.images * each.image_bytes)])
        + [f"NOT TIMED: {each.why}" if each.why else f"{each.images:,} images, random weights"]
        for each in features
    ]
    known = [row for row in rows if not row.why]
    made = [each for each in features if not each.why]
    seconds = sum(row.runs * row.seconds for row in known) + sum(each.images * each.image_s for each in made)
    size = sum(row.runs * row.size for row in known) + sum(each.images * each.image_bytes for each in made)
    text = cli.table([head, *body], align="<>>>><")
    text.append(f"left, ESTIMATED: {_hours(seconds)} h one after another on this machine, {_gb(size)} GB of disk space")
    if processes > 1:
        each = f"{_hours(seconds / processes)} h on as many such devices, a plain division by {processes}"
        text.append(f"{processes} at a time: {each}")
    unknown = sum(row.runs for row in rows if row.why)
    text += [f"* {unknown} runs are not in the sums, as they could not be timed"] * bool(unknown)
    if any(row.synthetic for row in known):
        text.append(
            "* synthetic tissue: where it stands for published data, steps are multiplied by the published number of "
            "spots, less one patient's"
        )
    return text + [f"* {note}" for note in _NOTES]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}" if seconds < 36000 else f"{seconds / 3600:,.0f}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}" if size < 1e10 else f"{size / 1e9:,.0f}"


# ----------------------------------------------------------------------------------------------------------- timing


def estimate(suite: Suite, options: Options, chosen: Sequence[Place]) -> tuple[list[Row], list[Features]]:
    """Times a run of each row of which something is left, and the encoders of features that are not there.

    Raises:
        InputError: data sets of synthetic tissue cannot be made.
    """
    from stjax import suites

    made = dataclasses.replace(options, out=options.out / "timing", root=None, synthetic=True)
    left = [place for place in chosen if place.state() not in (DONE, LACKING)]
    wanted = suites.merged(data for place in left for data in place.run.data if not place.run.embeds)
    stands_in = [data for data in wanted if not options.is_prepared(data)]
    needed = {Pooled(each.encoder, each.pooling) for data in stands_in for each in data.features}
    records = {data.name: stand_in(data, made) for data in stands_in}
    images = _images(left, options, records)
    timed = {
        each: _timed(made, f"encoder_{each.encoder}{each.pooling}", [f"--encoder={each.encoder}", each.pooling])
        for each in {*needed, *images.values()}
    }
    found = [
        Features(what, count, of.get("image_s", 0.0), 4 * of.get("width", 0), of.get("failed", ""))
        for (what, count), each in images.items()
        for of in [timed[each]]
    ]
    for data in stands_in:
        write_noise(data, made, {each: of.get("parts", [0]) for each, of in timed.items()})
    return _rows(left, options, made, suites.load(suite.name, made).runs), found


def _rows(left: Sequence[Place], options: Options, made: Options, stand_ins: Iterable[Run]) -> list[Row]:
    """Of trainings; `stand_ins` are the suite's runs on synthetic tissue."""
    count = collections.Counter((place.run.part, place.run.row) for place in left)
    rows = []
    for (part, name), runs in count.items():
        run = next(place.run for place in left if (place.run.part, place.run.row) == (part, name))
        if run.embeds:
            continue
        published = None
        if synthetic := not all(options.is_prepared(data) for data in run.data):
            published = None if options.is_made(run.data[0]) else trained_on(run.data[0])
            run = next(each for each in stand_ins if (each.part, each.row) == (part, name))
        timed = _timed(made, run.name, run.commands[0].arguments)
        if "failed" in timed:
            rows.append(Row(part, name, runs, 0.0, 0.0, timed["failed"], synthetic))
            continue
        timed_s, of = timed["timed_s"], {key: timed[key] for key in ("step_s", "steps", "spots", "state_bytes")}
        pace = Pace(timed["wall_s"] - timed_s, **of)
        size = run.trainings * _KEPT * pace.state_bytes
        rows.append(Row(part, name, runs, run.trainings * pace.seconds(published), size, "", synthetic))
    return rows


def trained_on(data: Data) -> float:
    """How many spots a run trains on, as published: all but one patient's."""
    return data.spots * (1 - 1 / len(data.sections))


def stand_in(data: Data, made: Options) -> int:
    """Makes a data set of synthetic tissue, prepared as the suite's is; returns how many images it has."""
    from stjax.processes import Pool
    from stjax.suite import prepare

    with Pool(1) as pool:
        bare = dataclasses.replace(data, features=())
        prepare(bare if made.tiny else like_published(bare), made, pool)
    return sum(section["records"] for section in PatchDataset.open(made.path(data)).sections)


def write_noise(data: Data, made: Options, parts: Mapping[Pooled, Sequence[int]]) -> None:
    """Writes noise for features of a data set of synthetic tissue; `parts` are how many numbers of each kind an encoder
    makes of a window."""
    for each in made.features_to_make(data):
        dataset = PatchDataset.open(made.path(data))
        _write_noise(dataset, each, parts[Pooled(each.encoder, each.pooling)])


def like_published(data: Data) -> Data:
    """A data set whose synthetic sections have as many spots as the published ones, where these lie on an array."""
    sections = sum(map(len, data.sections.values()))
    if data.raw is None or not sections or "--layout=visium_hd" in data.demo:
        return data
    demo = (each for each in data.demo if not each.startswith("--spots="))
    return dataclasses.replace(data, demo=(*demo, f"--spots={round(data.spots / sections)}"))


def _write_noise(dataset: PatchDataset, features: Embedding, parts: Sequence[int]) -> None:
    """Features of a data set that say nothing of it: a training takes as long on them."""
    encoder, windows = encoders.find(features.encoder), features.context**2
    fields = _fields(features)
    width = len(fields) * sum(parts)
    key = {
        "encoder": features.encoder,
        "weights_sha256": f"{RANDOM}0",
        "pooling": features.pooling or encoder.pooling,
        "width": width,
        **({"fields": list(fields)} if len(fields) > 1 else {}),
        **({"parts": list(parts)} if len(parts) > 1 else {}),
        "dtype": "float32",
        "compute": "float32",
        "px": encoder.px,
        "um_per_px": {section["name"]: section["um_per_px"] for section in dataset.sections},
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "context": features.context,
        "maps": False,
        "patches": patches_sha256(dataset),
    }
    shape = (windows,) if windows > 1 else ()
    kinds: dict[str, tuple[tuple[int, ...], Any]] = {VECTORS: ((*shape, width), "float32")}
    kinds |= {MASK: (shape, bool)} if shape else {}
    random = np.random.default_rng(0)
    with Writer(dataset.path / FOLDER / features.name, key) as writer:
        for section in dataset.sections:
            records = section["records"]
            writer.begin(section, kinds, block=records)
            arrays = {VECTORS: random.normal(size=(records, *shape, width)).astype(np.float32)}
            writer.write(arrays | ({MASK: np.ones((records, *shape), bool)} if shape else {}))
        writer.finish()


def _fields(features: Embedding) -> tuple[float, ...]:
    return fields_of(features.fields, "fields") if features.fields else (1.0,)


def _images(left: Iterable[Place], options: Options, records: Mapping[str, int]) -> dict[tuple[str, int], Pooled]:
    """{(what, number of images): encoder} of features that are not there; as published, or the `records` of a study
    that is --tiny."""
    found: dict[tuple[str, int], Pooled] = {}
    embedded: collections.Counter[str] = collections.Counter()
    for place in left:
        if place.run.embeds:
            encoder, count = place.run.embeds
            embedded[encoder] += count
        for data in place.run.data:
            missing = options.features_to_make(data) if options.is_built(data) else data.features
            spots = records.get(data.name, data.spots) if options.tiny else data.spots
            for each in missing:
                windows = each.context**2 * len(windows_of(_fields(each))[0])
                found[f"data/{data.name}, {each.name}", spots * windows] = Pooled(each.encoder, each.pooling)
    return found | {(encoder, count): Pooled(encoder) for encoder, count in embedded.items()}


def _timed(made: Options, name: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """What a process finds, with the seconds that it lasted, "wall_s"; {"failed": why} where it ends otherwise."""
    out, log = (made.out / folder / f"{name}.{suffix}" for folder, suffix in (("found", "json"), ("logs", "log")))
    for path in (out, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    print(f"timing {name}", flush=True)
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        line = [sys.executable, "-m", "stjax.suites._timed_steps", str(out), *arguments]
        code = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code or not out.is_file():
        return {"failed": why(code, log)}
    return json_files.read(out, remedy="run the same command again") | {"wall_s": time.monotonic() - began}
