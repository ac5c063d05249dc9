"""The operations of `stjax.ops.cpu` compared with XLA's own: `python -m stjax.bench --what=cpu_ops`, on a CPU.

Shapes are those of the networks that use them, float32. Operations are timed forward and backward. What keeps XLA
from working arrays out again is a compiler option of a whole program, and what keeps freed memory is a setting of a
process: both are timed on a training step of a network, with and without.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from data_prep.errors import InputError
from stjax.benchmarks import Interleave, Row, row_of
from stjax.ops.cpu.conv import conv, conv_native
from stjax.ops.cpu.depthwise import depthwise_conv, depthwise_conv_native
from stjax.ops.cpu.elementwise import compiler_options
from stjax.ops.cpu.host_memory import keep_freed_memory
from stjax.ops.cpu.pool import max_pool, max_pool_native

XLA = "XLA's own"
# Name -> operation, XLA's own, side of the image, channels, shape of the kernel (None: no kernel), settings.
OPERATIONS: dict[str, tuple[Callable[..., jax.Array], Callable[..., jax.Array], int, int, Any, dict[str, Any]]] = {
    "conv 1x1 (ResNet)": (conv, conv_native, 56, 256, (1, 1, 256, 64), {}),
    "conv 1x1, stride 2 (ResNet)": (conv, conv_native, 56, 256, (1, 1, 256, 512), {"stride": 2}),
    "conv 1x1 (EfficientNet)": (conv, conv_native, 28, 40, (1, 1, 40, 240), {}),
    "depthwise 3x3 (EfficientNet)": (
        depthwise_conv, depthwise_conv_native, 56, 144, (3, 3, 1, 144), {"stride": 1, "padding": 1},
    ),
    "depthwise 5x5, stride 2 (EfficientNet)": (
        depthwise_conv, depthwise_conv_native, 56, 144, (5, 5, 1, 144), {"stride": 2, "padding": 2},
    ),
    "max pool 3x3, stride 2 (ResNet)": (
        max_pool, max_pool_native, 112, 64, None, {"size": 3, "stride": 2, "padding": 1},
    ),
}  # fmt: skip
_STEPS, _PROCESSES, _KEEP = 6, 3, "keep"
Step = Callable[[dict[str, str]], Callable[[], None]]  # compiler options -> a training step


def rows(batch_size: int, rounds: int, interleave: Interleave, *, tiny: bool) -> Iterator[Row]:
    """A row each of XLA's own operation and of ours; with `tiny` of the first alone."""
    for name, (ours, native, side, channels, shape, settings) in list(OPERATIONS.items())[: 1 if tiny else None]:
        x = jax.random.normal(jax.random.key(0), (batch_size, side, side, channels))
        given = (x,) if shape is None else (x, jax.random.normal(jax.random.key(1), shape))
        programs = {XLA: _gradients(native, given, settings), "stjax": _gradients(ours, given, settings)}
        yield from _rows(f"{name} batch {batch_size}", interleave(programs, rounds=rounds, description=name))


def step_rows(
    model: str, batch_size: int, image_size_px: int, step_of: Step, rounds: int, interleave: Interleave, *, tiny: bool
) -> Iterator[Row]:
    """A row each of a network's training step without and with what stjax sets for CPUs.

    Args:
        model: a name of `stjax bench --models`, and `step_of` what makes its training step.
        tiny: one process each, of one step.
    """
    case = f"{model} batch {batch_size} {image_size_px} px"
    steps = {XLA: step_of({}), "stjax": step_of(compiler_options())}
    yield from _rows(f"barriers kept, {case}", interleave(steps, rounds=rounds, description="barriers kept"))
    asked = [model, f"{batch_size}", f"{image_size_px}", f"{1 if tiny else _STEPS}"]
    taken: dict[str, list[float]] = {"the system's": [], "stjax": []}
    for _ in range(1 if tiny else _PROCESSES):
        for name, seconds in taken.items():
            seconds.append(_process([*asked, _KEEP] if name == "stjax" else asked))
    least = {name: min(seconds) for name, seconds in taken.items()}  # a process's own luck with memory aside
    yield from _rows(f"freed memory kept, {case}", least)


def _rows(case: str, seconds: dict[str, float]) -> Iterator[Row]:
    reference = next(iter(seconds.values()))
    return (row_of(case, name, taken, reference) for name, taken in seconds.items())


def _gradients(operation: Callable[..., jax.Array], given: tuple[jax.Array, ...], settings: dict[str, Any]) -> Any:
    def loss(*given: jax.Array) -> jax.Array:
        y = operation(*given, **settings)
        return jnp.vdot(y, y)

    program = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(given)))), compiler_options=compiler_options())
    compiled = program.lower(*given).compile()
    return lambda: jax.block_until_ready(compiled(*given))


def _process(arguments: list[str]) -> float:
    """Seconds of a step in a process of its own."""
    command = [sys.executable, "-m", "stjax.benchmarks.cpu_ops", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    if done.returncode:
        raise InputError(f"a step in another process failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return float(done.stdout.split()[-1])


def _main(model: str, batch_size: str, image_size_px: str, steps: str, keep: str = "") -> None:
    """Prints the median seconds of a training step, with freed memory kept or given back to the system."""
    if keep == _KEEP:
        keep_freed_memory()
    from stjax import bench  # which imports this module

    step = bench.training_step(model, int(batch_size), int(image_size_px), compiler_options())
    step()
    seconds = []
    for _ in range(int(steps)):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds))


if __name__ == "__main__":
    _main(*sys.argv[1:])
