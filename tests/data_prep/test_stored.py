"""Counts on disk: the rows, sums and data sets are those of the same counts in memory."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from data_prep import build, checks, counts, demo, json_files, names, patch_slide, readers, writer
from data_prep import on_disk as columns
from data_prep.dataset import PatchDataset, read_manifest
from data_prep.errors import InputError
from data_prep.readers import _array_fit, _matrix, _pool, _positions
from data_prep.stored import StoredCounts, Writer
from tests.data_prep.test_demo import hashes

HD = readers.reader("visium_hd")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options: dict[str, Any] = {"layout": "visium_hd", "patients": 1, "sections_per_patient": 1, "bins": 6_000}
    return demo.make_demo(tmp_path_factory.mktemp("stored") / "raw", um_per_px=4.0, seed=1, **options)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is too much for memory, and everything is read in many blocks."""
    for module, name, value in (
        (_matrix, "IN_MEMORY", 0), (_matrix, "_BLOCK", 1000), (_positions, "_ROWS", 700), (_array_fit, "_MANY", 500),
        (counts, "SLAB_ROWS", 300), (_pool, "_ROWS", 350),
        (columns, "MANY", 1000), (columns, "_ROWS", 400),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def some(rng: np.random.Generator, rows: int, most: int) -> scipy.sparse.csr_array:
    table = rng.integers(0, most, (rows, 7)) * (rng.random((rows, 7)) < 0.4)
    return scipy.sparse.csr_array(table.astype(np.int32))


def stored(folder: Path, *parts: scipy.sparse.csr_array) -> StoredCounts:
    writer = Writer(folder, 7)
    for part in parts:
        writer.append(part)
    return writer.finish()


def test_counts_come_back_whatever_their_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [some(rng, 5, 200), some(rng, 0, 9), some(rng, 4, 60_000), some(rng, 6, 2**31 - 1), some(rng, 3, 4)]
    whole = np.concatenate([part.toarray() for part in parts])
    found = stored(tmp_path / "counts", *parts)
    assert found.shape == whole.shape
    assert found.types == {"data": "u4", "indices": "u1"}
    np.testing.assert_array_equal(found[:].toarray(), whole)
    rows = np.array([17, 0, 3, 3, 9])
    np.testing.assert_array_equal(found.chosen(rows)[1:4].toarray(), whole[rows[1:4]])
    assert found.lengths(rows).tolist() == (whole[rows] > 0).sum(axis=1).tolist()
    merged = found.gathered(np.array([2, 0, 1, 2, 0, 3, 3]), 4).chosen(rows)
    expected = np.stack([whole[:, [1, 4]].sum(1), whole[:, 2], whole[:, [0, 3]].sum(1), whole[:, [5, 6]].sum(1)], 1)
    small = np.flatnonzero((expected[rows] < 2**31).all(axis=1))
    np.testing.assert_array_equal(merged[small].toarray(), expected[rows][small])
    again = StoredCounts.from_arrays(tmp_path / "counts", merged.to_arrays())
    np.testing.assert_array_equal(again[small].toarray(), merged[small].toarray())


def test_sums_and_selections_are_those_in_memory(tmp_path: Path, on_disk: None) -> None:
    del on_disk
    rng = np.random.default_rng(1)
    whole = some(rng, 1000, 50)
    found, rows = stored(tmp_path / "counts", whole), rng.permutation(1000)[:800]
    np.testing.assert_array_equal(counts.row_totals(found), counts.row_totals(whole))
    for ours, theirs in zip(counts.column_totals(found, rows), counts.column_totals(whole, rows), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    chosen = {"column_of": np.array([3, -1, 0, 1, -1, 2, 4]), "columns": 5}
    ours, theirs = (counts.select(each, rows, **chosen) for each in (found, whole))
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
    assert counts.digest(found) != counts.digest(found.chosen(rows))
    assert not counts.any_found(stored(tmp_path / "none", whole[:0]))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "counts"
    stored(folder, some(np.random.default_rng(2), 20, 9))
    for file, content in (("data", b"12"), ("indptr.npy", b"no"), ("about.json", b"{}")):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(content)
        with pytest.raises(InputError, match="build again"):
            StoredCounts.open(folder)
        (folder / file).write_bytes(whole)
    view = {"counts_rows": np.array([20]), "counts_columns": np.arange(7)}
    with pytest.raises(InputError, match="other counts"):
        StoredCounts.from_arrays(folder, view)


@pytest.mark.parametrize("areas", ["bins", "squares:40"])
def test_a_data_set_is_the_same_bytes_whether_counts_were_in_memory_or_on_disk(
    source: Path, tmp_path: Path, request: pytest.FixtureRequest, areas: str
) -> None:
    options: dict[str, Any] = {"tile_size_px": 32, "min_counts": 1, "areas": areas}
    build.build(source, tmp_path / "memory", **options)
    request.getfixturevalue("on_disk")
    build.build(source, tmp_path / "disk", **options)
    assert hashes(tmp_path / "memory") == hashes(tmp_path / "disk")


def test_a_table_in_parts_is_the_table_in_one(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"tile_size_px": 32, "min_counts": 1}
    whole = PatchDataset.open(build.build(source, tmp_path / "one", **options).parent)
    monkeypatch.setattr(writer, "PART_SPOTS", 700)
    divided = PatchDataset.open(build.build(source, tmp_path / "parts", **options).parent, verify=True)
    entry, of_one = divided.sections[0], whole.sections[0]
    assert len(entry["tables"]) > 2
    assert [part["file"] for part in entry["tables"]][1] == f"tables/A1_002um-00001-of-{len(entry['tables']):05d}.npz"
    assert {key for key in entry if entry[key] != of_one.get(key)} == {"tables"}
    assert of_one.keys() - entry.keys() == {"table"}
    parts, table = list(divided.tables("A1_002um")), whole.table("A1_002um")
    assert [len(part.spots) for part in parts] == [part["spots"] for part in entry["tables"]]
    assert all(len(part.spots) <= 700 or len(part.white_fraction) == 1 for part in parts)
    joined = divided.table("A1_002um")
    for field in dataclasses.fields(table):
        ours, theirs = getattr(joined, field.name), getattr(table, field.name)
        if field.name == "counts":
            ours, theirs = ours.toarray(), theirs.toarray()
        elif field.name == "spots":
            ours, theirs = ours.to_arrays(), theirs.to_arrays()
        np.testing.assert_equal(ours, theirs)
    assert [part.record_of_spot.min() for part in parts] == [0] * len(parts)
    place = tmp_path / "parts" / entry["tables"][1]["file"]
    place.rename(place.with_suffix(".lost"))
    with pytest.raises(InputError, match="00001"):
        PatchDataset.open(tmp_path / "parts")


@pytest.mark.parametrize("damage", ["both", "neither", "lost"])
def test_a_manifest_with_no_whole_table_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(writer, "PART_SPOTS", 500)
    path = build.build(source, tmp_path / "data", tile_size_px=32, min_counts=1)
    content, _ = read_manifest(path.parent)
    entry = content["sections"][0]
    if damage == "both":
        entry["table"] = entry["tables"][0]
    else:
        entry["tables"].pop()
    if damage == "neither":
        del entry["tables"]
    json_files.write(path, json_files.sealed(content))
    with pytest.raises(InputError, match="no whole table"):
        PatchDataset.open(path.parent)


def test_a_build_killed_after_planning_is_resumed_with_the_same_bytes(
    source: Path, tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del on_disk
    options: dict[str, Any] = {"tile_size_px": 32, "min_counts": 1}
    build.build(source, tmp_path / "whole", **options)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("data_prep.writer.save_plan", "data_prep.writer.write_section"):
        with monkeypatch.context() as patch:
            patch.setattr(place, killed)
            with pytest.raises(KeyboardInterrupt):
                build.build(source, tmp_path / "killed", **options)
    folders = list((tmp_path / "killed/.build/plans").glob("*.scratch"))
    assert len(folders) == 1  # what was planned; what the first left is gone
    build.build(source, tmp_path / "killed", **options)
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "killed")


def test_a_section_on_disk_has_its_names_as_bytes_and_is_checked_like_any(
    source: Path, tmp_path: Path, on_disk: None
) -> None:
    del on_disk
    whole = HD.read_section(source, "A1_002um")
    section = HD.read_section(source, "A1_002um", scratch=tmp_path)
    assert isinstance(section.counts, StoredCounts)
    assert section.spots.id.dtype.kind == "S"
    assert columns.file_of(section.spots.id) is not None
    assert columns.file_of(section.spots.xy) is not None
    assert section.spots.names.tolist() == whole.spots.id.tolist()
    assert section.spots[:3].names.tolist() == whole.spots.id[:3].tolist()
    np.testing.assert_array_equal(section.counts[:].toarray(), whole.counts[:].toarray())
    found = []
    for each in (section, whole):
        with patch_slide.open_image(each) as image:
            found.append(checks.examine(each, image, image.preview(checks.THUMBNAIL_PX)))
    assert found[0].problems == found[1].problems
    assert found[0].on_tissue == found[1].on_tissue


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("negative", "count is -1"), ("column", "columns from"), ("pointers", "row pointers"),
        ("barcode", "appears 2 times"), ("short", "entries, but"),
    ],
)  # fmt: skip
def test_a_damaged_matrix_is_refused_block_by_block(
    source: Path, tmp_path: Path, on_disk: None, damage: str, message: str
) -> None:
    import h5py

    del on_disk
    shutil.copytree(source, tmp_path / "raw")
    (path,) = (tmp_path / "raw").rglob("*.h5")
    with h5py.File(path, "r+") as file:
        matrix = file["matrix"]
        assert isinstance(matrix, h5py.Group)
        name = {"negative": "data", "column": "indices", "pointers": "indptr", "barcode": "barcodes", "short": "data"}
        values = np.asarray(matrix[name[damage]])
        match damage:
            case "negative":
                values[-5] = -1
            case "column":
                values[-5] = 5000
            case "pointers":
                values[-5] = 0
            case "barcode":
                values[-5] = values[0]
            case _:
                values = values[:-1]
        del matrix[name[damage]]
        matrix[name[damage]] = values
    with pytest.raises(InputError, match=message):
        HD.read_section(tmp_path / "raw", "A1_002um", scratch=tmp_path / "scratch")


def test_names_as_bytes_are_found_and_compared_as_text_is() -> None:
    rng = np.random.default_rng(3)
    text = np.array([f"s_002um_{row:05d}_{column:05d}-1" for row, column in rng.integers(0, 60, (400, 2))])
    text = np.unique(text)
    listed, among = rng.permutation(text)[:150], rng.permutation(text)[:200]
    expected = names.places_of(listed, among)
    assert (expected >= 0).any()
    assert (expected < 0).any()
    np.testing.assert_array_equal(names.places_of(listed.astype("S"), among.astype("S")), expected)
    np.testing.assert_array_equal(names.places_of(listed.astype("S"), np.sort(among).astype("S")) >= 0, expected >= 0)
    assert names.twice(text.astype("S")) is None
    again = np.append(listed, listed[7])
    assert names.twice(again) == names.twice(again.astype("S")) == (listed[7], 2)
    wild = np.array(["".join(map(chr, rng.integers(33, 127, 40))) for _ in range(300)])  # no number stands for these
    np.testing.assert_array_equal(names.places_of(wild[:9].astype("S"), wild.astype("S")), np.arange(9))
    assert names.twice(wild.astype("S")) is None
