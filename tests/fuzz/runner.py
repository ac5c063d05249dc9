"""Runs a worker, waits for what it tells, kills it where it hangs, and starts another where it died."""

import dataclasses
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz import worker
from tests.fuzz.worker import Job, Limits

_START_SECONDS = 600  # of imports and making the sound input
_WALL = 10  # times the limit of a case: on a busy machine it may not get a whole processor
_TICK_SECONDS = 0.5
FINDINGS = ("exception", "hang", "death", "memory", "sealed", "outside", "long message", "harness")
SAMPLES = 12


@dataclasses.dataclass
class Finding:
    """Cases that ended in the same way at the same place."""

    target: str
    outcome: str
    error: str
    place: str
    message: str
    trace: str
    cases: list[int]
    what: str


@dataclasses.dataclass
class Tally:
    """What came of a target's cases.

    Attributes:
        outcomes: how many of each.
        findings: by outcome, error and place.
        different: accepted cases that say something else than the sound input, a few for each kind of damage.
        slowest, largest: (seconds, case) and (bytes, case).
    """

    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    findings: dict[tuple[str, str, str], Finding] = dataclasses.field(default_factory=dict)
    different: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)

    def add(self, target: str, case: int, outcome: dict[str, Any]) -> None:
        """Counts one case."""
        kind = outcome["outcome"]
        self.outcomes[kind] += 1
        self.slowest = max(self.slowest, (outcome.get("seconds", 0.0), case))
        self.largest = max(self.largest, (outcome.get("memory", 0), case))
        if kind == "different" and len(self.different) < SAMPLES:
            self.different.append({"case": case, "what": outcome["what"], "differing": outcome["differing"]})
        if kind in FINDINGS:
            key = (kind, outcome.get("error", ""), outcome.get("place", ""))
            if key not in self.findings:
                more = (outcome.get("message", ""), outcome.get("trace", ""), [], outcome.get("what", ""))
                self.findings[key] = Finding(target, *key, *more)
            self.findings[key].cases.append(case)


def run(
    jobs: Sequence[Job], seed: int, limits: Limits, *, progress: Callable[[str, int], None] = lambda *_: None
) -> dict[str, Tally]:
    """Tries all cases of all jobs, {target: what came of them}."""
    tallies = {job.target: Tally() for job in jobs}
    shared_memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="stjax-fuzz-", dir=shared_memory if shared_memory.is_dir() else None))
    waiting = list(jobs)
    try:
        while waiting:
            waiting = _one_worker(waiting, seed, root, limits, tallies, progress)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return tallies


def _one_worker(
    jobs: Sequence[Job],
    seed: int,
    root: Path,
    limits: Limits,
    tallies: dict[str, Tally],
    progress: Callable[[str, int], None],
) -> list[Job]:
    """Runs a worker until it ends. Returns what is left to do."""
    read, write = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's threads, where a test has started it, do nothing that a case needs
        child = os.fork()
    if not child:
        status = 1
        try:
            os.close(read)
            worker.serve(jobs, seed, root, write, limits)
            status = 0
        except BaseException as error:  # the parent is told; nothing of it may go on here
            text = "".join(traceback.format_exception(error))[-3000:]
            os.write(write, (json.dumps({"state": "failed", "message": text}) + "\n").encode())
        finally:
            os._exit(status)
    os.close(write)
    now: dict[str, Any] = {"state": "starting", "target": jobs[0].target, "case": jobs[0].first}
    since, cpu = time.monotonic(), 0.0
    rest, hung = b"", False
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while True:
            if select.select([pipe], [], [], _TICK_SECONDS)[0]:
                data = pipe.read(1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    now |= json.loads(line)
                    if now["state"] == "done":
                        tallies[now["target"]].add(now["target"], now["case"], now)
                        progress(now["target"], now["case"])
                        now = {"state": "idle", "target": now["target"], "case": now["case"] + 1}
                since, cpu = time.monotonic(), _cpu_seconds(child)
            elif not hung and _too_long(now["state"], time.monotonic() - since, _cpu_seconds(child) - cpu, limits):
                hung = True
                os.kill(child, signal.SIGUSR1)
                time.sleep(0.3)  # it writes where it is
                os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        return []
    tally = tallies[now["target"]]
    code = os.waitstatus_to_exitcode(status)
    trace = (root / "traces").read_text()[-6000:] if (root / "traces").exists() else ""
    if now["state"] == "reading":
        error = "hang" if hung else signal.Signals(-code).name if code < 0 else f"exit {code}"
        found = {"outcome": "hang" if hung else "death", "error": error, "place": _traced_place(trace), "trace": trace}
        tally.add(now["target"], now["case"], found | {"what": now["what"]})
        return _left(jobs, now["target"], now["case"] + 1)
    why = {"outcome": "harness", "error": now["state"], "place": "", "trace": now.get("message", trace)}
    tally.add(now["target"], now["case"], why)
    if now["state"] == "failed" and len(tally.outcomes) > 1:
        return _left(jobs, now["target"], now["case"] + 1)
    return [job for job in _left(jobs, now["target"], now["case"]) if job.target != now["target"]]


def _left(jobs: Sequence[Job], target: str, case: int) -> list[Job]:
    """Jobs from a case of a target on."""
    place = [job.target for job in jobs].index(target)
    here = jobs[place]._replace(first=case)
    return [*([here] if here.first < here.last else []), *jobs[place + 1 :]]


def _too_long(state: str, wall: float, cpu: float, limits: Limits) -> bool:
    if state in ("starting", "preparing"):
        return wall > _START_SECONDS
    return cpu > limits.seconds or wall > _WALL * limits.seconds


def _cpu_seconds(process: int) -> float:
    """User and system time of a process, 0 when it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _traced_place(trace: str) -> str:
    """The innermost of the project's lines in faulthandler's last trace of the main thread."""
    last = trace[trace.rfind("most recent call first") :]
    lines = [line.strip() for line in last.splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if "/data_prep/" in line or ("/stjax/" in line and "/tests/" not in line)]
    return " < ".join(line.replace('"', "").rpartition("/")[2] for line in [*own[:1], *lines[:1]])
