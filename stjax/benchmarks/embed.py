"""Embedding throughput compared with timm and torchvision: `python -m stjax.bench --what=embed`.

Networks of random weights on uint8 images of 224 px, normalised on the way. PyTorch runs in a process of its own, which
waits while the other is timed: `--torch-python` names an interpreter that has torch, timm and torchvision.
"""

import contextlib
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_prep.errors import InputError
from stjax import parallel
from stjax.benchmarks import Interleave, Row, row_of
from stjax.features.embedder import Embedder

MODELS = {  # ours: theirs
    "kaiko_s16": "vit_small_patch16_224",
    "kaiko_b16": "vit_base_patch16_224",
    "ciga_resnet50": "resnet50",
}
_BATCH = 8


def rows(
    torch_python: Path | None, batch_size: int, rounds: int, interleave: Interleave, *, tiny: bool = False
) -> Iterator[Row]:
    """A row each of PyTorch, where there is an interpreter with it, and of stjax.

    Args:
        tiny: the first of the networks alone.
    """
    mesh = parallel.make_mesh()
    batch_size = parallel.round_up(batch_size or _BATCH, mesh)
    for name, theirs in itertools.islice(MODELS.items(), 1 if tiny else None):
        images = np.random.default_rng(0).integers(0, 256, (batch_size, 224, 224, 3)).astype(np.uint8)
        with contextlib.ExitStack() as stack:
            methods: dict[str, Callable[[], Any]] = {}
            if torch_python is not None:
                methods["torch"] = stack.enter_context(_torch(torch_python, theirs, batch_size))
            methods["stjax"] = _ours(name, images, mesh)
            best = dict.fromkeys(methods, float("inf"))
            timed = {label: _timed(label, method, best) for label, method in methods.items()}
            seconds = interleave(timed, rounds=rounds, description=name)
        for label, taken in seconds.items():
            speed = f"{batch_size / taken:.1f} images/s, at best {batch_size / best[label]:.1f}"
            yield row_of(f"{theirs} batch {batch_size}", label, taken, seconds.get("torch"), note=speed)


def _timed(label: str, method: Callable[[], Any], best: dict[str, float]) -> Callable[[], None]:
    """The method, which keeps its least time: on a busy machine it says more than the median."""

    def run() -> None:
        started = time.perf_counter()
        method()
        best[label] = min(best[label], time.perf_counter() - started)

    return run


def _ours(name: str, images: np.ndarray, mesh: Mesh) -> Callable[[], Any]:
    embed = Embedder.open(name, None, seed=0, mesh=mesh).compiled(tiles=False)
    return lambda: jax.block_until_ready(embed(images))


@contextlib.contextmanager
def _torch(python: Path, name: str, batch_size: int) -> Iterator[Callable[[], None]]:
    """A function that has PyTorch embed a batch, in its own process. Raises InputError where that does not start."""
    command = [str(python), str(Path(__file__).with_name("torch_server.py"))]
    try:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment())
    except OSError as error:
        raise InputError(f"--torch-python {python}: {error.strerror}") from None
    assert server.stdin is not None
    assert server.stdout is not None
    into, out = server.stdin, server.stdout

    def run(line: str = "") -> None:
        with contextlib.suppress(BrokenPipeError):
            print(line, file=into, flush=True)
        if not out.readline():
            raise InputError(f"--torch-python {python}: torch, timm and torchvision do not all run there; see above")

    try:
        run(f"{name} {batch_size}")
        yield run
    finally:
        with contextlib.suppress(BrokenPipeError):
            into.close()
        server.wait()
        out.close()


def _environment() -> dict[str, str]:
    """Without this project's modules, which would be found before the other interpreter's."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
