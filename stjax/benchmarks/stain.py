"""Measure stain normalisation of a full slide compared with staintools: time, peak memory, repeatability, difference.

    python -m stjax.benchmarks.stain --source C2.jpg --target C3.jpg                 # ours twice, staintools once
    python -m stjax.benchmarks.stain --source C2.jpg --target C3.jpg --staintools-runs 2 --json stain.json

Every run is a process of its own, so peak memory is that of the run: decoding, both fits and the transform. staintools
needs the extra `stain`, about 100 bytes of memory a pixel and minutes; `--staintools-runs 0` leaves it out.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import cli, files, stain, system_errors
from data_prep.colour import lab_from_rgb
from data_prep.errors import InputError
from data_prep.slide import open_slide
from stjax.benchmarks import row_of

_ROWS = 1024
_STAGES = ("decode", "fit", "transform")


def run_ours(source: Path, target: Path, out: Path, *, method: str = "vahadane") -> dict[str, Any]:
    """Normalise `source` to `target` in row strips; raw RGB into `out`.

    Returns:
        "seconds" by stage (decode and fit are of both slides), "stains" found in the target and the source.
    """
    seconds: dict[str, float] = dict.fromkeys(_STAGES, 0.0)
    with open_slide(target) as slide:
        _timed(seconds, "decode", lambda: slide.read_region(0, 0, 1, 1))
        profile = _timed(seconds, "fit", lambda: stain.fit_profile(slide, method))
    with open_slide(source) as slide, out.open("wb") as file:
        _timed(seconds, "decode", lambda: slide.read_region(0, 0, 1, 1))
        normalise = _timed(seconds, "fit", lambda: stain.Normaliser(stain.fit_profile(slide, method), profile))
        for _, strip in slide.strips(_ROWS):
            file.write(_timed(seconds, "transform", lambda strip=strip: normalise(strip)).data)
    return {"seconds": seconds, "stains": [profile.stains, normalise.source.stains]}


def run_staintools(source: Path, target: Path, out: Path, *, learning_s: int = 1) -> dict[str, Any]:
    """The same with staintools, as its documentation says: both slides standardised, the whole slide at once.

    Args:
        source, target, out: as for `run_ours`.
        learning_s: wall-clock seconds for its dictionary learning; it has 1 built in.
    """
    staintools = importlib.import_module("staintools")
    module = importlib.import_module("staintools.stain_extraction.vahadane_stain_extractor")
    standardise = staintools.LuminosityStandardizer.standardize
    seconds: dict[str, float] = dict.fromkeys(_STAGES, 0.0)
    normaliser = staintools.StainNormalizer(method="vahadane")
    stains: list[list[list[float]]] = []
    if learning_s != 1:
        module.spams.trainDL = functools.partial(module.spams.trainDL, iter=-learning_s)

    class Recording:
        @staticmethod
        def get_stain_matrix(pixels: np.ndarray) -> np.ndarray:
            found = module.VahadaneStainExtractor.get_stain_matrix(pixels)
            stains.append(found.tolist())
            return found

    normaliser.extractor = Recording
    pixels = _timed(seconds, "decode", lambda: _whole(target))
    _timed(seconds, "fit", lambda: normaliser.fit(standardise(pixels)))
    pixels = _timed(seconds, "decode", lambda: _whole(source))
    _timed(seconds, "transform", lambda: normaliser.transform(standardise(pixels))).tofile(out)
    return {"seconds": seconds, "stains": stains}


def compare(first: Path, second: Path, source: Path) -> dict[str, float]:
    """Absolute difference of two outputs in grey levels: mean over all pixels, over tissue, and the 99th percentile."""
    sums, pixels, levels = np.zeros(2), np.zeros(2), np.zeros(256, np.int64)
    with open_slide(source) as slide, first.open("rb") as a, second.open("rb") as b:
        for _, strip in slide.strips(_ROWS):
            one, two = (np.frombuffer(f.read(strip.size), np.uint8).reshape(-1, 3) for f in (a, b))
            difference = np.maximum(one, two) - np.minimum(one, two)
            levels += np.bincount(difference.reshape(-1), minlength=256)
            every = 16  # the tissue mask on a sixteenth of the pixels: L* is slow here, and a mean needs no more
            per_pixel = difference[::every].mean(axis=1)
            tissue = lab_from_rgb(strip.reshape(-1, 3)[::every])[:, 0] < 0.8 * 255
            sums += [per_pixel.sum(), per_pixel[tissue].sum()]
            pixels += [len(per_pixel), tissue.sum()]
    shares = np.cumsum(levels) / levels.sum()
    return {
        "mean": float((levels * np.arange(256)).sum() / levels.sum()),
        "mean_tissue": float(sums[1] / max(pixels[1], 1)),
        "p99": int(np.searchsorted(shares, 0.99)),
    }


def main(arguments: list[str]) -> None:
    """Parse the command line, run each method in its own process, print a table, write JSON."""
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = cli.Parser("python -m stjax.benchmarks.stain", description=description, epilog=examples)
    parser.add_argument("--source", type=Path, required=True, help="the slide to normalise")
    parser.add_argument("--target", type=Path, required=True, help="the slide to look like")
    parser.add_argument("--runs", type=int, default=2, help="runs of stjax, with 1, 2, ... BLAS threads (default 2)")
    parser.add_argument("--staintools-runs", type=int, default=1, help="runs of staintools (default 1; 0: none)")
    of_learning = "wall-clock seconds for its dictionary learning (default 1, as built in; more shows where it goes)"
    parser.add_argument("--staintools-seconds", type=int, default=1, help=of_learning)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one run, in its own process
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        slides = options.source, options.target, options.out
        seconds = options.staintools_seconds
        run = run_ours(*slides) if options.one == "stjax" else run_staintools(*slides, learning_s=seconds)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps(run | {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peak}))
        return
    if options.json:
        system_errors.check_file(options.json, "--json")
    for path in (options.source, options.target):
        open_slide(path).close()
    if options.runs < 1:
        raise InputError(f"--runs is {options.runs}, expected at least 1")
    if options.staintools_runs and importlib.util.find_spec("staintools") is None:
        raise InputError("staintools is not installed; pip install 'stjax[stain]', or give --staintools-runs 0")
    with tempfile.TemporaryDirectory() as folder:
        report = _measure(options, Path(folder))
    _print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report["bench"], indent=1) + "\n", encoding="utf-8")
        print(options.json)


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    names = ["stjax"] * options.runs + ["staintools"] * options.staintools_runs
    runs: list[dict[str, Any]] = []
    for i, name in enumerate(cli.progress(names, description="stain", unit="run")):
        out = folder / f"{i}.rgb"
        command = [sys.executable, "-m", "stjax.benchmarks.stain", "--one", name, "--out", str(out)]
        command += ["--source", str(options.source), "--target", str(options.target)]
        command += ["--staintools-seconds", str(options.staintools_seconds)]
        threads = {"OMP_NUM_THREADS": str(i + 1), "OPENBLAS_NUM_THREADS": str(i + 1)} if name == "stjax" else {}
        done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise InputError(f"the run of {name} ended with exit code {done.returncode}; its message is above")
        run = json.loads(done.stdout.splitlines()[-1])
        runs.append(run | {"method": name, "sha256": files.sha256(out), "out": out})
    ours, theirs = runs[: options.runs], runs[options.runs :]
    pairs = [(f"stjax - staintools {i}", ours[0], run) for i, run in enumerate(theirs)]
    pairs += [(f"staintools 0 - staintools {i}", theirs[0], run) for i, run in enumerate(theirs) if i]
    differences = {name: compare(one["out"], other["out"], options.source) for name, one, other in pairs}
    with open_slide(options.source) as slide:
        case = f"{slide.width}x{slide.height}"
    reference = min((_total(r) for r in theirs), default=None)
    bench = [
        row_of(case, r["method"], _total(r), reference, temp_bytes=r["peak_bytes"])
        | {key: r[key] for key in ("cpu_seconds", "stains", "sha256")}
        | {"what": "stain", "stages": r["seconds"], "differences": differences, "machine": _machine()}
        for r in runs
    ]
    return {"case": case, "runs": runs, "differences": differences, "bench": bench}


def _print_report(report: dict[str, Any]) -> None:
    print(f"stain normalisation of {report['case']} px, fit of both slides and transform; {_machine()}")
    columns = ("decode s", "fit s", "transform s", "total s", "CPU s", "peak GB")
    rows = [["method", *columns, "SHA-256 of the output"]]
    for run in report["runs"]:
        figures = [*run["seconds"].values(), _total(run), run["cpu_seconds"], run["peak_bytes"] / 1e9]
        rows.append([run["method"], *(f"{figure:.2f}" for figure in figures), run["sha256"][:16]])
    print("\n".join(cli.table(rows, align="<" + ">" * len(columns) + "<", least=(12, *[11] * len(columns), 0))))
    for run in report["runs"]:
        h_e = " | ".join(" ".join(f"{v:.3f}" for row in slide for v in row) for slide in run["stains"])
        print(f"{run['method']:<12}stains (H, E) of target | source: {h_e}")
    for name, d in report["differences"].items():
        print(
            f"{name}: mean difference {d['mean']:.2f} grey levels, {d['mean_tissue']:.2f} on tissue, "
            f"99 % of the values within {d['p99']}"
        )


def _timed(seconds: dict[str, float], stage: str, work: Any) -> Any:
    start = time.perf_counter()
    result = work()
    seconds[stage] += time.perf_counter() - start
    return result


def _whole(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_region(0, 0, slide.width, slide.height)


def _total(run: dict[str, Any]) -> float:
    return run["seconds"]["fit"] + run["seconds"]["transform"]


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    cli.program(main)
