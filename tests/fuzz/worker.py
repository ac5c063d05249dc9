"""The process in which cases are tried: one after the other, within limits of memory and file size.

It tells the parent over a pipe what it begins and what came of it, a JSON line each, so that when it hangs or dies the
parent knows of which case.
"""

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from data_prep import cli
from data_prep.errors import InputError
from tests.fuzz import targets

GIB = 1 << 30
PROJECT = Path(__file__).parents[2]
_OURS = ("data_prep", "stjax")


class Limits(NamedTuple):
    """What one case may take."""

    seconds: float = 30.0
    memory_bytes: int = 2 * GIB
    message_characters: int = 500


class Job(NamedTuple):
    """Cases `first` to `last - 1` of a target."""

    target: str
    first: int
    last: int


def serve(jobs: Iterable[Job], seed: int, root: Path, write: int, limits: Limits) -> None:
    """Tries all cases of some jobs in this process.

    Args:
        root: folder for inputs, this process's alone.
        write: file descriptor that takes the lines.
    """

    def tell(**values: Any) -> None:
        os.write(write, (json.dumps(values) + "\n").encode())

    quiet()
    with (root / "traces").open("w") as traces:
        faulthandler.enable(traces)
        faulthandler.register(signal.SIGUSR1, traces)
        for name, first, last in jobs:
            tell(state="preparing", target=name, case=first)
            target, sound, expected = prepare(name, root)
            limit_memory(limits)
            for number in range(first, last):
                tell(state="damaging", target=name, case=number)
                outcome = try_case(target, sound, expected, root, f"{seed}/{name}/{number}", limits, tell=tell)
                tell(state="done", target=name, case=number, **outcome)


def quiet() -> None:
    """Other libraries' chatter goes nowhere, and a file that grows without end ends with an error."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (GIB, GIB))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def prepare(name: str, root: Path) -> tuple[targets.Target, Path, targets.Facts]:
    """A target, its sound input and what is read of it; warms up what the first reading would have to pay for."""
    target, sound = targets.load(name), root / f"sound_{name}"
    if not sound.exists():
        making = root / f"making_{name}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        target.make(making)
        making.rename(sound)
    folder = fresh(sound, root)
    expected = target.use(folder)
    return target, sound, expected


def fresh(sound: Path, root: Path) -> Path:
    """A copy of the sound input, the only thing beside it."""
    folder = root / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder, symlinks=True)
    return folder


def limit_memory(limits: Limits) -> None:
    """Twice the limit beyond what is mapped now, so that a case that asks for far too much cannot have it."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = mapped + 2 * limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def try_case(
    target: targets.Target,
    sound: Path,
    expected: targets.Facts,
    root: Path,
    seed: str,
    limits: Limits,
    *,
    tell: Any = lambda **_: None,
) -> dict[str, Any]:
    """Damages a copy of the input and reads it.

    Returns:
        "outcome" ("refused", "same", "different", or the kind of finding), "what" was damaged, and of a finding "error"
        and "place".
    """
    folder, beside = fresh(sound, root), set(root.iterdir())
    what = target.damage(folder, random.Random(seed))
    tell(state="reading", what=what)
    before, started = _reset_peak(), time.monotonic()
    found: dict[str, Any] = {"what": what}
    try:
        facts = target.use(folder)
    except InputError as error:
        found |= {"outcome": "refused", "message": str(error)[:600]}
        if _asked_for_too_much(error):
            found |= _finding("memory", error)
        elif len(f"error: {cli.one_line(str(error))}") > limits.message_characters:
            found |= _finding("long message", error)
    except BaseException as error:  # whatever it is, it is what is looked for
        found |= _finding("memory" if _asked_for_too_much(error) else "exception", error)
    else:
        differing = sorted(key for key in {*facts, *expected} if facts.get(key) != expected.get(key))
        found |= {"outcome": "different" if differing else "same", "differing": differing[:8]}
        if differing and target.sealed:
            found |= {"outcome": "sealed", "error": "accepted though it says something else", "place": differing[0]}
    if (taken := _peak() - before) > limits.memory_bytes and found["outcome"] != "memory":
        found |= {"outcome": "memory", "error": "over the limit", "place": found.get("place", "")}
    if other := sorted(set(root.iterdir()) - beside):
        found |= {"outcome": "outside", "error": f"wrote {other[0].name}", "place": ""}
        for path in other:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found | {"seconds": round(time.monotonic() - started, 3), "memory": taken}


def _finding(kind: str, error: BaseException) -> dict[str, Any]:
    return {
        "outcome": kind,
        "error": type(error).__name__,
        "message": " ".join(str(error).split())[:300],
        "place": place(error),
        "trace": "".join(traceback.format_exception(error))[-6000:],
    }


def place(error: BaseException) -> str:
    """The last of the project's own lines an error passed through, and where it came from if that is another's."""
    frames = traceback.extract_tb(error.__traceback__)
    shown = []
    for frame in frames:
        path = Path(frame.filename)
        own = path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] in _OURS
        name = path.relative_to(PROJECT).as_posix() if own else "/".join(path.parts[-2:])
        shown.append((own, f"{name}:{frame.lineno} {frame.name}"))
    own_places = [text for own, text in shown if own]
    last = shown[-1][1] if shown else ""
    return own_places[-1] + (f" < {last}" if last != own_places[-1] else "") if own_places else last


def _asked_for_too_much(error: BaseException | None) -> bool:
    """Whether an error comes of memory that was not to be had."""
    while error is not None:
        if isinstance(error, MemoryError) or "Unable to allocate" in str(error) or "malloc of size" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reset_peak() -> int:
    """Bytes of memory in use now, from where the peak is measured."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def main_case(name: str, seed: int, number: int, root: Path, limits: Limits) -> dict[str, Any]:
    """One case in this process, to be looked at; the damaged input stays in `root / "case"`."""
    warnings.simplefilter("ignore")
    target, sound, expected = prepare(name, root)
    limit_memory(limits)
    faulthandler.dump_traceback_later(limits.seconds, exit=True, file=sys.stderr)
    return try_case(target, sound, expected, root, f"{seed}/{name}/{number}", limits)
