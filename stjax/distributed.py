"""Several processes as one program: joining them, who writes, and waiting for one another.

A process is one of many when JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say so (as
launch/local.py sets them), when Slurm or Open MPI started several tasks, or when STJAX_DISTRIBUTED=1 asks
`jax.distributed` to find out by itself (TPU slices, Kubernetes). Otherwise nothing here does anything.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_prep.errors import InputError

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TASK_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # of the tasks this one was started with


def initialise() -> bool:
    """Joins the other processes, where there are any. The first thing a program does; harmless when done again.

    Returns:
        Whether this process is one of several hosts' or tasks'.

    Raises:
        InputError: the environment asks for it, but does not say enough, or the others are not reached.
    """
    if jax.distributed.is_initialized():
        return True
    given = {name: os.environ[name] for name in EXPLICIT if name in os.environ}
    try:
        if len(given) == len(EXPLICIT):
            processes, process = (int(given[name]) for name in EXPLICIT[1:])
            # Who and where everyone is is given: JAX must not ask a cluster too, which may know of other tasks.
            jax.distributed.initialize(given[EXPLICIT[0]], processes, process, cluster_detection_method="deactivate")
        elif _asked_for():
            jax.distributed.initialize()
        elif given:
            raise ValueError(f"{', '.join(given)} set without {', '.join(sorted(set(EXPLICIT) - set(given)))}")
        else:
            return False
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"this process should join others but cannot: {error}; set {', '.join(EXPLICIT)}, or unset "
            "STJAX_DISTRIBUTED to train alone (launch/README.md)"
        ) from None
    return True


def _asked_for() -> bool:
    if (asked := os.environ.get("STJAX_DISTRIBUTED", "")) in ("0", "1"):
        return asked == "1"
    if asked:
        raise InputError(f"STJAX_DISTRIBUTED is {asked!r}, expected 0 or 1")
    return any(os.environ.get(name, "1") not in ("", "1") for name in TASK_COUNTS)


def is_writer() -> bool:
    """Whether this process writes the files and prints for all. Alone, it does not touch the devices to know."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has come here; at once when there is one."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def writer_first(name: str) -> Iterator[None]:
    """What is done within is done by process 0 before any other begins."""
    if not is_writer():
        barrier(name)
    yield
    if is_writer():
        barrier(name)


def gather(tree: Any) -> Any:
    """Arrays of which each process has its rows, whole on every process: the rows of process 0 first."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.process_allgather(tree, tiled=True)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process. Every process must ask at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))
