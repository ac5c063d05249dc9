"""Data parallelism: one mesh axis, "data", over every device of every host; parameters replicated, batches split."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_prep.errors import InputError
from stjax import distributed
from stjax.ops.cpu import host_memory


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis "data" over the given devices, by default all of every host. The first thing a program
    does. The devices keep their order: the rows of a batch are then those of the hosts, one after another."""
    host_memory.keep_freed_memory()  # of use on CPUs alone, but before JAX starts its threads, when it is not known yet
    distributed.initialise()
    chosen = all_devices() if devices is None else devices
    return Mesh(np.asarray(chosen), ("data",), axis_types=(AxisType.Auto,))


def all_devices() -> list[Any]:
    """Every device of every host.

    Raises:
        InputError: JAX finds none of the kind that it is told to use, or cannot start what it finds.
    """
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:  # without CUDA's plugin, an assertion that says nothing
        found = " ".join(str(error).split("(set JAX_PLATFORMS")[0].split()).rstrip(".")
        found = found or "no such device, or no plugin for it"
        if not (asked := jax.config.jax_platforms):  # pyright: ignore[reportAttributeAccessIssue] -- made at run time
            raise InputError(f"JAX cannot start: {found}; `stjax doctor` looks over the installation") from None
        raise InputError(
            f"JAX_PLATFORMS is {asked!r}, which JAX cannot use here: {found}; unset it to take what is there, or set "
            "it to cpu; NVIDIA GPUs need pip install 'stjax[gpu]'"
        ) from None


def on_cpus(mesh: Mesh) -> bool:
    """Whether the devices are CPUs, where programs under way run side by side: each with working memory of its own, and
    none the sooner."""
    return mesh.devices.flat[0].platform == "cpu"


def one_step_at_a_time(state: Any, mesh: Mesh) -> None:
    """On CPUs, waits for the training step that `state` comes from; to be called some time before the next is
    dispatched, as a step's memory is freed just after its results are there.

    The memory of a step of large tiles is gigabytes. With four under way, the process takes four times as much, and
    longer, as it never works in memory that it has already.
    """
    if on_cpus(mesh):
        jax.block_until_ready(state)


def return_freed_memory(state: Any, mesh: Mesh) -> None:
    """On CPUs, waits for the step that `state` comes from, and returns to the system what is free in the process's
    heap: see `host_memory.return_freed_memory`. Not for every step: the next gets its memory anew, page by page."""
    if on_cpus(mesh):
        jax.block_until_ready(state)
        host_memory.return_freed_memory()


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over devices. Under jit a mean over it is a mean over the global batch,
    BatchNorm's statistics included."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, micro_batch: int, mesh: Mesh) -> None:
    """Raises InputError unless every device gets the same number of items of every (micro-)batch."""
    if batch_size < 1 or batch_size % mesh.size:
        raise InputError(
            f"config.batch_size is {batch_size}, not a positive multiple of the {mesh.size} devices; "
            f"use for example {max(1, round(batch_size / mesh.size)) * mesh.size}"
        )
    if micro_batch and (batch_size % micro_batch or micro_batch % mesh.size):
        fitting = [size for size in range(mesh.size, batch_size + 1, mesh.size) if batch_size % size == 0]
        raise InputError(
            f"config.micro_batch is {micro_batch}, no part of config.batch_size {batch_size} that the {mesh.size} "
            f"devices share; choose one of {', '.join(map(str, fitting))}"
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The nearest batch size from `batch_size` up that splits over the devices."""
    return -(-batch_size // mesh.size) * mesh.size


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's part of a batch, a tree of arrays with a leading axis B, as global arrays split over the mesh."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def put_whole(batch: Any, mesh: Mesh) -> Any:
    """A batch that every host holds whole, as global arrays split over the mesh."""
    sharding = split_batch(mesh)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    return jax.tree.map(put, batch)


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device."""
    return jax.device_put(tree, replicated(mesh))
