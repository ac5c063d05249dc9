"""Where the time of a training step goes: a trace of some steps, and seconds split into input, host and device."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from data_prep.errors import InputError
from stjax import distributed

STARVED = 0.25  # of a step spent waiting for input, from which the input is said to starve the device


def parse_steps(text: str) -> tuple[int, int] | None:
    """ "10:15" to (10, 15): the steps to trace, the last one not included; "" to None."""
    if not text:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise InputError(f"config.profile_steps is {text!r}, expected FIRST:END with FIRST < END, e.g. 10:15")
    return int(first), int(end)


class Trace:
    """Writes the trace of some steps, counted from 0, for TensorBoard's profile page; process 0's devices and threads.

    Args:
        steps: as `parse_steps` returns; None traces nothing.
        folder: a TensorBoard log folder.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self.steps = steps if distributed.is_writer() else None
        self.folder = folder
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, step: int, *, after: Any) -> Iterator[None]:
        """Around one step: begins and ends the trace where it should, and marks the step in it.

        Args:
            after: arrays of the steps before, which a trace that ends waits for.
        """
        if self._running and self.steps and step >= self.steps[1]:
            jax.block_until_ready(after)
            self._stop()
            print(f"trace of steps {self.steps}: tensorboard --logdir {self.folder} (profile)")
        if self.steps and not self._running and step == self.steps[0]:
            jax.profiler.start_trace(str(self.folder))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


class Pace:
    """How fast a run goes, from the step it begins at.

    Attributes:
        speed: steps a second, as last `measured`.
    """

    def __init__(self, first_step: int):
        self.first_step, self.speed = first_step, 0.0
        self._began = time.monotonic()

    def measured(self, step: int) -> float:
        """Steps a second up to `step`."""
        self.speed = (step - self.first_step) / (time.monotonic() - self._began)
        return self.speed

    def seconds_left(self, step: int, total: int) -> float:
        """From `step` to the last of `total`."""
        return (time.monotonic() - self._began) / (step - self.first_step) * (total - step)


class StepTimer:
    """Seconds of the steps so far, split into waiting for input, waiting for the device, and the rest, the host's own.

    The device works while the host waits for input or prepares; what the host waits for the device is what is left. So
    waiting for input is lost time exactly when hardly any waiting for the device remains.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets everything so far."""
        self._parts = {"input": 0.0, "device": 0.0}
        self._began = time.perf_counter()
        self._steps = 0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around waiting for "input" or "device"."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] += time.perf_counter() - began

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    def seconds(self) -> dict[str, float]:
        """Mean seconds a step since `restart`: {"input", "host", "device"}."""
        total = time.perf_counter() - self._began
        steps = max(self._steps, 1)
        host = total - sum(self._parts.values())
        return {"input": self._parts["input"] / steps, "host": host / steps, "device": self._parts["device"] / steps}


def starved(seconds: dict[str, float]) -> str | None:
    """A sentence for the user when the input keeps the device waiting, else None.

    Args:
        seconds: as `StepTimer.seconds` returns.
    """
    total = sum(seconds.values())
    if seconds["input"] < STARVED * total or seconds["device"] > seconds["input"]:
        return None
    return (
        f"note: the input starves the device: {seconds['input'] / total:.0%} of a step is waiting for it; raise "
        "--config.num_workers, or build the data set with --image-format raw"
    )
