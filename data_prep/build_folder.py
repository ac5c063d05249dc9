"""The folder of a build: whose it is, how far it has come, and what is removed of it.

An unfinished data set has a work folder next to what is whole of it: build.json says what is being built, a lock that
somebody is at it.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep import files, json_files, manifest, plan, system_errors, writer
from data_prep.dataset import MANIFEST, WORK_FOLDER, check_files, read_manifest
from data_prep.errors import InputError

_LOCK = "lock"  # in the work folder, where <split>.lock is that of a section


def check_same(out: Path, options: plan.Options, about: dict[str, str], names: Sequence[str]) -> None:
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


def check_vacant(out: Path, *, merge: bool) -> None:
    """Raise unless `out` is new, empty or an unfinished build, or with `merge` unless it is the last."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the data set")
    if merge and not (out / WORK_FOLDER / "build.json").is_file():
        raise InputError(f"{out}: no --shard job has written here, so there is nothing to merge; check --out")
    if out.is_dir() and any(out.iterdir()) and not (out / WORK_FOLDER).is_dir():
        raise InputError(f"{out}: the folder holds other files and no data set; choose an empty or new one for --out")
    system_errors.check_folder(out, "--out")


@contextlib.contextmanager
def claimed(
    out: Path, options: plan.Options, source: Path, names: Sequence[str], *, sharing: bool, merge: bool
) -> Iterator[bool]:
    """Holds `out` for a build, begun or resumed; gives False where another build has just finished it.

    A build that is refused before anything is worth resuming leaves no trace.

    Args:
        sharing: let other array jobs write there too; merge: gather what they wrote.

    Raises:
        InputError: another build is at work there, or see `_begin`.
    """
    existed, fresh = out.exists(), not (out / WORK_FOLDER).exists()
    alone = not sharing and not merge
    busy = f"{out}: another build is at work there; wait for it, or stop it"
    with files.lock(out / WORK_FOLDER / _LOCK, busy=busy, shared=sharing):
        if (out / MANIFEST).is_file():
            yield False
            return
        try:
            fresh |= _begin(out, options, source, names, alone=alone)
            yield True
        except InputError:
            if alone and fresh and not any((out / WORK_FOLDER).glob("sections/*.json")):
                _clear(out)
                remove_work(out)
                if not existed:
                    with contextlib.suppress(OSError):
                        out.rmdir()
            raise


def _begin(out: Path, options: plan.Options, source: Path, names: Sequence[str], *, alone: bool) -> bool:
    """Claim `out`, which is held, for this build, or resume the one begun there.

    Args:
        alone: whether no other job shares `out`, so that an unfinished build of no use may be discarded.

    Returns:
        Whether such a build was discarded.

    Raises:
        InputError: a build was begun there with other parameters.
    """
    work, file = out / WORK_FOLDER, out / WORK_FOLDER / "build.json"
    begun = {
        "parameters": options.parameters(),
        "sections": list(names),
        "versions": manifest.versions(),
        "source": plan.fingerprint(source, times=True, but=out),
        "image": plan.fingerprint(options.image, times=True) if options.image else None,
    }
    there = None
    if file.is_file():
        remedy = f"remove {work}, or choose another --out"
        there = json_files.read(file, remedy=remedy)
        json_files.require(
            there, {"parameters": json_files.OBJECT, "sections": json_files.TEXTS}, str(file), remedy=remedy
        )
    if there == begun:
        if alone:
            writer.remove_left_over(out)
            print(f"{out}: resuming an unfinished build", flush=True)
        return False
    if there is not None:
        same = all(there[key] == begun[key] for key in ("parameters", "sections"))
        if not same and (not alone or any(work.glob("sections/*.json"))):
            raise InputError(
                f"{out}: holds an unfinished build with other parameters or sections; finish it with those, choose "
                "another --out, or remove that folder"
            )
        if not alone:
            raise InputError(f"{out}: the source or the software changed since this build began; remove that folder")
        why = "the source or the software changed since this build began" if same else "nothing was finished here"
        print(f"{out}: {why}; starting again", flush=True)
        _clear(out)
    json_files.write(file, begun, lines=True, sync=True)
    return there is not None


def _clear(out: Path) -> None:
    """Remove what an unfinished build wrote, but for the lock, which this build holds."""
    for folder in (*(writer.dataset_name(kind) for kind in ("patches", "tiles")), "tables", "thumbnails"):
        shutil.rmtree(out / folder, ignore_errors=True)
    _clear_work(out)


def _clear_work(out: Path) -> None:
    for path in (out / WORK_FOLDER).iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)


def remove_work(out: Path) -> None:
    """Remove the work folder, the lock last: from then on another build may hold `out`."""
    _clear_work(out)
    (out / WORK_FOLDER / _LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (out / WORK_FOLDER).rmdir()
