"""Build a data set from sections: `python -m data_prep.build --source DIR --out DIR`.

A build may be stopped at any moment and run again: sections already whole are verified by hash and kept, and the files
are the same, byte for byte, as those of a build left alone. manifest.json comes last.
"""

import argparse
import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep import (
    build_checks,
    build_folder,
    checks,
    cli,
    json_files,
    manifest,
    plan,
    readers,
    stain,
    writer,
)
from data_prep.counted import counted
from data_prep.dataset import MANIFEST, WORK_FOLDER
from data_prep.errors import InputError
from data_prep.execute import Execute, processes
from data_prep.readers import Reader, _patients

EXAMPLES = """examples:
  python -m data_prep.build --source her2st --out data/her2st --skip-incomplete
  python -m data_prep.build --source her2st --out data/her2st --sections C2,C3 --workers 2
  python -m data_prep.build --source stnet --out data/stnet --target-um-per-px 0.5 --min-spot-fraction 0.1
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
    ignore_checks: Sequence[str] = (),
    execute: Execute | None = None,
    **options: Any,
) -> Path:
    """Build a data set, resume one, or find that it is there already.

    Args:
        source: the sections' folder.
        out: the data set's folder; made if missing.
        workers: processes, each with one section at a time.
        shard: (i, n), i from 1: write only every n-th section, for array jobs that share `out`.
        merge: write no section, only the manifest over what array jobs wrote.
        ignore_checks: of `data_prep.checks.NAMES`, whose errors do not stop the build; the manifest keeps them.
        execute: runs the sections in place of `workers`, see `data_prep.beam`.
        options: see `data_prep.plan.Options`.

    Returns:
        The manifest's path; with `shard`, where it will be.

    Raises:
        InputError: a bad source, errors that checks find in it, bad options, or an `out` that holds something else or
            that another build is at.
    """
    source, out = Path(source), Path(out)
    chosen = plan.Options(**options)
    _check_job(workers, shard, merge)
    build_checks.check_names(ignore_checks)
    reader, reason = readers.find_layout(source, chosen.layout)
    print(f"{source}: layout {reader.name} ({reason})", flush=True)
    names = reader.list_sections(
        source, sections=chosen.sections, skip_incomplete=chosen.skip_incomplete, **chosen.reading
    )
    found = reader.find_sections(source, **chosen.reading)
    skipped = _skipped(found, chosen, names)
    for name, lack in skipped.items():
        print(f"left out: section {name}: {lack}", flush=True)
    if strangers := _patients.unknown_sections(source, found):
        print(f"warning: {strangers}", flush=True)
    about = {
        "layout": reader.name,
        "reason": reason,
        "name": source.resolve().name,
        "fingerprint": plan.fingerprint(source, times=False, but=out),
    }
    if not (out / MANIFEST).is_file():
        build_folder.check_vacant(out, merge=merge)
        claim = build_folder.claimed(out, chosen, source, names, sharing=shard is not None, merge=merge)
        with claim as unfinished:
            if unfinished:
                with contextlib.nullcontext(execute) if execute else processes(workers) as run:
                    job = {"shard": shard, "merge": merge, "ignore_checks": ignore_checks}
                    content = _write_sections(source, out, reader, names, chosen, run, **job)
                if shard is None:
                    return _finish(out, chosen, about, skipped, content)
                print(f"shard {shard[0]}/{shard[1]} is done; once all are, run the same command with --merge")
                return out / MANIFEST
    build_folder.check_same(out, chosen, about, names)
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    print(f"{out}: this data set is already there, nothing to do")
    return out / MANIFEST


def _check_job(workers: int, shard: tuple[int, int] | None, merge: bool) -> None:
    if workers < 1:
        raise InputError(f"--workers is {workers}, expected at least 1")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise InputError(f"--shard is {shard[0]}/{shard[1]}, expected i/n with i from 1 to n")
    if shard is not None and merge:
        raise InputError("--shard writes sections, --merge only gathers them; give one of the two")


def _finish(
    out: Path, chosen: plan.Options, about: dict[str, str], skipped: dict[str, str], content: dict[str, Any]
) -> Path:
    """Write what comes last, once every section is whole; returns the manifest's path."""
    content = manifest.make_manifest(options=chosen, source=about, skipped=skipped | content.pop("empty"), **content)
    manifest.write_tfds_metadata(out, content)
    json_files.write(out / MANIFEST, json_files.sealed(content), lines=True, sync=True)
    build_folder.remove_work(out)
    return out / MANIFEST


def _write_sections(
    source: Path,
    out: Path,
    reader: Reader,
    names: Sequence[str],
    options: plan.Options,
    run: Execute,
    *,
    shard: tuple[int, int] | None,
    merge: bool,
    ignore_checks: Sequence[str],
) -> dict[str, Any]:
    """Plan and check all sections, then write those of this job.

    Returns:
        "genes", "genes_removed", "empty" (section -> why it is left out), "entries", the stain "target", "warnings" and
        "ignored_errors".
    """
    target = _stain_target(source, out, reader, options)
    # Array jobs plan their own sections first: by the time they come to the others', those plans are there.
    own = [] if shard is None else list(names[shard[0] - 1 :: shard[1]])
    tasks = [
        (source, out, reader.name, name, options, target) for name in sorted(names, key=lambda name: name not in own)
    ]
    planning = cli.progress(run(_plan, tasks), total=len(tasks), description="reading", unit="section")
    made = {plan.name: plan for plan in planning}
    plans = [made[name] for name in names]
    empty = build_checks.refuse_empty(source, plans, options)
    kept = [entry for entry in plans if entry.spots]
    for name in empty:
        print(f"left out: section {name}: no spot left after filtering", flush=True)
    warnings, ignored_errors = build_checks.refuse_errors(source, kept, ignore_checks)
    genes, genes_removed = plan.choose_genes(kept, min_spot_fraction=options.min_spot_fraction)
    print(manifest.removal_table(plans, genes, genes_removed, options=options), flush=True)

    splits = plan.split_names([entry.name for entry in kept])
    sections = [writer.Task(entry.name, splits[entry.name], out, options, genes, entry, target) for entry in kept]
    if merge:
        entries = _finished(sections)
    else:
        mine = sections if shard is None else [task for task in sections if task.name in own]
        written = {}
        for entry in run(writer.write_section, mine):
            written[entry["name"]] = entry
            _report(entry, made[entry["name"]].found)
        entries = [written[task.name] for task in mine]
    left_out = dict.fromkeys(empty, "no spot left after filtering")
    chosen = {"genes": genes, "genes_removed": genes_removed, "empty": left_out, "entries": entries, "target": target}
    return chosen | {"warnings": warnings, "ignored_errors": ignored_errors}


def _stain_target(source: Path, out: Path, reader: Reader, options: plan.Options) -> stain.Profile | None:
    """The slide to normalise stains to, fitted once per data set; None without stain."""
    if options.stain == "none":
        return None
    file = out / WORK_FOLDER / "stain_target.json"
    if file.is_file():
        return stain.load_normaliser(file).target
    target = plan.fit_stain_target(source, reader, options)
    json_files.write(file, stain.Normaliser(target, target).to_dict(), lines=True, sync=True)
    return target


def _plan(task: tuple[Path, Path, str, str, plan.Options, Any]) -> plan.SectionPlan:
    """A section's plan; one kept from before, or made by another array job meanwhile, is reused."""
    source, out, layout, name, options, target = task
    if (known := writer.load_plan(out, name)) is not None:
        return known
    scratch = writer.scratch_folder(out, name)
    made, framed = plan.plan_section(source, layout, name, options, target=target, scratch=scratch)
    writer.save_plan(out, made, framed)
    with contextlib.suppress(OSError):
        scratch.rmdir()  # nothing was too much for memory
    return made


def _finished(tasks: Sequence[writer.Task]) -> list[dict[str, Any]]:
    """Entries that array jobs wrote."""
    entries = {task.name: writer.finished_entry(task) for task in tasks}
    missing = [name for name, entry in entries.items() if entry is None]
    if missing:
        raise InputError(
            f"{tasks[0].out}: section {', '.join(missing)} not written yet; run the remaining --shard jobs, or the "
            "command without --merge to write them here"
        )
    return [entry for entry in entries.values() if entry is not None]


def _report(entry: dict[str, Any], found: checks.Found) -> None:
    scale = f"{entry['um_per_px']:.3g} um/px from the {entry['um_per_px_source']}"
    records = f"{counted(entry['records'], 'records')} in {counted(len(entry['shards']), 'shards')}"
    print(f"{entry['name']}: {records}, {scale}", flush=True)
    said = [note for note, problem in zip(found.notes(), found.problems, strict=True) if problem.level != checks.NOTE]
    for note in (note for note in entry["notes"] if note not in said):
        print(f"{entry['name']}: {note}", flush=True)


def _skipped(found: dict[str, str], options: plan.Options, names: Sequence[str]) -> dict[str, str]:
    """Incomplete sections that were asked for, by default or by name, and what they lack."""
    asked = {name: lack for name, lack in found.items() if options.sections is None or name in options.sections}
    return {name: lack for name, lack in asked.items() if name not in names}


def parser() -> cli.Parser:
    """The command line."""
    description = "Build a data set from sections. " + str(__doc__).split("\n\n")[1]
    renamed = {"--um-per-px": "--target-um-per-px"}
    made = cli.Parser("python -m data_prep.build", renamed=renamed, description=description, epilog=EXAMPLES)
    made.add_argument("--source", required=True, type=Path, metavar="DIR", help="the sections' folder")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="the data set's folder")
    made.add_argument("--layout", default="auto", help="auto, or one of " + ", ".join(readers.layout_names()))
    made.add_argument("--sections", type=cli.names, metavar="A,B", help="build only these")
    made.add_argument("--skip-incomplete", action="store_true", help="leave out sections that lack a file or any spot")
    made.add_argument("--ignore-check", dest="ignore_checks", type=cli.names, default=(), metavar="A,B",
                      help=f"go on in spite of the errors of these checks: {', '.join(checks.NAMES)}")  # fmt: skip
    group = made.add_argument_group("records")
    group.add_argument("--patch-size-px", type=int, default=224, metavar="N", help="side of a patch (224)")
    group.add_argument("--tile-size-px", type=int, metavar="N", help="make tiles with many spots, not patches")
    group.add_argument("--context-px", type=int, metavar="N", help="margin of a tile that owns no spot (an eighth)")
    group.add_argument("--target-um-per-px", dest="um_per_px", type=float, metavar="X",
                       help="resample to this scale (each slide's own)")  # fmt: skip
    group.add_argument("--stain", default="none", help="stain normalisation: none, vahadane, macenko, reinhard")
    group.add_argument("--stain-target", metavar="SECTION|FILE", help="the slide to normalise to")
    group.add_argument("--stain-standardise", default="both", help="whose luminosity: both (default), target or none")
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
    cli.add_reading(group)
    group = made.add_argument_group("running")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes, a section each (1)")
    group.add_argument("--shard", type=_shard, metavar="I/N", help="write every N-th section, as array job I of N")
    group.add_argument("--merge", action="store_true", help="finish what array jobs wrote")
    return made


def _shard(text: str) -> tuple[int, int]:
    try:
        index, count = text.split("/")
        return int(index), int(count)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form i/n, such as 3/16") from error


@cli.when_interrupted(lambda: "finished sections are kept; the same command goes on")
def main(arguments: list[str]) -> None:
    """Run the command line."""
    print(build(**vars(parser().parse_args(arguments))))


if __name__ == "__main__":
    cli.program(main)
