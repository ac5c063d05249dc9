"""Checks an installation: versions, devices, disk, extras, caches, and two training steps on synthetic data.

usage: python -m stjax.doctor [--json] [--quick]

Every line starts with ok, note, warn or FAIL, and tells what to do. Exit code 1 when something fails.

examples:
  python -m stjax.doctor
  python -m stjax.doctor --json > doctor.json
"""

import dataclasses
import functools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement

from data_prep import cli
from data_prep.errors import InputError
from data_prep.extras import explain

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "FAIL"
OLDEST_PYTHON = (3, 11)
_GIB = 1 << 30
_LEAST_MEMORY_GIB, _LEAST_DISK_GIB = 4, 5  # of a training on patches; the demo and its run take 1 GiB
_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "anndata", "tensorflow-datasets")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        status: "ok", "note" (good to know), "warn" (works, not as it should) or "FAIL".
        found: what is there; remedy: what to do about it, if anything.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


def _judged(name: str, found: str, remedy: str, status: str) -> Finding:
    """A finding, with its remedy unless it is ok."""
    return Finding(name, status, found, "" if status == OK else remedy)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser("python -m stjax.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs and for issues")
    parser.add_argument("--quick", action="store_true", help="leave out the two training steps")
    given = parser.parse_args(arguments)
    findings = []
    for finding in examine(quick=given.quick):
        findings.append(finding)
        if not given.json:
            print(f"{finding.status:5s}{finding.name}: {finding.found}")
            if finding.remedy:
                print(f"     -> {finding.remedy}")
    failed = sum(finding.status == FAIL for finding in findings)
    if given.json:
        print(json.dumps({"ok": not failed, "findings": [dataclasses.asdict(each) for each in findings]}, indent=1))
    else:
        print(f"\n{failed} of {len(findings)} checks failed" if failed else "\nstjax is ready")
    if failed:
        sys.exit(1)


def examine(*, quick: bool = False) -> Iterator[Finding]:
    """Every check in turn; one that cannot be done is a failure, and the next follows.

    Args:
        quick: leave out the two training steps.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [python, packages, extras, memory, disk, devices]
    for check in checks if quick else [*checks, training]:
        try:
            yield from check()
        except InputError as error:
            yield Finding(check.__name__, FAIL, str(error))
        except Exception as error:  # whatever is wrong with the installation, the other checks are made
            if lacking := explain(error):
                yield Finding(check.__name__, NOTE, "not checked, as it takes an extra", lacking)
                continue
            text = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding(check.__name__, FAIL, text, "install stjax anew into a fresh environment")


def python() -> Iterator[Finding]:
    """The interpreter and the machine."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    remedy = f"stjax needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    yield _judged("python", found, remedy, FAIL if sys.version_info < OLDEST_PYTHON else OK)


def packages() -> Iterator[Finding]:
    """What stjax needs, in the versions it needs."""
    yield Finding("stjax", OK, metadata.version("stjax"))
    lacking = [f"{need} (found {found or 'none'})" for need, found in _needs("") if not _meets(need, found)]
    versions = ", ".join(f"{name} {version}" for name in _SHOWN if (version := _version(name)))
    found = f"missing or too old: {', '.join(lacking)}" if lacking else versions
    yield _judged("packages", found, "pip install --upgrade stjax", FAIL if lacking else OK)


def extras() -> Iterator[Finding]:
    """Optional parts, installed or not."""
    for extra in sorted(metadata.metadata("stjax").get_all("Provides-Extra") or ()):
        lacking = [need.name for need, found in _needs(extra) if not _meets(need, found)]
        found = f"not installed, lacks {', '.join(lacking)}" if lacking else "installed"
        remedy = f"for what needs it: pip install 'stjax[{extra}]'"
        yield _judged(f"extra {extra}", found, remedy, NOTE if lacking else OK)


def memory() -> Iterator[Finding]:
    """Cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not hasattr(os, "sysconf"):
        yield Finding("machine", NOTE, f"{cores} cores; this system does not tell its memory")
        return
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    found = f"{cores} cores, {gib:.1f} GiB of memory"
    remedy = "train with smaller batches (--config.micro_batch)"
    yield _judged("machine", found, remedy, WARN if gib < _LEAST_MEMORY_GIB else OK)


def disk() -> Iterator[Finding]:
    """Room to work in, and the cache."""
    from stjax.cache import cache_folder

    cache = cache_folder()
    for name, folder, setting in (
        ("disk", Path.cwd(), "give --workdir and --out on another disk"),
        ("cache", cache, "name another folder with STJAX_CACHE"),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free / _GIB
        found = f"{free:.1f} GiB free in {folder}"
        if name == "cache" and folder.exists():
            found += f", {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / _GIB:.1f} GiB used"
        if not os.access(there, os.W_OK):
            yield Finding(name, FAIL, f"{there} cannot be written", setting)
        else:
            yield _judged(name, found, setting, WARN if free < _LEAST_DISK_GIB else OK)


def devices() -> Iterator[Finding]:
    """What JAX computes on, and whether it computes right."""
    import jax
    import jax.numpy as jnp

    from stjax import parallel

    found = parallel.all_devices()
    text = f"{len(found)} x {found[0].device_kind} ({jax.default_backend()})"
    unused = jax.default_backend() == "cpu" and Path("/proc/driver/nvidia/version").exists()
    text += ", though this machine has an NVIDIA GPU" * unused
    remedy = "for the GPU: pip install 'stjax[gpu]', and leave JAX_PLATFORMS unset"
    yield _judged("devices", text, remedy, WARN if unused else OK)
    matrix = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    wanted = matrix.astype(np.float64) @ matrix
    for device in jax.local_devices():
        product = jnp.dot(jax.device_put(matrix, device), matrix, precision="highest")
        error = float(np.abs(np.asarray(product) - wanted).max())
        if error > 1e-3:
            yield Finding(f"device {device.id}", FAIL, f"a matrix product is off by {error:.2g}", "do not use it")


def training() -> Iterator[Finding]:
    """Two steps of a small network on made-up patches, a checkpoint and its restoration, and predictions from it."""
    import jax

    from stjax import checkpoint, parallel, views
    from stjax.forward import make_predict_step
    from stjax.state import init_state
    from stjax.training import steps

    started = time.perf_counter()
    mesh = parallel.make_mesh()
    config, fold, protocol = _settings()
    graphdef, state = init_state(config, fold, mesh=mesh)
    batch = _made_up(fold.panel.num_main, parallel.round_up(16, mesh))
    step = steps.make_train_step(graphdef, config, fold, protocol, mesh)
    losses = []
    for number in range(2):
        state, figures = step(state, parallel.put_whole(batch, mesh), np.int32(number), np.float32(1e-3))
        losses.append(float(figures["loss"]))
    predict = make_predict_step(views.of(fold), graphdef, fold, protocol, mesh)
    images = parallel.put_whole({"image": batch["image"]}, mesh)
    before = np.asarray(predict(state, images)["expression"])
    with tempfile.TemporaryDirectory(prefix="stjax-doctor-") as folder:
        checkpoint.save(Path(folder), 2, state, {"step": 2, "best_step": 2})
        restored = checkpoint.restore(Path(folder), 2, state)
    same = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True))
    found = f"losses {losses[0]:.3f} and {losses[1]:.3f}, {time.perf_counter() - started:.0f} s"
    if not (np.all(np.isfinite(losses)) and losses[0] != losses[1] and np.all(np.isfinite(before))):
        yield Finding("two training steps", FAIL, found, "expected two finite losses that differ; report this output")
    else:
        found += "; the checkpoint holds what was saved" if same else "; the checkpoint differs"
        yield _judged("two training steps", found, "check the disk", OK if same else FAIL)


def _settings() -> tuple[Any, Any, Any]:
    """The small network of configs/tiny.py, a panel of a few genes, and the default protocol."""
    from stjax import config as configs
    from stjax.data.fold import Fold
    from stjax.data.panel import Panel
    from stjax.protocols import get_protocol
    from stjax.splits import Split

    config, genes = configs.built_in("tiny"), 8
    config.model.aux = False
    protocol = get_protocol(config.protocol)
    names = np.array([f"gene {gene}" for gene in range(genes)])
    fold = Fold(
        data_dir="",
        content_hash="",
        parameters={},
        stain_target=None,
        image_size_px=32,
        um_per_px=1.0,
        synthetic=True,
        train_patients=(),
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        split=Split((), (), ()),
        panel=Panel(names, names, num_main=genes, num_genes=genes),
        target_mean=np.full(genes, 6.0),
        target_std=np.ones(genes),
        train_mean=np.full(genes, 6.0),
        image_mean=np.full(3, 128.0),
        image_std=np.full(3, 50.0),
        view="patches",
    )
    return configs.resolve(config, protocol, demo=True), fold, protocol


def _made_up(genes: int, size: int) -> dict[str, np.ndarray]:
    """A batch of patches [B, 32, 32, 3] whose brightness says how much of the genes they express."""
    rng = np.random.default_rng(0)
    brightness = rng.integers(60, 200, (size, 1, 1, 3))
    counts = rng.poisson(brightness.mean(axis=(2, 3))[..., None] * np.linspace(0.5, 2, genes)).astype(np.float32)
    return {
        "image": np.clip(brightness + rng.integers(-40, 40, (size, 32, 32, 3)), 0, 255).astype(np.uint8),
        "counts": counts,  # [B, 1, G]
        "total": counts.sum(axis=-1, keepdims=True),
        "mask": np.ones((size, 1), np.float32),
    }


def _needs(extra: str, package: str = "stjax") -> Iterator[tuple[Requirement, str | None]]:
    """What a package, or one of its extras, requires here, each with the version installed; and of the extras that it
    asks for in turn."""
    for text in (metadata.requires(package) if _version(package) else None) or ():
        need = Requirement(text)
        always = need.marker is None or need.marker.evaluate({"extra": ""})
        if always == bool(extra) or not (always or need.marker is None or need.marker.evaluate({"extra": extra})):
            continue
        if need.name != "stjax":
            yield need, _version(need.name)
        for further in need.extras:
            yield from _needs(further, need.name)


@functools.cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _meets(need: Requirement, found: str | None) -> bool:
    return found is not None and need.specifier.contains(found, prereleases=True)


if __name__ == "__main__":
    cli.program(main)
