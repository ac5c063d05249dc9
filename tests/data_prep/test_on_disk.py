"""Columns on disk are the columns that they would be in memory."""

from pathlib import Path

import numpy as np
import pytest

from data_prep import on_disk
from data_prep.errors import InputError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "MANY", 100)
    monkeypatch.setattr(on_disk, "_ROWS", 30)


@pytest.mark.parametrize(
    "parts",
    [
        [np.arange(70), np.arange(0), np.arange(90), np.arange(1)],
        [np.arange(140, dtype=np.int32), np.linspace(0, 1, 50)],
        [np.full(99, b"ab"), np.full(120, b"abcd"), np.full(7, "\u00e9tude"), np.full(3, b"a")],
        [np.arange(240.0).reshape(120, 2), np.arange(20).reshape(10, 2)],
    ],
    ids=["parts", "wider numbers", "wider texts", "pairs"],
)
def test_a_column_that_grows_is_its_parts_joined(tmp_path: Path, parts: list[np.ndarray]) -> None:
    column, in_memory = on_disk.Column(tmp_path / "columns", "x"), on_disk.Column(None, "x")
    for part in parts:
        column.append(part)
        in_memory.append(part)
    found, expected = column.whole(), in_memory.whole()
    assert on_disk.file_of(found) == next((tmp_path / "columns").iterdir())
    assert on_disk.file_of(expected) is None
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert len(list((tmp_path / "columns").iterdir())) == 1
    np.testing.assert_array_equal(on_disk.load(on_disk.file_of(found) or tmp_path, remedy=""), expected)


def test_short_columns_stay_in_memory(tmp_path: Path) -> None:
    assert on_disk.file_of(on_disk.keep(tmp_path, "x", np.arange(99))) is None
    assert on_disk.file_of(on_disk.keep(None, "x", np.arange(500))) is None
    assert not list(tmp_path.iterdir())


def test_rows_are_taken_as_in_memory_and_those_of_before_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = rng.random((300, 2))
    column = on_disk.keep(tmp_path, "xy", whole)
    rows = rng.permutation(300)[:200]
    taken = on_disk.take(np.asarray(column), rows, times=0.3)
    np.testing.assert_array_equal(taken, whole[rows] * 0.3)
    assert on_disk.file_of(taken) not in (None, on_disk.file_of(column))
    few = on_disk.take(column, rows[:50])
    assert on_disk.file_of(few) is None
    np.testing.assert_array_equal(few, whole[rows[:50]])
    for part in on_disk.blocks(300, column):  # after which nothing of it is lost
        np.testing.assert_array_equal(column[part], whole[part])
    np.testing.assert_array_equal(column, whole)
    assert on_disk.file_of(column[10:]) is None  # not the file's whole content


def test_released_columns_take_no_memory(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    column = on_disk.keep(tmp_path, "x", np.ones(1 << 22))
    before = resident()
    assert column.sum() == 1 << 22
    read = resident()
    on_disk.release(column)
    assert read - before > 24 << 20
    assert resident() - before < 8 << 20


def test_a_damaged_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"no column")
    with pytest.raises(InputError, match=r"damaged column.*build again"):
        on_disk.load(tmp_path / "x.npy", remedy="build again")
