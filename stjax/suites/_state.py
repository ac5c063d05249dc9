"""What is known of a suite's runs: finished, failed, begun or not; kept in files, so that any process may ask."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from data_prep import files, json_files
from data_prep.cli import one_line
from data_prep.errors import InputError
from data_prep.json_files import Lacking, Maybe
from stjax import checkpoint, workdir
from stjax.processes import Pool
from stjax.suites import Command, Data, Options, Run, Suite

DONE, FAILED, BEGUN, TO_DO, LACKING = STATES = ("done", "failed", "begun", "to do", "cannot run here")
BUSY = "another process is at it"
PLAN = "suite_options.json"
_NOTE = {
    "commands": json_files.ANY,
    "seconds": json_files.number(0),
    "processor_s": Lacking(json_files.number(0)),
    "peak_bytes": Lacking(json_files.number(0)),
    "failed": Maybe(json_files.TEXT),
}
_KEPT = {
    "suite": json_files.TEXT,
    "tiny": json_files.FLAG,
    "seeds": json_files.numbers(0, whole=True),
    "weights": Lacking(json_files.OBJECT),
    "encoders": Lacking(json_files.TEXTS),
}
_ORPHAN_S = 30.0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run of a suite lives, and what is known of it."""

    out: Path
    run: Run

    @property
    def folder(self) -> Path:
        """Its work directory, or that of its cross-validation."""
        return self.out / "runs" / self.run.name

    @property
    def scored(self) -> Path:
        """The work directory with its scores."""
        return self.folder / self.run.scored

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.out / "logs" / f"{self.run.name}.log"

    def needs_data(self) -> tuple[Data, ...]:
        """The data sets that it is made of, where it can be made."""
        return () if self.run.lacks else self.run.data

    def note(self) -> dict[str, Any]:
        """What was written of it: {"commands", "seconds", "processor_s", "peak_bytes", "failed"}."""
        path = self.out / "state" / f"{self.run.name}.json"
        if not path.is_file():
            return {"commands": None, "seconds": 0.0, "processor_s": 0.0, "peak_bytes": 0, "failed": None}
        remedy = "remove it, and the same command looks at the run anew"
        return json_files.require(json_files.read(path, remedy=remedy), _NOTE, str(path), remedy=remedy)

    def write(self, note: dict[str, Any]) -> None:
        """Keeps `note`."""
        json_files.write(self.out / "state" / f"{self.run.name}.json", note)

    def state(self) -> str:
        """One of `STATES`."""
        if self.run.commands and all(self.is_done(command) for command in self.run.commands):
            return DONE
        if self.run.lacks:
            return LACKING
        if self.note()["failed"] is not None:
            return FAILED
        return BEGUN if self.folder.is_dir() else TO_DO

    def is_done(self, command: Command) -> bool:
        """Whether a command line has left what it leaves; of a training, and it came to its end."""
        if not any(self.folder.glob(command.leaves)):
            return False
        meta = checkpoint.newest(self.folder / workdir.CHECKPOINTS)
        return command.module != "stjax.train" or bool(meta and meta.get("finished"))

    def carry_out(self, pool: Pool) -> str:
        """Carries out what is left to do, unless another process does; returns the state it is then in, or `BUSY`.

        Raises:
            InputError: the folder is of a run with other settings.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(self.out / "state" / f"{self.run.name}.lock", busy=BUSY))
                if self.folder.is_dir():  # what a killed suite began ends when it next prints
                    with files.lock(self.folder / workdir.LOCK, busy=BUSY, wait_s=_ORPHAN_S):
                        pass
            except InputError as error:
                if str(error) != BUSY:
                    raise
                return BUSY
            return self._carry_out(pool)

    def _carry_out(self, pool: Pool) -> str:
        note, lines = self.note(), [[command.module, *command.arguments] for command in self.run.commands]
        if note["commands"] not in (None, lines):
            raise InputError(
                f"{self.folder} is of a run with other settings than {self.run.name} now has; choose another --out, or "
                f"remove it and {self.out / 'state' / self.run.name}.json"
            )
        note |= {"commands": lines, "failed": None}
        self.write(note)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        for command in self.run.commands:
            if self.is_done(command):
                continue
            begun = time.monotonic()
            ended = pool.run(self.run.name, [command.module, *command.arguments], log=self.log)
            note["seconds"] += time.monotonic() - begun
            note["processor_s"] = note.get("processor_s", 0.0) + ended.processor_s
            note["peak_bytes"] = max(note.get("peak_bytes", 0), ended.peak_bytes)
            if ended.code and not pool.ended:
                note["failed"] = why(ended.code, self.log)
            self.write(note)
            if not self.is_done(command):
                break  # it failed, or was stopped and has saved
        return self.state()


def why(code: int, log: Path) -> str:
    """Why a process failed, from its exit code, negative where a signal ended it, and the last that it printed."""
    if code == -signal.SIGKILL:
        return "killed, as the system does when memory runs out; try a smaller batch_size, or a micro_batch"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return last_line(log) or f"exit code {code}"


def last_line(log: Path) -> str:
    """The last line of a file that says something."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1])[:300] if lines else ""


def places(suite: Suite, options: Options, only: Iterable[str] = ()) -> list[Place]:
    """The runs that are asked for.

    Args:
        only: rows, parts, parts of names ("b0_aux", "C5") or patterns of names ("b0*/C5"); none: all.

    Raises:
        InputError: nothing is called so.
    """
    chosen = list(suite.runs)
    if wanted := list(only):
        for each in wanted:
            if not any(_is_called(run, each) for run in suite.runs):
                some = sorted({part for run in suite.runs for part in run.name.split("/")})
                prepared = all(options.is_built(data) for run in suite.runs for data in run.data)
                until = (
                    ""
                    if prepared
                    else "; until the data is prepared (run --prepare) they are of the published patients"
                )
                raise InputError(f"--only names {each}, which no run is called; names have {', '.join(some)}{until}")
        chosen = [run for run in suite.runs if any(_is_called(run, each) for each in wanted)]
    return [Place(options.out, run) for run in chosen]


def _is_called(run: Run, text: str) -> bool:
    return text in (run.row, run.part, *run.name.split("/")) or fnmatchcase(run.name, text)


def keep(suite: Suite, options: Options) -> None:
    """Writes down what the folder is of. Raises InputError where it is of another suite, other seeds, or not tiny."""
    asked = {"suite": suite.name, "tiny": options.tiny, "seeds": list(options.seeds), "weights": dict(options.weights)}
    there = _kept(options.out) or asked
    if differing := [f"{key} was {there.get(key)}, is {now}" for key, now in asked.items() if there.get(key) != now]:
        raise InputError(f"{options.out} is of another study: {'; '.join(differing)}; choose another --out")
    now = asked | {"encoders": list(options.encoders)}  # of which there may be more each time
    if now != there:
        json_files.write(options.out / PLAN, now)


def as_kept(options: Options) -> Options:
    """`options` to look at a folder with: what they leave open is what its last run was given."""
    kept, none = _kept(options.out), Options(options.out)
    taken = {"seeds": tuple, "weights": dict, "encoders": tuple, "tiny": bool}
    known = {name: kind(kept[name]) for name, kind in taken.items() if name in kept}
    return dataclasses.replace(options, **{k: v for k, v in known.items() if getattr(options, k) == getattr(none, k)})


def _kept(out: Path) -> dict[str, Any]:
    """What `keep` wrote; {} before it did."""
    path, remedy = out / PLAN, "choose another --out"
    if not path.is_file():
        return {}
    return json_files.require(json_files.read(path, remedy=remedy), _KEPT, str(path), remedy=remedy)
