"""Writes one section of a data set: shards, table, thumbnail, and last the entry that says they are whole."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from PIL import Image

from data_prep import checks, cli, counts, files, json_files, patch_slide, patches, plan, records, slide, stain, tissue
from data_prep.dataset import SECTION, WORK_FOLDER, check_files, check_table_entry
from data_prep.errors import InputError
from data_prep.framed import Framed
from data_prep.section import GeneTable
from data_prep.section_table import SectionTable

VERSION = "2.0.0"  # of the TFDS data set: raised when the records change
THUMBNAIL_PX = 1024
_SCRATCH = ".scratch"
PART_SPOTS, PART_ENTRIES = 1 << 20, 1 << 25  # of a part of a table, unless one record has more
# One record a group, so that any record is read alone; JPEG does not shrink further.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Task:
    """One section to write.

    Attributes:
        name: the section's.
        split: its TFDS split, also its file name.
        out: the data set's folder.
        genes: the data set's genes.
        plan: what the section holds.
        target: the slide to normalise stains to, fitted.
    """

    name: str
    split: str
    out: Path
    options: plan.Options
    genes: GeneTable
    plan: plan.SectionPlan
    target: stain.Profile | None = None


def dataset_name(kind: str) -> str:
    """The TFDS data set's name for "patches" or "tiles"."""
    return f"stjax_{kind}"


def shard_sizes(count: int, *, size_px: int, shard_mb: int) -> list[int]:
    """Records per shard: as few shards as `shard_mb` decoded megabytes each allow, their sizes equal but for one."""
    shards = max(1, -(-count * size_px * size_px * 3 // (shard_mb * 1_000_000)))
    return [len(part) for part in np.array_split(np.arange(count), min(shards, count) or 1)]


def entry_path(out: Path, split: str) -> Path:
    """Where a finished section's entry is kept until the manifest is written."""
    return out / WORK_FOLDER / "sections" / f"{split}.json"


def plan_path(out: Path, name: str) -> Path:
    """Where a section's plan is kept meanwhile; hashed, as a section's name may not do for a file's."""
    return out / WORK_FOLDER / "plans" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"


def framed_path(out: Path, name: str) -> Path:
    """Where what is kept of a section lies from its planning to its writing."""
    return plan_path(out, name).with_suffix(".framed.npz")


def scratch_folder(out: Path, name: str) -> Path:
    """A new folder for counts of a section that are too many for memory, from its planning to its writing."""
    plans = plan_path(out, name).parent
    plans.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{plan_path(out, name).stem}.", suffix=_SCRATCH, dir=plans))


def remove_left_over(out: Path) -> None:
    """Remove the counts of sections whose planning was killed; for a build that no other job shares."""
    for folder in (out / WORK_FOLDER / "plans").glob(f"*{_SCRATCH}"):
        if not folder.with_name(f"{folder.name.partition('.')[0]}.framed.npz").is_file():
            shutil.rmtree(folder, ignore_errors=True)


def save_plan(out: Path, made: plan.SectionPlan, framed: Framed) -> None:
    """Keep a plan for later builds and other array jobs, and what it leaves of the section; whole or not there."""
    with files.whole(framed_path(out, made.name)) as temporary:
        framed.save(temporary)
    numbers = {"name": made.name, "spots": made.spots, "records": made.records, "read": made.read}
    with files.whole(plan_path(out, made.name)) as temporary:
        np.savez(
            temporary,
            ensembl_id=made.genes.ensembl_id,
            symbol=made.genes.symbol,
            gene_sums=made.gene_sums,
            gene_spots=made.gene_spots,
            rest=json.dumps(numbers | {"removed": made.removed, "found": dataclasses.asdict(made.found)}),
        )


def load_plan(out: Path, name: str) -> plan.SectionPlan | None:
    """The plan that `save_plan` kept, or None where there is none, or none that can be read."""
    path = plan_path(out, name)
    try:
        with np.load(path, allow_pickle=False) as file:
            genes = GeneTable(file["ensembl_id"], file["symbol"])
            rest = json_files.parse(str(file["rest"]), str(path), remedy="remove it")
            rest["found"] = checks.Found.from_json(rest["found"])
            return plan.SectionPlan(genes=genes, gene_sums=file["gene_sums"], gene_spots=file["gene_spots"], **rest)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, InputError):
        return None


def finished_entry(task: Task) -> dict[str, Any] | None:
    """The entry of a section that an earlier build finished, its files verified by hash; None if there is none."""
    path = entry_path(task.out, task.split)
    try:
        entry = json_files.read(path, remedy="")
        check_table_entry(json_files.require(entry, SECTION, str(path), remedy=""), str(path))
        check_files(task.out, entry, verify=True)
    except InputError:
        return None
    return entry


def write_section(task: Task) -> dict[str, Any]:
    """Write a section's files and its entry, or return the entry if they are there already.

    Everything is written under a temporary name and renamed when whole; the entry comes last.

    Raises:
        InputError: the slide cannot be read, or another process is writing this section.
    """
    work = task.out / WORK_FOLDER
    temporary = work / f"writing-{task.split}"
    busy = f"Section {task.name!r}: another process is writing it in {task.out}; wait for it, or stop it"
    # The workers of a build just killed take a moment to notice.
    with files.lock(work / f"{task.split}.lock", busy=busy, wait_s=5):
        if (entry := finished_entry(task)) is not None:
            return entry
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed build left
        temporary.mkdir(parents=True)
        entry, written = _write_files(task, temporary)
        files.flush(temporary)
        for name, final in written.items():
            final.parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(final)
        json_files.write(entry_path(task.out, task.split), entry, lines=True, sync=True)
        shutil.rmtree(temporary)
    return entry


def _write_files(task: Task, folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The section's manifest entry, and where each file written in `folder` belongs."""
    framed = Framed.load(framed_path(task.out, task.name))
    section = framed.section
    sizes = shard_sizes(len(framed), size_px=task.options.size_px, shard_mb=task.options.shard_mb)
    prefix = f"{dataset_name(task.options.kind)}-{task.split}.array_record"
    shards = {f"{prefix}-{index:05d}-of-{len(sizes):05d}": size for index, size in enumerate(sizes)}
    dataset = Path(dataset_name(task.options.kind)) / VERSION
    places = {name: dataset / name for name in shards} | {"thumbnail.jpg": Path("thumbnails") / f"{task.split}.jpg"}
    with patch_slide.open_image(section) as image:
        transform = plan.stain_transform(task.options, image, task.target)
        totals = counts.row_totals(section.counts)
        threshold = tissue.otsu_threshold(tissue.grey_histogram(image, transform=transform))
        found: list[tuple[Any, ...]] = []
        stream = _records(framed, image, totals, threshold, transform, task.options, found)
        with contextlib.closing(
            cli.progress(stream, total=len(framed), description=task.name, unit=task.options.kind)
        ) as progress:
            _write_shards(folder, shards, iter(progress))
        thumbnail = image.thumbnail(THUMBNAIL_PX)
        of_image = {"width": image.width, "height": image.height} | ({"patches": True} if image.patch_px else {})
    if transform is not None:
        places["before.jpg"] = Path("thumbnails") / f"{task.split}_before.jpg"
        _save_jpeg(folder / "before.jpg", thumbnail)
        thumbnail = transform(thumbnail)
    _save_jpeg(folder / "thumbnail.jpg", thumbnail)
    white, mean, mean_square = (np.array(column) for column in zip(*found, strict=True))
    figures = {"white_fraction": white.astype(np.float32), "channel_mean": mean, "channel_mean_square": mean_square}
    tables, gene_sums = _write_tables(task, framed, totals, figures, folder)
    places |= {name: Path("tables") / f"{task.split}{name.removeprefix('table')}" for name in tables}
    of_slide = {
        "image": {"file": section.image_path.name, "sha256": task.plan.found.image_sha256, **of_image},
        "otsu_threshold": threshold,
        "stain": None if transform is None else transform.to_dict()["source"],
    }
    of_shards = [
        {"file": str(places[name]), "records": size} | _size_and_hash(folder / name) for name, size in shards.items()
    ]
    of_tables = [{"file": str(places[name])} | _size_and_hash(folder / name) | of for name, of in tables.items()]
    entry = _entry(task, framed, of_slide, gene_sums, figures) | {
        "shards": of_shards,
        **({"tables": of_tables} if len(of_tables) > 1 else {"table": of_tables[0]}),
        "thumbnail": str(places["thumbnail.jpg"]),
    }
    if "before.jpg" in places:
        entry["thumbnail_before"] = str(places["before.jpg"])
    return entry, {name: task.out / place for name, place in places.items()}


def _write_tables(
    task: Task, framed: Framed, totals: np.ndarray, figures: dict[str, np.ndarray], folder: Path
) -> tuple[dict[str, dict[str, int]], np.ndarray]:
    """Writes the section's table, in parts where it has millions of spots.

    Args:
        totals: [S] counts of the spots; figures: [R] statistics of the records.

    Returns:
        File name -> what the manifest says of a part, nothing of a table in one; and [G] counts over all spots.
    """
    bounds = part_bounds(framed)
    parts = list(itertools.pairwise(bounds))
    names = ["table.npz"] if len(parts) == 1 else [
        f"table-{number:05d}-of-{len(parts):05d}.npz" for number in range(len(parts))
    ]  # fmt: skip
    gene_sums, written = np.zeros(len(task.genes), np.int64), {}
    for name, (first, last) in zip(names, parts, strict=True):
        start, stop = framed.record_start[[first, last]].tolist()
        rows = np.arange(start, stop)
        lengths = np.diff(framed.record_start[first : last + 1])
        table = SectionTable(
            counts=plan.counts_over(framed.section, task.genes, rows),
            spots=framed.section.spots[start:stop],
            total_counts=totals[start:stop],
            record_of_spot=np.repeat(np.arange(last - first, dtype=np.int32), lengths),
            **{key: values[first:last] for key, values in figures.items()},
        )
        gene_sums += counts.column_totals(table.counts)[0]
        table.save(folder / name)
        written[name] = {} if len(parts) == 1 else {"records": last - first, "spots": len(rows)}
    return written, gene_sums


def part_bounds(framed: Framed) -> list[int]:
    """Records at which the parts of a section's table begin, and the number of records: as few parts, one after the
    other, as their spots and counts allow."""
    spots = framed.record_start
    entries = counts.entries_before(framed.section.counts, spots)
    bounds = [0]
    for record in range(1, len(framed)):
        begun = bounds[-1]
        if spots[record + 1] - spots[begun] > PART_SPOTS or entries[record + 1] - entries[begun] > PART_ENTRIES:
            bounds.append(record)
    return [*bounds, len(framed)]


def _write_shards(folder: Path, shards: dict[str, int], stream: Iterator[bytes]) -> None:
    """Writes the records of a stream: file name -> how many of them."""
    for name, size in shards.items():
        writer = array_record_module.ArrayRecordWriter(str(folder / name), _WRITER_OPTIONS)
        with contextlib.closing(writer) as shard:  # what is read may fail
            for _ in range(size):
                shard.write(next(stream))


def _save_jpeg(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, "jpeg", quality=90)


def _entry(
    task: Task, framed: Framed, of_slide: dict[str, Any], gene_sums: np.ndarray, figures: dict[str, np.ndarray]
) -> dict[str, Any]:
    """What the manifest says of a section, but for its files."""
    section = framed.section
    return {
        "name": section.name,
        "patient": section.patient,
        "patient_source": section.patient_source,
        "split": task.split,
        "layout": section.layout,
        "synthetic": section.synthetic,
        "records": len(framed),
        "spots": len(section.spots),
        "spots_read": task.plan.read,
        "removed": framed.removed,
        "genes_found": int(np.count_nonzero(task.plan.gene_sums)),
        "um_per_px": float(section.um_per_px),
        "um_per_px_source": section.um_per_px_source,
        "px_scale": float(framed.px_scale),
        "context_px": framed.context_px,
        **of_slide,
        "gene_sums": gene_sums.tolist(),
        "channel_moments": {
            "count": len(framed) * task.options.size_px**2,
            "mean": figures["channel_mean"].mean(axis=0).tolist(),
            "mean_square": figures["channel_mean_square"].mean(axis=0).tolist(),
        },
        "notes": [*section.notes, *task.plan.found.notes()],
    }


def _records(
    framed: Framed,
    image: slide.Slide,
    totals: np.ndarray,
    threshold: int,
    transform: tissue.Transform | None,
    options: plan.Options,
    figures: list[tuple[Any, ...]],
) -> Iterator[bytes]:
    """Serialised records in order; appends white fraction and channel moments of each to `figures`."""
    size, section, px_scale = options.size_px, framed.section, framed.px_scale
    for origin, start, stop in zip(framed.origin_xy, framed.record_start, framed.record_start[1:], strict=False):
        if image.patch_px:
            window, region = patches.stored_window(image, str(section.spots.id[start]))
        else:
            window, region = patches.cut_window(image, origin, size_px=size, px_scale=px_scale, transform=transform)
        data = records.encode_image(window, options.image_format, jpeg_quality=options.jpeg_quality)
        # Moments are those of the pixels that training will read, not of the slide's.
        stored = records.decode_image(data, options.image_format, size, size).reshape(-1, 3).astype(np.float32)
        white = tissue.white_fraction(region, threshold)
        squares = np.mean(stored * stored, axis=0, dtype=np.float64)
        figures.append((white, stored.mean(axis=0, dtype=np.float64), squares))
        yield records.encode_record(
            {
                "image": data,
                "image_format": options.image_format,
                "height": size,
                "width": size,
                "section": section.name,
                "patient": section.patient,
                "origin_xy": origin,
                "px_scale": px_scale,
                "white_fraction": white,
                "total_counts": totals[start:stop],
                **records.spot_arrays(section.spots[start:stop].within(origin, px_scale)),
            }
        )


def _size_and_hash(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
