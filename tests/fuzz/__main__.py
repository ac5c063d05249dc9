"""Fuzzes what the project reads: sound inputs are damaged at random and read as the commands read them.

python -m tests.fuzz --target her2st --cases 2000 --seed 1      # one kind of input
python -m tests.fuzz --target all --cases 100                   # every kind, 100 cases each
python -m tests.fuzz --target her2st --seed 1 --case 831        # that case again, to look at
python -m tests.fuzz --list

A damaged input may be refused (InputError: one line, at most 500 characters) or accepted. Findings are everything else:
another exception, 30 s of work, the death of the process, more than 2 GiB, a file written beside the input, and where
hashes vouch for the content, one that is accepted and says something else. Accepted inputs that say something else than
the sound one are counted, and some are shown, to be explained. Exits with 1 when there is a finding.

A case is its target, seed and number: it is the same whatever else is run, as long as the target is.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz import runner
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Job, Limits, main_case

COLUMNS = ("refused", "same", "different", "exception", "hang", "death", "memory", "sealed", "outside", "long message")


def main(arguments: list[str]) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(TARGETS))
        return 0
    names = list(TARGETS) if options.target == "all" else options.target.split(",")
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"error: no target {unknown[0]}; --list shows them", file=sys.stderr)
        return 2
    limits = Limits(seconds=options.seconds, memory_bytes=options.memory_mib << 20)
    if options.case is not None:
        return show_case(names[0], options.seed, options.case, limits, options.keep)
    jobs = [Job(name, options.first, options.first + options.cases) for name in names]
    tallies = runner.run(jobs, options.seed, limits, progress=_progress if sys.stderr.isatty() else lambda *_: None)
    print_summary(tallies, options.seed)
    if options.json:
        options.json.write_text(json.dumps({name: as_json(tally) for name, tally in tallies.items()}, indent=1))
    return int(any(tally.findings for tally in tallies.values()))


def show_case(name: str, seed: int, number: int, limits: Limits, keep: Path | None) -> int:
    """Tries one case here and prints all of it; see `--case`."""
    root = Path(tempfile.mkdtemp(prefix="stjax-fuzz-"))
    try:
        found = main_case(name, seed, number, root, limits)
        if keep is not None:
            shutil.copytree(root / "case", keep, symlinks=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(found.pop("trace", ""), end="")
    print(json.dumps(found, indent=1))
    return int(found["outcome"] in runner.FINDINGS)


def print_summary(tallies: dict[str, runner.Tally], seed: int) -> None:
    """The findings, samples of accepted cases that differ, and a table."""
    for name, tally in tallies.items():
        for finding in tally.findings.values():
            print(f"\n{name}: {finding.outcome}: {finding.error} at {finding.place or 'an unknown place'}")
            print(f"  {len(finding.cases)} cases, e.g. {', '.join(map(str, finding.cases[:5]))} of seed {seed}")
            print(f"  damage: {finding.what[:200]}\n  {finding.message[:300] or finding.trace[-500:]}")
    for name, tally in tallies.items():
        for sample in tally.different:
            print(f"{name} {sample['case']}: {sample['what'][:120]} -> accepted, differs in {sample['differing'][:4]}")
    width = max(map(len, tallies))
    print("\n" + "  ".join(["target".ljust(width), "  cases", *COLUMNS, "slowest", "largest"]))
    for name, tally in tallies.items():
        cells = [str(tally.outcomes[column]).rjust(len(column)) for column in COLUMNS]
        cells += [f"{tally.slowest[0]:5.1f} s", f"{tally.largest[0] >> 20:4d} MiB"]
        print("  ".join([name.ljust(width), str(tally.outcomes.total()).rjust(7), *cells]))


def as_json(tally: runner.Tally) -> dict[str, Any]:
    """Plain values of a tally."""
    return {
        "outcomes": dict(tally.outcomes),
        "findings": [vars(finding) for finding in tally.findings.values()],
        "different": tally.different,
        "slowest": tally.slowest,
        "largest": tally.largest,
    }


def _progress(target: str, case: int) -> None:
    if case % 50 == 0:
        print(f"\r{target} {case} ", end="", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="all", help="names separated by commas, or all")
    parser.add_argument("--cases", type=int, default=1000, help="how many of each target (1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--seed", type=int, default=0, help="of every case (0)")
    parser.add_argument("--case", type=int, help="try this one alone, and show what comes of it")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="with --case: copy the damaged input here")
    parser.add_argument("--seconds", type=float, default=30.0, help="limit of processor time a case (30)")
    parser.add_argument("--memory-mib", type=int, default=2048, help="limit of memory a case (2048)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    parser.add_argument("--list", action="store_true", help="list the targets")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
