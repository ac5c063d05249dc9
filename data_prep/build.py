"""Build a data set from sections: `python -m data_prep.build --source DIR --out DIR`.

A build may be stopped at any moment and run again: sections already whole are verified by hash and kept, and the files
are the same, byte for byte, as those of a build left alone. manifest.json comes last.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep import cli, manifest, plan, readers, writer
from data_prep.dataset import MANIFEST, WORK_FOLDER, check_files, read_manifest
from data_prep.errors import InputError

EXAMPLES = """examples:
  python -m data_prep.build --source her2st --out data/her2st --skip-incomplete
  python -m data_prep.build --source her2st --out data/her2st --sections C2,C3 --workers 2
  python -m data_prep.build --source stnet --out data/stnet --um-per-px 0.5 --min-spot-fraction 0.1
  python -m data_prep.build --source visium_hd --out data/hd --tile-size-px 1024 --min-counts 0
  python -m data_prep.build --source stnet --out data/stnet --shard 3/16      (one of 16 array jobs, then)
  python -m data_prep.build --source stnet --out data/stnet --merge           (once all are done)
"""


def build(
    source: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    shard: tuple[int, int] | None = None,
    merge: bool = False,
    **options: Any,
) -> Path:
    """Build a data set, resume one, or find that it is there already.

    Args:
        source: the sections' folder.
        out: the data set's folder; made if missing.
        workers: processes, each with one section at a time.
        shard: (i, n), i from 1: write only every n-th section, for array jobs that share `out`.
        merge: write no section, only the manifest over what array jobs wrote.
        options: see `data_prep.plan.Options`.

    Returns:
        The manifest's path; with `shard`, where it will be.

    Raises:
        InputError: a bad source, bad options, or an `out` that holds something else.
    """
    source, out = Path(source), Path(out)
    chosen = plan.Options(**options)
    if workers < 1:
        raise InputError(f"--workers is {workers}, expected at least 1")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise InputError(f"--shard is {shard[0]}/{shard[1]}, expected i/n with i from 1 to n")
    module, reason = readers.find_layout(source, chosen.layout)
    layout = module.__name__.rpartition(".")[2]
    print(f"{source}: layout {layout} ({reason})", flush=True)
    names = module.list_sections(
        source, sections=chosen.sections, skip_incomplete=chosen.skip_incomplete, **chosen.reading
    )
    skipped = _skipped(module.find_sections(source, **chosen.reading), chosen, names)
    for name, lack in skipped.items():
        print(f"left out: section {name}: {lack}", flush=True)
    about = {
        "layout": layout,
        "reason": reason,
        "name": source.resolve().name,
        "fingerprint": manifest.fingerprint(source, out, times=False),
    }
    if (out / MANIFEST).is_file():
        _check_same(out, chosen, about, names)
        shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
        print(f"{out}: this data set is already there, nothing to do")
        return out / MANIFEST

    _begin(out, chosen, source, names, may_restart=shard is None and not merge)
    plans = _plan(source, out, layout, names, chosen, workers, first=shard)
    empty = [entry.name for entry in plans if not entry.spots]
    if empty and not chosen.skip_incomplete:
        rest = ",".join(entry.name for entry in plans if entry.spots)
        removed = {entry.name: entry.removed for entry in plans}[empty[0]]
        raise InputError(
            f"{source}: no spot is left of section {', '.join(empty)} ({empty[0]}: removed {removed}); lower "
            f"--min-counts, drop such sections with --skip-incomplete, or name the others with --sections {rest}"
        )
    for name in empty:
        skipped[name] = "no spot left after filtering"
        print(f"left out: section {name}: {skipped[name]}", flush=True)
    kept = [entry for entry in plans if entry.spots]
    if not kept:
        raise InputError(f"{source}: no spot is left in any section; lower --min-counts (now {chosen.min_counts})")
    genes, genes_removed = plan.choose_genes(kept, min_spot_fraction=chosen.min_spot_fraction)
    print(manifest.removal_table(plans, genes, genes_removed, options=chosen), flush=True)

    splits = plan.split_names([entry.name for entry in kept])
    tasks = [writer.Task(source, layout, entry.name, splits[entry.name], out, chosen, genes, entry) for entry in kept]
    entries = _write(tasks, workers, shard=shard, merge=merge)
    if shard is not None:
        print(f"shard {shard[0]}/{shard[1]} is done; once all are, run the same command with --merge")
        return out / MANIFEST
    content = manifest.make_manifest(
        options=chosen, source=about, genes=genes, genes_removed=genes_removed, skipped=skipped, entries=entries
    )
    manifest.write_tfds_metadata(out, content)
    writer.write_json(out / MANIFEST, content)
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    for warning in content["warnings"]:
        print(f"warning: {warning}")
    return out / MANIFEST


def _skipped(found: dict[str, str], options: plan.Options, names: Sequence[str]) -> dict[str, str]:
    """Incomplete sections that were asked for, by default or by name, and what they lack."""
    asked = {name: lack for name, lack in found.items() if options.sections is None or name in options.sections}
    return {name: lack for name, lack in asked.items() if name not in names}


def _check_same(out: Path, options: plan.Options, about: dict[str, str], names: Sequence[str]) -> None:
    """Raise unless the data set at `out` is what this build would make."""
    content, _ = read_manifest(out)
    there = content["parameters"]
    for key, value in options.parameters().items():
        if key != "layout" and there.get(key) != value:
            found = f"a data set built with {key}={there.get(key)!r}, this build asks for {value!r}"
            raise InputError(f"{out}: holds {found}; choose another --out, or remove that folder")
    held = {entry["name"] for entry in content["sections"]} | set(content["skipped"])
    if not set(names) <= held or not {entry["name"] for entry in content["sections"]} <= set(names):
        found = ", ".join(entry["name"] for entry in content["sections"])
        raise InputError(
            f"{out}: holds a data set of sections {found}, this build asks for {', '.join(names)}; "
            "choose another --out, or remove that folder"
        )
    if content["source"]["fingerprint"] != about["fingerprint"]:
        raise InputError(
            f"{out}: holds a data set built from other files than {about['name']} has now; "
            "choose another --out, or remove that folder"
        )
    for entry in content["sections"]:
        check_files(out, entry, verify=False)


def _begin(out: Path, options: plan.Options, source: Path, names: Sequence[str], *, may_restart: bool) -> None:
    """Claim `out` for this build, or resume the one begun there.

    Raises:
        InputError: `out` holds something else, or a build begun with other parameters.
    """
    work = out / WORK_FOLDER
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the data set")
    if out.is_dir() and any(out.iterdir()) and not work.is_dir():
        raise InputError(f"{out}: the folder holds other files and no data set; choose an empty or new one for --out")
    begun = {
        "parameters": options.parameters(),
        "sections": list(names),
        "versions": manifest.versions(),
        "source": manifest.fingerprint(source, out, times=True),
    }
    file = work / "build.json"
    if file.is_file():
        there = json.loads(file.read_text())
        if there["parameters"] != begun["parameters"] or there["sections"] != begun["sections"]:
            raise InputError(
                f"{out}: holds an unfinished build with other parameters or sections; finish it with those, choose "
                "another --out, or remove that folder"
            )
        if there == begun:
            print(f"{out}: resuming an unfinished build", flush=True)
            return
        if not may_restart:
            raise InputError(f"{out}: the source or the software changed since this build began; remove that folder")
        print(f"{out}: the source or the software changed since this build began; starting again", flush=True)
        for folder in (WORK_FOLDER, f"{writer.dataset_name(options.kind)}", "tables", "thumbnails"):
            shutil.rmtree(out / folder, ignore_errors=True)
    writer.write_json(file, begun)


def _plan(
    source: Path,
    out: Path,
    layout: str,
    names: Sequence[str],
    options: plan.Options,
    workers: int,
    *,
    first: tuple[int, int] | None,
) -> list[plan.SectionPlan]:
    """Plans of all sections, in order; those kept from before, or made by other array jobs meanwhile, are reused."""
    own = [] if first is None else list(names[first[0] - 1 :: first[1]])
    order = own + [name for name in names if name not in own]
    tasks = [(source, out, layout, name, options) for name in order]
    plans = {made.name: made for made in cli.progress(
        _run(_plan_one, tasks, workers), total=len(tasks), description="reading", unit="section"
    )}  # fmt: skip
    return [plans[name] for name in names]


def _plan_one(task: tuple[Path, Path, str, str, plan.Options]) -> plan.SectionPlan:
    source, out, layout, name, options = task
    file = writer.plan_path(out, name)
    if (known := writer.load_plan(file)) is not None:
        return known
    made = plan.plan_section(source, layout, name, options)
    writer.save_plan(file, made)
    return made


def _write(
    tasks: Sequence[writer.Task], workers: int, *, shard: tuple[int, int] | None, merge: bool
) -> list[dict[str, Any]]:
    """Entries of the sections written, in order."""
    if merge:
        entries = {task.name: writer.finished_entry(task) for task in tasks}
        missing = [name for name, entry in entries.items() if entry is None]
        if missing:
            raise InputError(
                f"{tasks[0].out}: section {', '.join(missing)} not written yet; run the remaining --shard jobs, or the "
                "command without --merge to write them here"
            )
        return list(entries.values())  # type: ignore[arg-type]
    mine = tasks if shard is None else tasks[shard[0] - 1 :: shard[1]]
    entries = {}
    for entry in _run(writer.write_section, mine, workers):
        entries[entry["name"]] = entry
        scale = f"{entry['um_per_px']:.3g} um/px from the {entry['um_per_px_source']}"
        print(f"{entry['name']}: {entry['records']} records in {len(entry['shards'])} shards, {scale}", flush=True)
        for note in entry["notes"]:
            print(f"{entry['name']}: {note}", flush=True)
    return [entries[task.name] for task in mine]


def _run(function: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results as they come; in this process when one worker is enough."""
    if workers == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads may hang
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError(
                "A worker process was killed, most likely for want of memory; run again with fewer --workers, "
                "finished sections are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m data_prep.build",
        description=__doc__.split("\n\n")[1],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--source", required=True, type=Path, metavar="DIR", help="the sections' folder")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="the data set's folder")
    made.add_argument("--layout", default="auto", help="auto, or one of " + ", ".join(readers.layout_names()))
    made.add_argument("--sections", type=_names, metavar="A,B", help="build only these")
    made.add_argument("--skip-incomplete", action="store_true", help="leave out sections that lack a file or any spot")
    group = made.add_argument_group("records")
    group.add_argument("--patch-size-px", type=int, default=224, metavar="N", help="side of a patch (224)")
    group.add_argument("--tile-size-px", type=int, metavar="N", help="make tiles with many spots, not patches")
    group.add_argument("--context-px", type=int, metavar="N", help="margin of a tile that owns no spot (an eighth)")
    group.add_argument("--um-per-px", type=float, metavar="X", help="resample to this scale (each slide's own)")
    group.add_argument("--stain", default="none", help="stain normalisation: none, vahadane, macenko, reinhard")
    group.add_argument("--stain-target", metavar="SECTION|FILE", help="the slide to normalise to")
    group.add_argument("--image-format", default="jpeg", help="jpeg or raw (larger, faster to read)")
    group.add_argument("--jpeg-quality", type=int, default=95, metavar="Q", help="with full colour resolution (95)")
    group.add_argument("--shard-mb", type=int, default=256, metavar="MB", help="decoded size of a shard (256)")
    group = made.add_argument_group("filters")
    group.add_argument("--min-counts", type=int, default=1000, metavar="N", help="of a spot, over all genes (1000)")
    group.add_argument("--min-spot-fraction", type=float, default=0.0, metavar="F",
                       help="of the spots a gene is found in (0: only genes never found are removed)")  # fmt: skip
    group.add_argument("--max-white-fraction", type=float, default=1.0, metavar="F",
                       help="of a record (1: none removed; the fraction is recorded and protocols filter)")  # fmt: skip
    group = made.add_argument_group("reading")
    group.add_argument("--source-um-per-px", type=float, metavar="X", help="slides' scale, where no file tells it")
    group.add_argument("--image", type=Path, metavar="PATH", help="full-resolution image, where kept elsewhere")
    group.add_argument("--gene-table", type=Path, metavar="FILE", help="HGNC complete set to name genes by")
    group.add_argument("--resolve-aliases", action="store_true", help="replace outdated gene symbols")
    group.add_argument("--bin-um", type=_numbers, metavar="8,16", help="Visium HD bin sizes (all)")
    group = made.add_argument_group("running")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes, a section each (1)")
    group.add_argument("--shard", type=_shard, metavar="I/N", help="write every N-th section, as array job I of N")
    group.add_argument("--merge", action="store_true", help="finish what array jobs wrote")
    return made


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def _shard(text: str) -> tuple[int, int]:
    index, count = text.split("/")
    return int(index), int(count)


def main(arguments: list[str]) -> None:
    """Run the command line."""
    print(build(**vars(parser().parse_args(arguments))))


if __name__ == "__main__":
    cli.run(main)
