"""Times what must be fast and its reference, in turn on the same cores.

usage: python -m stjax.bench [--what=train,inference,... | --all] [--models=efficientnet_b0,...] [--json FILE]

examples:
  python -m stjax.bench --all --json bench.json --page bench.md
  python -m stjax.bench --all --compare bench.json
  python -m stjax.bench --what=train
  python -m stjax.bench --what=train,inference --models=efficientnet_b0,resnet101,vit_b16 --json bench.json
  python -m stjax.bench --what=train --models=resnet101 --batch-size=64 --dtype=bfloat16
  python -m stjax.bench --what=embed --torch-python=torch/bin/python
  python -m stjax.bench --what=predict --workdir=runs/enet_b0_aux --source=slide.svs
  python -m stjax.bench --what=shift --workdir=runs/enet_b0_aux

Models are compared with PyTorch (channels_last) where torch and torchvision are installed, else timed alone. Each round
runs one step of each in turn, so that a busy machine slows both; the median counts. `speedup` is against the
case's reference. Another case is one entry of `CASES`. After all is measured, the command ends with exit code 1 where a
model computes something else than on the CPU (`numerics`), or a ratio is less than half of that in `--compare`'s file.

`--what=shift` measures no speed, but how much of a run's PCC is left on other stains, scanners and files
(docs/shift.md).
"""

import argparse
import functools
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(CORES))  # read once, when torch is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from data_prep import cli, system_errors  # noqa: E402
from data_prep.errors import InputError  # noqa: E402
from stjax import config, models, optim, parallel, trained  # noqa: E402
from stjax.benchmarks import Row, flops, numerics, page, row_of  # noqa: E402
from stjax.benchmarks import cpu_ops as bench_cpu_ops  # noqa: E402
from stjax.benchmarks import dense as bench_dense  # noqa: E402
from stjax.benchmarks import embed as bench_embed  # noqa: E402
from stjax.benchmarks import evaluate as bench_evaluate  # noqa: E402
from stjax.benchmarks import hest_bench as bench_hest  # noqa: E402
from stjax.benchmarks import input as bench_input  # noqa: E402
from stjax.benchmarks import predict as bench_predict  # noqa: E402
from stjax.benchmarks import pytorch as bench_torch  # noqa: E402
from stjax.benchmarks import ridge as bench_ridge  # noqa: E402
from stjax.benchmarks import shift as bench_shift  # noqa: E402
from stjax.benchmarks import spot_pool as bench_spot_pool  # noqa: E402
from stjax.ops.cpu.elementwise import compiler_options  # noqa: E402
from stjax.ops.cpu.host_memory import keep_freed_memory  # noqa: E402
from stjax.training.together import every_member  # noqa: E402

Method = Callable[[], None]  # runs once and waits for the result

OUTPUTS = 250  # genes of the main head
FOLDS = 5  # trained together
GPU_DAY = "gpu_day"  # what is to be known of a new machine, see launch/gpu_day.md
# Names of --models: where stjax and torchvision have each, and the batch it is timed at unless told.
MODELS = {
    **{f"efficientnet_b{i}": ("efficientnet", f"b{i}", f"efficientnet_b{i}", 8) for i in range(6)},
    "resnet18": ("resnet", "18", "resnet18", 8),
    "resnet50": ("resnet", "50", "resnet50", 8),
    "resnet101": ("resnet", "101", "resnet101", 8),
    "inception_v3": ("inception", "v3", "inception_v3", 8),
    "vit_b16": ("vit", "b16", "vit_b_16", 4),
    "vit_b32": ("vit", "b32", "vit_b_32", 4),
    "vit_l16": ("encoder", "uni_v1", "vit_l_16", 4),  # UNI's network
    "densenet121": ("densenet", "121", "densenet121", 8),
}


def main(arguments: list[str]) -> None:
    """Runs the cases asked for, prints them as a table and writes them as JSON."""
    options = parse(arguments)
    keep_freed_memory()
    before = page.read(options.compare) if options.compare else None
    rows: list[Row] = []
    about = f"{machine()}, jax {jax.__version__}{bench_torch.version()}"
    print(about)
    print(_line(("what", "case", "method", "seconds", "speed-up", "temp MB", "notes")))
    for what in options.what:
        for row in CASES[what](options):
            rows.append({"what": what, **row, "machine": machine()})
            print(_line(_cells(rows[-1])), flush=True)
        _write(options.json, json.dumps(rows, indent=1))  # what is measured is kept if a later case fails
    _write(options.page, page.markdown(rows, about=about, command=shlex.join(["stjax", "bench", *arguments])))
    faults = [row["fault"] for row in rows if "fault" in row]
    faults += page.fallen(rows, before) if before is not None else []
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    for path in filter(None, (options.json, options.page)):
        print(path)
    if faults:
        sys.exit(1)


def _write(path: Path | None, text: str) -> None:
    """A result, where one is asked for."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line's options. Raises InputError for a case, model or number that there is not."""
    parser = cli.Parser("python -m stjax.bench", description=__doc__)
    of_what = f"comma-separated: {', '.join(CASES)} (default train), or {GPU_DAY} for {', '.join(TINY)}"
    parser.add_argument("--what", help=of_what)
    parser.add_argument("--all", action="store_true", help="every benchmark that needs no files")
    parser.add_argument("--models", default="efficientnet_b0", help=f"comma-separated: {', '.join(MODELS)}")
    parser.add_argument("--batch-size", type=int, default=0, help="images a step (default: each model's own, 4 or 8)")
    parser.add_argument("--image-size-px", type=int, default=224)
    parser.add_argument(
        "--tiny", action="store_true", help=f"sizes that only show that it runs; of {GPU_DAY}'s benchmarks and cpu_ops"
    )
    parser.add_argument("--dtype", default="float32", choices=tuple(models.DTYPES), help="compute dtype, both sides")
    parser.add_argument("--rounds", type=int, default=11, help="timed runs of each method (default 11)")
    parser.add_argument("--torch-compile", action="store_true", help="time torch.compile as well")
    parser.add_argument("--workdir", type=Path, help="of predict, shift: a run of stjax.train, or an exported folder")
    help_of_source = "of predict: a slide; of shift: the raw data, to shift slides before their stain is normalised"
    parser.add_argument("--source", type=Path, help=help_of_source)
    parser.add_argument("--data-dir", default="", help="of shift: another data set than the run's own")
    parser.add_argument("--sections", type=config.names, default=(), help="of shift: default the run's held-out ones")
    parser.add_argument("--weights", type=Path, help=f"of shift: {trained.ENCODER_HELP}")
    parser.add_argument("--out", type=Path, help="of shift: folder of its results (default WORKDIR/shift)")
    parser.add_argument("--torch-python", type=Path, help="of --what=embed: an interpreter that has torch and timm")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--page", type=Path, help="write them to this file as Markdown")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="compare the ratios with those of an earlier --json"
    )
    options = parser.parse_args(arguments)
    if options.all and options.what:
        raise InputError("--all is every benchmark; leave --what out, or --all")
    options.what, options.models = _chosen(options), options.models.split(",")
    for flag, given, known in (("what", options.what, CASES), ("models", options.models, MODELS)):
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"--{flag} names {', '.join(unknown)}; choose from {', '.join(known)}")
    if "predict" in options.what and not (options.workdir and options.source):
        raise InputError("--what=predict needs --workdir, a trained model, and --source, a slide")
    if "shift" in options.what and not options.workdir:
        raise InputError("--what=shift needs --workdir, a trained model")
    if options.rounds < 1 or options.image_size_px < 32 or options.batch_size < 0:
        raise InputError("--rounds must be at least 1, --image-size-px at least 32, --batch-size positive")
    if options.tiny and (others := [name for name in options.what if name not in SIZED]):
        raise InputError(f"--tiny is not for {', '.join(others)}; it is for {', '.join(SIZED)}")
    for flag in ("json", "page"):
        if path := getattr(options, flag):
            system_errors.check_file(path, f"--{flag}")
    return options


def _chosen(options: argparse.Namespace) -> list[str]:
    """The benchmarks that `--what` or `--all` name."""
    if options.all:
        return [name for name in CASES if name not in OF_RUNS]
    asked = (options.what or "train").split(",")
    return [name for each in asked for name in (TINY if each == GPU_DAY else (each,))]


def machine() -> str:
    """What the times were taken on."""
    devices = parallel.all_devices()
    name = platform.processor() or platform.machine()
    if devices[0].platform == "cpu":
        return f"{CORES} cores {name}"
    return f"{len(devices)} x {devices[0].device_kind}"


def interleave(methods: dict[str, Method], *, rounds: int, description: str) -> dict[str, float]:
    """Median seconds of each method: two runs each to warm up, then `rounds` rounds of one run each in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in cli.progress(range(rounds + 2), description=description, unit="round"):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


# --------------------------------------------------------------------------------------------------------- models


def model_cases(options: argparse.Namespace, *, train: bool) -> Iterator[Row]:
    """A training step (forward, backward, SGD with momentum) or a forward pass of each model, images already there."""
    rate = flops.matmul_rate(models.DTYPES[options.dtype])
    for name in options.models:
        module, variant, torch_name, batch_size = MODELS[name]
        batch_size = options.batch_size or batch_size
        size = options.image_size_px
        method, compiled, compile_seconds = _jax_method(
            module, variant, batch_size=batch_size, image_size_px=size, dtype=options.dtype, train=train
        )
        gpu = jax.devices()[0].platform != "cpu"
        beside = bench_torch.methods(torch_name, options, batch_size=batch_size, train=train, outputs=OUTPUTS, gpu=gpu)
        seconds = interleave({**beside, "stjax": method}, rounds=options.rounds, description=name)
        work = batch_size * flops.of_backbone(module, variant, image_size_px=size) * (3 if train else 1)
        memory = compiled.memory_analysis()
        for label, taken in seconds.items():
            case = f"{name} batch {batch_size} {size} px {options.dtype}"
            temp = memory.temp_size_in_bytes if label == "stjax" else None
            row = row_of(case, label, taken, seconds.get("torch"), temp_bytes=temp) | {
                "images_per_second": batch_size / taken,
                "model_flops": work,
                "utilisation": work / taken / rate,
            }
            if label == "stjax":
                row["compile_seconds"] = compile_seconds
                row["peak_bytes"] = memory.temp_size_in_bytes + memory.argument_size_in_bytes
            yield row


def fold_cases(options: argparse.Namespace) -> Iterator[Row]:
    """A training step of `FOLDS` models of the same kind: one after another, the reference, and in one program, as
    `stjax crossval --mode=together` has it."""
    for name in options.models:
        module, variant, _, batch_size = MODELS[name]
        batch_size, size = options.batch_size or batch_size, options.image_size_px
        of_step: dict[str, Any] = {"batch_size": batch_size, "image_size_px": size, "dtype": options.dtype}
        alone, together = (
            _jax_method(module, variant, **of_step, train=True, members=members)[0] for members in (1, FOLDS)
        )

        def in_turn(alone: Method = alone) -> None:
            for _ in range(FOLDS):
                alone()

        methods = {"one after another": in_turn, "together": together}
        seconds = interleave(methods, rounds=options.rounds, description=f"{FOLDS} folds")
        for label, taken in seconds.items():
            note = f"{FOLDS * batch_size / taken:.1f} images/s"
            case = f"{FOLDS} x {name} batch {batch_size} {size} px {options.dtype}"
            yield row_of(case, label, taken, seconds["one after another"], note=note)


def _jax_method(
    module: str,
    variant: str,
    *,
    batch_size: int,
    image_size_px: int,
    dtype: str,
    train: bool,
    members: int = 1,
    options: dict[str, str] | None = None,
) -> tuple[Method, Any, float]:
    """One step of a model, or of several in one program, as a function without arguments; the compiled program; seconds
    compiling took. `options`: the compiler's, by default stjax's."""
    model = models.build(
        module=module,
        variant=variant,
        num_main=OUTPUTS,
        num_aux=0,
        facts={"image_size_px": image_size_px},
        dtype=dtype,
        rngs=nnx.Rngs(0),
    )
    graphdef, params, state = models.split(model)
    optimizer = optim.make_optimizer("sgd", momentum=0.9, weight_decay=0.0)
    images = jax.random.normal(jax.random.key(0), (batch_size, image_size_px, image_size_px, 3))
    wanted = jax.random.normal(jax.random.key(1), (batch_size, 1, OUTPUTS))
    key = jax.random.key(2)

    def train_step(params: Any, state: Any, opt_state: Any) -> Any:
        def loss_of(params: Any) -> Any:
            outputs, after = models.apply(graphdef, params, state, {"images": images}, train=True, key=key)
            return jnp.mean((outputs["main"] - wanted) ** 2), after

        gradients, state_after = jax.grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optim.apply_updates(params, updates, jnp.float32(1e-3)), state_after, opt_state

    def forward(params: Any, state: Any) -> jax.Array:
        return models.apply(graphdef, params, state, {"images": images}, train=False, key=None)[0]["main"]

    step = train_step if train else forward
    carry = (params, state, jax.jit(optimizer.init)(params)) if train else (params, state)
    if members > 1:
        carry, step = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), carry), every_member(step)
    function = jax.jit(
        step,
        donate_argnums=(0, 1, 2) if train else (),
        compiler_options=compiler_options() if options is None else options,
    )
    start = time.perf_counter()
    compiled = function.lower(*carry).compile()
    compile_seconds = time.perf_counter() - start

    def method() -> None:
        nonlocal carry
        result = jax.block_until_ready(compiled(*carry))
        carry = result if train else carry

    return method, compiled, compile_seconds


def training_step(model: str, batch_size: int, image_size_px: int, options: dict[str, str]) -> Method:
    """A training step of a name of `MODELS` in float32, compiled with these options."""
    module, variant, *_ = MODELS[model]
    size: dict[str, Any] = {"batch_size": batch_size, "image_size_px": image_size_px}
    return _jax_method(module, variant, **size, dtype="float32", train=True, options=options)[0]


def cpu_cases(options: argparse.Namespace) -> Iterator[Row]:
    """The operations that stjax has for CPUs, and a training step of each model with and without what it sets there."""
    if jax.default_backend() != "cpu":
        if options.all:
            return
        raise InputError("--what=cpu_ops times what is compiled for CPUs alone; run it with JAX_PLATFORMS=cpu")
    yield from bench_cpu_ops.rows(options.batch_size or 8, options.rounds, interleave, tiny=options.tiny)
    for name in options.models:
        batch_size, size = options.batch_size or MODELS[name][3], options.image_size_px
        step_of = functools.partial(training_step, name, batch_size, size)
        yield from bench_cpu_ops.step_rows(
            name, batch_size, size, step_of, options.rounds, interleave, tiny=options.tiny
        )


def numerics_cases(options: argparse.Namespace) -> Iterator[Row]:
    """Every model of `--models` on this device and on the CPU."""
    networks = {name: MODELS[name][:2] for name in options.models}
    return numerics.rows(networks, image_size_px=options.image_size_px, outputs=OUTPUTS)


def dense_cases(options: argparse.Namespace) -> Iterator[Row]:
    """One tile of a dense map."""
    sizes = {"tile_px": 64, "width": 8} if options.tiny else {"tile_px": 1536, "width": 512}
    return bench_dense.rows(options.rounds, interleave, dtype=options.dtype, **sizes)


def input_cases(options: argparse.Namespace) -> Iterator[Row]:
    """Patches from their files to batches."""
    count = 32 if options.tiny else 1024
    return bench_input.rows(options.rounds, interleave, count=count, size_px=options.image_size_px)


# Another case is one entry: a function of the options that yields rows.
CASES: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "train": functools.partial(model_cases, train=True),
    "inference": functools.partial(model_cases, train=False),
    "numerics": numerics_cases,
    "folds": fold_cases,
    "cpu_ops": cpu_cases,
    "spot_pool": lambda given: bench_spot_pool.rows(given.rounds, interleave, tiny=given.tiny),
    "dense": dense_cases,
    "input": input_cases,
    "evaluate": lambda given: bench_evaluate.rows(given.rounds, interleave),
    "embed": lambda given: bench_embed.rows(
        given.torch_python, given.batch_size, given.rounds, interleave, tiny=given.tiny
    ),
    "ridge": lambda _: bench_ridge.rows(),
    "hest_bench": lambda _: bench_hest.rows(),
    "shift": bench_shift.rows,
    "predict": lambda given: bench_predict.rows(given.workdir, given.source, given.rounds, interleave),
}
OF_RUNS = ("predict", "shift")  # what needs a trained model
TINY = ("numerics", "train", "inference", "folds", "spot_pool", "embed", "dense", "input")  # what is `GPU_DAY`
SIZED = (*TINY, "cpu_ops")  # what has sizes for --tiny


def _line(cells: Sequence[str]) -> str:
    """A line of the table, which appears as it is measured."""
    return cli.table_line(cells, align="<<<>>><", widths=(10, 38, 16, 8, 8, 8, 0))


def _cells(row: Row) -> tuple[str, ...]:
    speedup = "" if row["speedup"] is None else f"{row['speedup']:.2f}"
    temp = "" if row["temp_bytes"] is None else f"{row['temp_bytes'] / 1e6:.0f}"
    return row["what"], row["case"], row["method"], f"{row['seconds']:.4f}", speedup, temp, page.notes(row)


if __name__ == "__main__":
    cli.program(main)
