"""Reproduces the tables of a paper or a benchmark: a plan of what it takes, all runs, and the tables.

usage: python -m stjax.suite plan|run|table NAME --out=DIR [--root=DIR] [--tiny] [OPTIONS]

plan counts the runs and says what is needed; run prepares the data, trains and scores what is not finished, as many
times as it is called, and ends with the tables; table prints what is on disk, and what is missing. Below --out: data/,
runs/ (a work directory a run), logs/, and suite.json, table.csv, table.md, table.tex and report.html.

examples:
  python -m stjax.suite plan brstnet --out=brstnet
  python -m stjax.suite plan her2st --out=study --time --processes=4
  python -m stjax.suite run her2st --root=raw/her2st --out=study --processes=2
  python -m stjax.suite run her2st --root=raw/her2st --out=study --only=C5
  python -m stjax.suite run brstnet --root=raw --out=brstnet --prepare
  python -m stjax.suite run brstnet --root=raw --out=brstnet --shard=3/20
  python -m stjax.suite table brstnet --out=brstnet

A run that fails is recorded, and not repeated unless --again is given. On Ctrl-C or SIGTERM
runs save and end; however a suite was stopped, the same command resumes it. Several processes,
jobs and hosts may share one --out: a run that another process works on is skipped.
"""

import argparse
import collections
import contextlib
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep import cli, files, system_errors
from data_prep.counted import counted
from data_prep.errors import InputError

if TYPE_CHECKING:
    from stjax.processes import Pool
    from stjax.suites import Data, Options, Suite
    from stjax.suites._state import Place

ACTIONS = ("plan", "run", "table")


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser("python -m stjax.suite", description=__doc__)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "name", help="a suite: brstnet, comparators, cross_scale, her2st, hest_bench, pixnet_v1, pixnet_v4, stnet, stp"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of all that is made")
    parser.add_argument("--root", type=Path, help="folder of the raw data; plan says what is expected in it")
    parser.add_argument("--tiny", action="store_true", help="synthetic tissue and small networks: minutes, to try it")
    parser.add_argument("--only", type=cli.names, default=(), help="comma-separated rows, tables, or parts of names")
    parser.add_argument("--seeds", type=cli.whole_numbers, default=(0,), help="comma-separated (0): a run each")
    parser.add_argument(
        "--weights", type=cli.named_files, default={}, help="NAME=FILE,... starting weights that plan asks for"
    )
    parser.add_argument("--encoder", type=cli.names, default=(), help="of suites of features: NAME,... to compare")
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="i/n", help="every n-th run, from the i-th of 0"
    )
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--gpus-per-process", type=int, default=0, help="process i sees the i-th so many; 0: all")
    parser.add_argument("--prepare", action="store_true", help="of run: prepare the data, and no more")
    parser.add_argument("--time", action="store_true", help="of plan: time a few steps of each row, and estimate")
    parser.add_argument("--again", action="store_true", help="of run: also what failed before")
    given = parser.parse_args(arguments)
    if not given.seeds or min(given.seeds) < 0 or len(set(given.seeds)) < len(given.seeds):
        raise InputError(f"--seeds is {','.join(map(str, given.seeds))}, expected different whole numbers from 0 up")
    if given.time and given.action != "plan":
        raise InputError("--time is for plan")
    from stjax import suites  # which take seconds, and --help should not

    root = given.root and given.root.resolve()
    chosen = {"tiny": given.tiny, "weights": given.weights, "encoders": given.encoder}
    options = suites.Options(given.out.resolve(), root, given.seeds, **chosen)
    if given.action == "plan":
        plan(given.name, options, given.only, processes=given.processes)
        if given.time:
            system_errors.check_folder(options.out, "--out")
            print_times(given.name, options, given)
    elif given.action == "table":
        table(given.name, options, given.only)
    else:
        system_errors.check_folder(options.out, "--out")
        run(given.name, options, given)


def _shard(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    if not (place.isdigit() and count.isdigit() and int(place) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with i from 0 to n - 1")
    return int(place), int(count)


# ----------------------------------------------------------------------------------------------------------- plan


def plan(name: str, options: "Options", only: Sequence[str] = (), *, processes: int = 1) -> None:
    """Prints what a suite is made of, what of it is there, and what it still takes, so many runs at a time."""
    from stjax import suites
    from stjax.suites import _state

    suite = suites.load(name, options)
    chosen = _state.places(suite, options, only)
    print(f"{suite.title}\n")
    rows = [["", "runs", "trainings", *_state.STATES]]
    states = {place.run.name: place.state() for place in chosen}
    for part in dict.fromkeys(place.run.part for place in chosen):
        runs = [place.run for place in chosen if place.run.part == part]
        in_state = collections.Counter(states[run.name] for run in runs)
        numbers = [len(runs), sum(run.trainings for run in runs), *(in_state[state] for state in _state.STATES)]
        rows.append([part, *map(str, numbers)])
    total = collections.Counter(states.values())
    trainings = sum(place.run.trainings for place in chosen)
    rows.append(["in all", *map(str, (len(chosen), trainings, *(total[state] for state in _state.STATES)))])
    print("\n".join(cli.table(rows, align="<" + ">" * (len(rows[0]) - 1))), "\n")
    for data in suite.data:
        kept = f"--root/{data.raw}"
        if options.is_prepared(data):
            kept = "prepared"
        elif options.is_made(data):
            kept = "synthetic tissue"
        print(f"data/{data.name}: {kept}; {data.about}")
    for why in sorted({place.run.lacks for place in chosen if place.run.lacks}):
        count = sum(place.run.lacks == why for place in chosen)
        print(f"{counted(count, 'runs')} cannot be made here: {why}")
    _print_time(chosen, states, processes)
    print(f"\n{counted(trainings, 'trainings')} in {counted(len(chosen), 'runs')}")


def _print_time(chosen: "Sequence[Place]", states: dict[str, str], processes: int) -> None:
    """How long the rest takes, from what finished runs of the same row of a table took here, and their disk space."""
    from stjax.suites import _state

    taken = collections.defaultdict(list)
    for place in chosen:
        if states[place.run.name] == _state.DONE:
            taken[place.run.part, place.run.row].append((place.note()["seconds"], _bytes(place.folder)))
    if not taken:
        print("hours and disk space are estimated from a few steps by --time, or once a run of each row is finished")
        return
    left = [place.run for place in chosen if states[place.run.name] not in (_state.DONE, _state.LACKING)]
    rows = [taken[run.part, run.row] for run in left if (run.part, run.row) in taken]
    each, size = ([sum(of[i] for of in row) / len(row) for row in rows] for i in (0, 1))
    text = f"{sum(each) / 3600:.1f} h one after another here"
    text += f", {_hours(each, processes):.1f} h {processes} at a time" if processes > 1 else ""
    text += f", and {sum(size) / 1e9:.1f} GB"
    print(f"left: {counted(len(left), 'runs')}; {len(rows)}, as finished ones of their rows took, {text}")


def _hours(seconds: Sequence[float], processes: int) -> float:
    """How long runs take where each begins, in their order, on the process that is free first."""
    free = [0.0] * processes
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free) / 3600


def print_times(name: str, options: "Options", given: argparse.Namespace) -> None:
    """Prints what is left would take, from timed steps."""
    from stjax import suites
    from stjax.suites import _state, _timing

    suite = suites.load(name, options)
    rows, features = _timing.estimate(suite, options, _state.places(suite, options, given.only))
    print("\n".join(["", *_timing.lines(rows, features, given.processes)]))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ run


def run(name: str, options: "Options", given: argparse.Namespace) -> None:
    """Prepares the data, carries out what is not finished, and writes the tables.

    Raises:
        InputError: raw data is missing, a run failed, or the folder is of another study.
    """
    from stjax import suites
    from stjax.processes import Pool
    from stjax.suites import _state
    from stjax.training import faults

    kept = "what is finished or saved is kept; the same command goes on"
    suite = suites.load(name, options)
    _state.keep(suite, options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(faults.exits_when_stopped())
        stack.enter_context(cli.when_interrupted(lambda: kept))
        pool = stack.enter_context(Pool(given.processes, given.gpus_per_process))
        missing = _missing(suite, options, given.only)
        if missing and given.shard[1] > 1:
            raise InputError("the data is not prepared, and shards do not prepare it; run once with --prepare")
        for data in missing:
            pool.map(lambda each: prepare(each, options, pool), [data])
        if given.prepare:
            return
        suite = suites.load(name, options)  # who is held out, the data says
        chosen = _state.places(suite, options, given.only)[given.shard[0] :: given.shard[1]]
        failed = carry_out(chosen, pool, again=given.again)
    table(name, options, given.only)
    if failed:
        logs = options.out / "logs"
        which = f"{counted(len(failed), 'runs')} failed ({', '.join(failed[:3])}{', ...' if failed[3:] else ''})"
        raise InputError(f"{which}, see {logs}; they are not tried again unless --again is given")


def _missing(suite: "Suite", options: "Options", only: Sequence[str]) -> "list[Data]":
    """Data sets to prepare: all that are not there, where a run that is asked for may be known once they are."""
    from stjax.suites import _state, merged

    try:
        wanted = merged(each for place in _state.places(suite, options, only) for each in place.needs_data())
    except InputError:
        if all(options.is_prepared(data) for data in suite.data):
            raise
        wanted = suite.data
    return [data for data in wanted if not options.is_prepared(data)]


def prepare(data: "Data", options: "Options", pool: "Pool") -> None:
    """Makes a data set of a suite and its features. Raises InputError where raw files are missing or damaged."""
    from stjax.suites import _state

    target, log = options.path(data), options.out / "logs" / f"data_{data.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(options.out / "data" / f"{data.name}.lock", busy=f"another process prepares {target}; wait for it"):
        raw = options.raw(data)
        if not options.is_made(data) and not raw.is_dir():
            raise InputError(f"{raw} is not there; it is for {data.about}")

        def made(module: str, *arguments: str) -> None:
            if pool.run(data.name, [module, *arguments], log=log).code:
                raise InputError(f"the data cannot be prepared: {_state.last_line(log)}; {log}")

        if options.is_made(data) and not raw.exists():
            made(data.demo_module, f"--out={raw}", *data.demo)
        if not options.is_built(data):
            made("data_prep.build", f"--source={raw}", f"--out={target}", *(data.tiny if options.tiny else data.build))
        for features in options.features_to_make(data):
            given = [f"--data-dir={target}", f"--encoder={features.encoder}", f"--name={features.name}", "--any-scale"]
            given += ["--random"] if options.tiny else []
            if features.encoder in options.weights and not options.tiny:
                given.append(f"--weights={options.weights[features.encoder]}")
            given += [f"--pooling={features.pooling}"] if features.pooling else []
            given += [f"--fields={features.fields}"] if features.fields else []
            given += [f"--context={features.context}"] if features.context > 1 else []
            given += [f"--source={raw}"] if features.fields or features.context > 1 else []
            made("stjax.embed", *given)


def carry_out(chosen: "Sequence[Place]", pool: "Pool", *, again: bool) -> list[str]:
    """Carries out runs, those that need others behind them. Returns the names of those that failed, now or before."""
    from stjax.suites import _state

    finished, failed = 0, []
    waves = ([each for each in chosen if not each.run.needs], [each for each in chosen if each.run.needs])
    for wave in filter(None, waves):
        left = []
        for place in wave:
            state = place.state()
            waits = [need.name for need in place.run.needs if _state.Place(place.out, need).state() != _state.DONE]
            finished += state == _state.DONE
            if state == _state.FAILED and not again:
                print(f"{place.run.name} failed before, and is not tried again: {place.note()['failed']}")
                failed.append(place.run.name)
            elif state in (_state.DONE, _state.LACKING):
                continue
            elif waits:
                print(f"{place.run.name} waits for {', '.join(waits)}")
            else:
                left.append(place)
        print(f"{finished} of {len(chosen)} runs are finished; {len(left)} are begun, or gone on with")
        for place, state in zip(left, pool.map(lambda each: each.carry_out(pool), left), strict=True):
            finished += state == _state.DONE
            if state == _state.BUSY:
                print(f"{place.run.name} is left to the process that is at it")
            if state == _state.FAILED:
                failed.append(place.run.name)
    return failed


# ---------------------------------------------------------------------------------------------------------- table


def table(name: str, options: "Options", only: Sequence[str] = ()) -> None:
    """Prints the tables of what is finished, and writes them as files; what `options` leave open is as `run` had it."""
    from stjax import suites
    from stjax.suites import _state, _table

    options = _state.as_kept(options)
    suite = suites.load(name, options)
    found = _table.read_tables(suite, _state.places(suite, options, only))
    print("\n".join(found.console()))
    print("results:")
    for path in found.write(options.out):
        print(path)


if __name__ == "__main__":
    cli.program(main)
