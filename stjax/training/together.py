"""Trains several runs in one program: parameters, statistics and data carry a leading axis over the members.

The members are folds or seeds of one config. Each has its own data, panel, schedule, steps and checkpoints, in its own
work directory, as `stjax.train` would leave it: the same results to rounding, resumed by either. What differs in size
between members, genes of AuxNet, is padded with zeros, which stay zeros. All go through an epoch together: a member
whose epoch has fewer steps waits for the others.

Where the devices are a divisor of the members, each device trains its own members on whole batches; otherwise all
devices share every member's batches. On a CPU a device takes its members one after another, as convolutions there are
slow for several sets of weights; elsewhere all at once (`vmap`).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_prep import cli
from data_prep.counted import counted
from data_prep.errors import InputError
from stjax import checkpoint, parallel, views, workdir
from stjax.config import CLOSED_FORM, Config
from stjax.data import input_pipeline
from stjax.ops.cpu.elementwise import compiler_options
from stjax.training import faults, run_log, steps
from stjax.training.job import Job, prepare
from stjax.training.validation import Validation

_STATISTICS = ("target_mean", "target_std", "image_mean", "image_std", "train_mean")


def train(runs: Sequence[tuple[Config, Any]]) -> None:
    """Trains runs to their end, without scoring them.

    Args:
        runs: config, not yet resolved, and work directory of each; the configs differ in fold and seed alone.

    Raises:
        InputError: tiles, several processes, or panels that do not fit together.
        FloatingPointError: a loss became NaN or infinite.
        faults.Stopped: SIGTERM came, and every run is saved.
    """
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(faults.StopOnSigterm())
        mesh = parallel.make_mesh()
        if jax.process_count() > 1:
            raise InputError("--mode=together is for the devices of one process; use --mode=sequential on many")
        jobs = []
        for config, folder in runs:
            stack.enter_context(workdir.locked(folder))
            print(f"\n=== {folder}")
            jobs.append(prepare(config, folder, mesh))
        jobs = [job for job in jobs if not job.meta["finished"]]
        if not jobs:
            return
        if not (view := views.of(jobs[0].fold)).stacks:
            raise InputError(f"--mode=together is not for models of {view.items}; use --mode=processes")
        if jobs[0].config.fit == CLOSED_FORM:
            raise InputError("--mode=together shares steps, of which a closed form has one; use --mode=sequential")
        if len({job.fold.panel.num_main for job in jobs}) > 1:
            raise InputError("the folds have panels of different sizes; use --mode=processes")
        members = Members(jobs, mesh)
        with stop.held(), contextlib.closing(members):
            fit(members, stop)


class Members:
    """Jobs with their states stacked, and the programs that train and evaluate all of them."""

    def __init__(self, jobs: Sequence[Job], mesh: jax.sharding.Mesh):
        self.jobs, self.mesh = list(jobs), mesh
        own_devices = len(jobs) % mesh.size == 0
        self.split = PartitionSpec("data") if own_devices else PartitionSpec(None, "data")  # of batches
        whole = PartitionSpec("data") if own_devices else PartitionSpec()  # of everything else
        widest = max(self.jobs, key=lambda job: job.fold.panel.num_aux)
        self.genes = len(widest.fold.panel.symbol)
        self.aux_share = [widest.fold.panel.num_aux / max(job.fold.panel.num_aux, 1) for job in self.jobs]
        treedef = jax.tree.structure(widest.template)
        leaves = zip(*(jax.tree.leaves(job.state) for job in self.jobs), strict=True)
        stacked = [_stack(each) for each in leaves]
        for job in self.jobs:
            job.state = {}
        self.state = self._put(jax.tree.unflatten(treedef, stacked), whole)
        self.facts = self._put([_facts(job, widest) for job in self.jobs], whole, stack=True)
        config = widest.config

        def of_member(facts: dict[str, jax.Array]) -> dict[str, Any]:
            fold = dataclasses.replace(widest.fold, **{name: facts[name] for name in _STATISTICS})
            return {"fold": fold, "protocol": widest.protocol, "aux_weight": facts["aux_weight"]}

        def train_member(state: Any, facts: Any, batch: Any, clock: Any) -> tuple[Any, Any]:
            step_of = steps.train_step_of(widest.graphdef, config, seed=facts["seed"], **of_member(facts))

            def run(state: Any) -> tuple[Any, Any]:
                return step_of(state, batch, clock["step"], clock["rate"])

            figures = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, state)[1])
            return jax.lax.cond(clock["active"], run, lambda state: (state, figures), state)

        def eval_member(state: Any, facts: Any, batch: Any, clock: Any) -> tuple[Any, Any]:
            del clock
            return steps.eval_step_of(widest.graphdef, config, **of_member(facts))(state, batch)

        def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
            program = every_member(function)
            if own_devices:
                program = jax.shard_map(
                    program, mesh=mesh, in_specs=(whole, whole, self.split, whole), out_specs=whole, check_vma=False
                )
            shardings = [NamedSharding(mesh, spec) for spec in (whole, whole, self.split, whole)]
            options |= {"in_shardings": tuple(shardings), "compiler_options": compiler_options()}
            return jax.jit(program, out_shardings=shardings[0], **options)

        self._whole = whole
        self._train = compiled(train_member, donate_argnums=0)
        self._eval = compiled(eval_member)
        self._streams = [job.batches() for job in self.jobs]
        self._last: list[Any] = [None] * len(self.jobs)

    def _put(self, tree: Any, spec: PartitionSpec, *, stack: bool = False) -> Any:
        if stack:
            tree = jax.tree.map(lambda *leaves: np.stack(leaves), *tree)
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def _padded(self, batch: dict[str, Any]) -> dict[str, Any]:
        missing = self.genes - batch["counts"].shape[-1]
        return batch | {"counts": np.pad(batch["counts"], [(0, 0), (0, 0), (0, missing)])}

    def step(self, clocks: Sequence[tuple[int, float] | None]) -> tuple[Any, list[Any]]:
        """Trains every member that has a clock, (step, learning rate), on its next batch.

        Returns:
            Metrics with a leading axis over members, and the positions of each member's records.
        """
        for i, clock in enumerate(clocks):
            if clock is not None or self._last[i] is None:  # who waits gets its last batch, and does not look at it
                batch, index = next(self._streams[i])
                self._last[i] = self._padded(batch), index
        numbers = [
            {
                "step": np.uint32(c[0] if c else 0),
                "rate": np.float32(c[1] if c else 0),
                "active": np.bool_(c is not None),
            }
            for c in clocks
        ]
        batches = self._put([last[0] for last in self._last], self.split, stack=True)
        clock = self._put(numbers, self._whole, stack=True)
        self.state, figures = self._train(self.state, self.facts, batches, clock)
        return figures, [last[1] for last in self._last]

    def validate(self) -> list[dict[str, float | None]]:
        """Every member's metrics of its validation spots; none of a member without any."""
        found = [Validation(job.fold, job.protocol) for job in self.jobs]
        size = parallel.round_up(self.jobs[0].config.eval_batch_size, self.mesh)
        streams = [
            input_pipeline.evaluation_batches(job.val, batch_size=size) if job.val is not None else iter(())
            for job in self.jobs
        ]
        clock = self._put([{"step": np.uint32(0)}] * len(self.jobs), self._whole, stack=True)
        while any(batch := [next(stream, None) for stream in streams]):
            some = next(each for each in batch if each is not None)[0]
            empty = jax.tree.map(np.zeros_like, self._padded(some))
            padded = [empty if each is None else self._padded(each[0]) for each in batch]
            prediction, sums = self._eval(self.state, self.facts, self._put(padded, self.split, stack=True), clock)
            prediction, loss = np.asarray(prediction), np.asarray(sums["loss"])
            for i, each in enumerate(batch):
                if each is not None:
                    found[i].update(prediction[i], float(loss[i]), each[0])
        return [each.figures() if job.val is not None else {} for each, job in zip(found, self.jobs, strict=True)]

    def state_of(self, member: int) -> Any:
        """One member's state as it would be alone, on the host."""
        job = self.jobs[member]
        shapes, treedef = jax.tree.flatten(job.template)
        leaves = zip(jax.tree.leaves(self.state), shapes, strict=True)
        return jax.tree.unflatten(
            treedef, [np.asarray(leaf[member])[tuple(map(slice, shape.shape))] for leaf, shape in leaves]
        )

    def close(self) -> None:
        """Ends the reading of data."""
        for stream in self._streams:
            stream.close()


def fit(members: Members, stop: faults.StopOnSigterm) -> None:
    """Trains every member to its end, an epoch of all after another, with a checkpoint of each at its end."""
    jobs = members.jobs
    position = [job.meta["step"] for job in jobs]
    total = max(job.schedule.total_steps for job in jobs)
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(contextlib.closing(run_log.Log(job.folder / "logs", job.meta["step"]))) for job in jobs
        ]
        dog = stack.enter_context(faults.Watchdog(jobs[0].config.step_timeout_s))
        bar = stack.enter_context(cli.progress(total=total, description=counted(len(jobs), "runs"), unit="step"))
        bar.update(min(position))
        while not all(job.meta["finished"] for job in jobs):
            of_epoch = [job.schedule.steps_per_epoch for job in jobs]
            epoch = [at // length + 1 for at, length in zip(position, of_epoch, strict=True)]
            losses = [list(job.meta.pop("epoch_losses", [])) for job in jobs]
            dog.beat("an epoch's first step", compiles=True)
            while not stop.asked:
                clocks = [
                    None
                    if job.meta["finished"] or position[i] >= epoch[i] * of_epoch[i]
                    else (position[i], job.schedule.learning_rate(position[i]))
                    for i, job in enumerate(jobs)
                ]
                if not any(clocks):
                    break
                figures, index = members.step(clocks)
                arrays = {name: np.asarray(value) for name, value in figures.items()}
                for i, (job, clock) in enumerate(zip(jobs, clocks, strict=True)):
                    if clock is None:
                        continue
                    position[i] += 1
                    values = {name: float(value[i]) for name, value in arrays.items()}
                    faults.require_finite(values["loss"], position[i], index[i], job.train, job.checkpoints)
                    if "loss_aux" in values:
                        values["loss_aux"] *= members.aux_share[i]
                    losses[i].append(values["loss"])
                    logs[i].write(
                        "train", {"step": position[i], "learning_rate": clock[1], **values, "epoch": epoch[i]}
                    )
                bar.update()
                dog.beat(f"step {max(position)}")
            validation: list[Any] = [None] * len(jobs)
            if not stop.asked:
                dog.beat("validation", compiles=True)
                validation = members.validate()
            for i, job in enumerate(jobs):
                if job.meta["finished"]:
                    continue
                if position[i] < epoch[i] * of_epoch[i] or validation[i] is None:  # stopped within the epoch
                    if losses[i]:
                        position_of = {"step": position[i], "epoch_losses": losses[i]}
                        checkpoint.save(job.checkpoints, position[i], members.state_of(i), job.meta | position_of)
                    continue
                end_epoch(job, position[i], epoch[i], losses[i], validation[i], members.state_of(i), logs[i], bar)
                dog.beat("saving")
            if stop.asked:
                raise faults.Stopped("stopped by SIGTERM: every run is saved; the same command goes on")


def end_epoch(
    job: Job,
    step: int,
    epoch: int,
    losses: Sequence[float],
    validation: dict[str, float | None],
    state: Any,
    log: run_log.Log,
    bar: Any,
) -> None:
    """Decides, logs and saves as `stjax.train` does at the end of an epoch."""
    summary: dict[str, Any] = {"epoch": epoch, "loss": float(np.mean(losses)), **validation}
    best = job.end_epoch(step, summary)
    log.write("epoch", summary | {"step": step, "best": best})
    checkpoint.save(job.checkpoints, step, state, job.meta)
    bar.write(f"{job.folder.name}: {run_log.epoch_figures(summary, job.config.num_epochs)}")


def _stack(leaves: Sequence[jax.Array]) -> np.ndarray:
    """Arrays of the same rank, padded with zeros to the largest of each axis, under a leading axis."""
    arrays = [np.asarray(leaf) for leaf in leaves]
    shape = [max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)]
    result = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for i, array in enumerate(arrays):
        result[(i, *map(slice, array.shape))] = array
    return result


def _facts(job: Job, widest: Job) -> dict[str, Any]:
    """What a member's program must know of it: panel statistics as wide as the widest's, its seed, and the weight of
    AuxNet, whose mean is over the padded genes too."""
    panel, missing = job.fold.panel, len(widest.fold.panel.symbol) - len(job.fold.panel.symbol)
    facts = {name: np.asarray(getattr(job.fold, name), np.float32) for name in _STATISTICS}
    facts["target_mean"] = np.pad(facts["target_mean"], (0, missing))
    facts["target_std"] = np.pad(facts["target_std"], (0, missing), constant_values=1)
    share = widest.fold.panel.num_aux / max(panel.num_aux, 1)
    return facts | {"seed": np.uint32(job.config.seed), "aux_weight": np.float32(job.config.aux_weight * share)}


def every_member(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a leading axis over members: all at once, but on a CPU one after another."""
    if parallel.all_devices()[0].platform == "cpu":
        return lambda *arguments: jax.lax.map(lambda each: function(*each), arguments)
    return jax.vmap(function)
