"""her2st: exact joins, everything left out is noted, every fault names its file, place and remedy."""

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout

her2st = readers.reader("her2st")

SAMPLE = Path(__file__).resolve().parents[3] / "../shared/data/her2st"
COUNTS = "\tERBB2\tCOL1A1\tAC004381.6\n2x1\t0\t3\t1\n1x1\t5\t0\t0\n1x2\t1\t1\t1\n9x9\t4\t4\t4\n2x2\t7\t7\t7\n"
SPOTS = (
    "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n"
    "1\t1\t1.0\t1.0\t100\t110\t1\n"
    "2\t1\t2.0\t1.0\t300\t110\t1\n"
    "1\t2\t1.0\t2.0\t100\t310\t1\n"
    "2\t2\t2.0\t2.0\t300\t310\t0\n"
    "3\t1\t3.0\t1.0\t500\t110\t1\n"
)


def write(root: Path, *, counts: str = COUNTS, spots: str = SPOTS, image: bool = True) -> Path:
    for folder in ("ST-cnts", "ST-imgs/A/A1", "ST-spotfiles"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ST-cnts/A1.tsv.gz").write_bytes(gzip.compress(counts.encode()))
    (root / "ST-spotfiles/A1_selection.tsv").write_text(spots)
    if image:
        Image.new("RGB", (600, 400), "white").save(root / "ST-imgs/A/A1/slide.jpg")
    return root


def test_read_section_joins_on_the_spot_id(tmp_path: Path) -> None:
    section = her2st.read_section(write(tmp_path), "A1")
    assert section.spots.id.tolist() == ["2x1", "1x1", "1x2"]
    assert section.spots.xy.tolist() == [[300, 110], [100, 110], [100, 310]]
    assert section.counts.toarray().tolist() == [[0, 3, 1], [5, 0, 0], [1, 1, 1]]
    assert section.counts.dtype == np.int32
    assert section.patient == "A"
    assert (section.um_per_px, section.um_per_px_source) == (pytest.approx(1.0), "spot pitch")
    assert section.spots.size_px.tolist() == [50, 50, 50]
    assert not section.synthetic


def test_read_section_notes_everything_left_out(tmp_path: Path) -> None:
    notes = her2st.read_section(write(tmp_path), "A1").notes
    assert "1 selected spot has no counts" in notes
    assert "1 counted spot is not in the spot file and was left out" in notes
    assert "1 counted spot is not selected and was left out" in notes
    assert "1 of 3 symbols have no unique Ensembl id and stay under their symbol" in notes


def test_zero_padded_ids_and_plain_text_counts_join(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "ST-cnts/A1.tsv.gz").write_text(COUNTS.replace("2x1", "002x001"))
    assert her2st.read_section(root, "A1").spots.id[0] == "2x1"


@pytest.mark.parametrize("rename", [lambda x, y: f"X{x}x{y}", lambda x, y: f"{x}_{y}", lambda x, y: f"X{x}_{y}"])
def test_spots_as_r_renames_them_join(tmp_path: Path, rename: Callable[[str, str], str]) -> None:
    counts = re.sub(r"^(\d)x(\d)", lambda found: rename(found[1], found[2]), COUNTS, flags=re.MULTILINE)
    section = her2st.read_section(write(tmp_path, counts=counts), "A1")
    assert section.spots.id.tolist() == ["2x1", "1x1", "1x2"]
    assert f"A1.tsv.gz names spots as {rename('2', '1')}, read as 2x1" in section.notes


def test_spot_file_with_names_for_positions_is_read(tmp_path: Path) -> None:
    expected = her2st.read_section(write(tmp_path / "a"), "A1")
    header, *rows = (line.split("\t") for line in SPOTS.splitlines())
    lines = [header[2:], *([f"X{row[0]}x{row[1]}", *row[2:]] for row in rows)]  # R leaves out the corner
    found = her2st.read_section(write(tmp_path / "b", spots="\n".join("\t".join(line) for line in lines)), "A1")
    assert found.spots.id.tolist() == expected.spots.id.tolist()
    assert found.spots.xy.tolist() == expected.spots.xy.tolist()
    assert "A1_selection.tsv names spots as X1x1, read as 1x1" in found.notes


@pytest.mark.parametrize("mangled", ["", "X"])
def test_count_table_with_genes_as_rows_is_turned(tmp_path: Path, mangled: str) -> None:
    expected = her2st.read_section(write(tmp_path / "a"), "A1")
    cells = [line.split("\t") for line in COUNTS.splitlines()]
    columns = list(zip(*cells, strict=True))
    columns[0] = ("", *(f"{mangled}{spot}" for spot in columns[0][1:]))
    counts = "\n".join("\t".join(row) for row in columns)
    found = her2st.read_section(write(tmp_path / "b", counts=counts), "A1")
    assert found.spots.id.tolist() == expected.spots.id.tolist()
    assert found.counts.toarray().tolist() == expected.counts.toarray().tolist()
    assert "A1.tsv.gz has genes as rows and spots as columns: turned" in found.notes


def test_spots_of_another_section_are_refused(tmp_path: Path) -> None:
    rows = [f"{x}x{y}\t1\t1\t1" for x in range(10) for y in range(10)]
    counts = "\n".join([COUNTS.splitlines()[0], *rows])
    spots = [f"{x}\t{y}\t{x}\t{y}\t{100 * x}\t{100 * y}\t1" for x in range(1, 11) for y in range(10)]
    root = write(tmp_path, counts=counts, spots="\n".join([SPOTS.splitlines()[0], *spots]))
    with pytest.raises(
        InputError, match=r"10 of the 100 spots of \S+ are not in \S+, and 10 of the 100 .* different sec"
    ):
        her2st.read_section(root, "A1")


def test_folders_as_zenodos_archives_unpack_are_read(tmp_path: Path) -> None:
    expected = her2st.read_section(write(tmp_path / "a"), "A1")
    root = write(tmp_path / "b")
    (root / "ST-cnts").rename(root / "count-matrices")
    (root / "ST-spotfiles").rename(root / "spot-selections")
    (root / "images/HE").mkdir(parents=True)
    (root / "ST-imgs/A/A1/slide.jpg").rename(root / "images/HE/A1.jpg")
    shutil.rmtree(root / "ST-imgs")
    (root / "images/HE/A10.jpg").write_bytes(b"")
    module, reason = find_layout(root)
    assert module is her2st
    assert "holds count-matrices and spot-selections" in reason
    found = her2st.read_section(root, "A1")
    assert found.image_path == root / "images/HE/A1.jpg"
    assert found.spots.id.tolist() == expected.spots.id.tolist()
    (root / "images/HE/A1.jpg").unlink()
    with pytest.raises(InputError, match=r"'A1': image not found under images/HE \(expected"):
        her2st.list_sections(root)


def test_packed_image_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, image=False)
    (root / "ST-imgs/A/A1/slide.jpg.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"slide.jpg.gz is still packed, unpack it: gunzip \S+/A1/slide.jpg.gz"):
        her2st.list_sections(root)


def test_synthetic_mark_is_seen(tmp_path: Path) -> None:
    (write(tmp_path) / "SYNTHETIC.txt").write_text("demo")
    assert her2st.read_section(tmp_path, "A1").synthetic


def test_few_spots_take_the_scale_from_the_user(tmp_path: Path) -> None:
    spots = "".join(SPOTS.splitlines(keepends=True)[:3])
    root = write(tmp_path, spots=spots)
    with pytest.raises(InputError, match="--source-um-per-px"):
        her2st.read_section(root, "A1")
    section = her2st.read_section(root, "A1", um_per_px=0.5)
    assert (section.um_per_px, section.um_per_px_source, section.spots.size_px[0]) == (0.5, "user", 100)


def test_missing_image_is_named_with_what_to_do(tmp_path: Path) -> None:
    root = write(tmp_path, image=False)
    with pytest.raises(InputError, match=r"'A1': image not found under ST-imgs/A/A1 .*--skip-incomplete"):
        her2st.list_sections(root)
    with pytest.raises(InputError, match="no complete section"):
        her2st.list_sections(root, skip_incomplete=True)
    with pytest.raises(InputError, match="image not found"):
        her2st.read_section(root, "A1")


def test_missing_spot_file_is_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "ST-spotfiles/A1_selection.tsv").unlink()
    with pytest.raises(InputError, match=r"ST-spotfiles/A1_selection\.tsv"):
        her2st.list_sections(root)


def test_unknown_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no section Z9"):
        her2st.list_sections(write(tmp_path), sections=["Z9"])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (COUNTS.replace("5\t0", "5.5\t0"), r"line 3, gene ERBB2: count is '5.5'"),
        (COUNTS.replace("5\t0", "-5\t0"), r"count is '-5', expected a non-negative whole number"),
        (COUNTS.replace("5\t0", "nan\t0"), r"count is 'nan'"),
        (COUNTS.replace("5\t0", "\t0"), r"line 3, gene ERBB2: count is ''"),
        (COUNTS.replace("5\t0\t0", "5\t0"), r"line 3 has 3 fields, expected 4"),
        (COUNTS.replace("1x2", "1x1"), r"spot 1x1 appears on lines 3 and 4; remove"),
        (COUNTS.replace("2x1", "ERBB2"), r"named 'ERBB2', expected a spot"),
        ("\tERBB2\n7x7\t1\n", r"none of the 1 spots .* is selected"),
        ("", r"the file is empty"),
        ("just text\n", r"expected a tab-separated table"),
    ],
)
def test_malformed_counts_are_refused_with_file_and_place(tmp_path: Path, counts: str, message: str) -> None:
    root = write(tmp_path, counts=counts)
    with pytest.raises(InputError, match=message) as raised:
        her2st.read_section(root, "A1")
    assert "A1.tsv.gz" in str(raised.value)


@pytest.mark.parametrize(
    ("spots", "message"),
    [
        (SPOTS.replace("pixel_x", "px"), r"expected the columns x, y, pixel_x, pixel_y; pixel_x not found"),
        (SPOTS.replace("\t300\t110", "\tNaN\t110"), r"line 3, column pixel_x is 'NaN'"),
        (SPOTS.replace("1\t2\t1.0\t2.0", "1\t1\t1.0\t2.0"), r"spot 1x1 appears on lines 2 and 4"),
        (SPOTS.replace("\t300\t110\t1", "\t300\t110"), r"line 3 has 6 fields, expected 7"),
        (SPOTS.replace("2\t1\t2.0", "2.5\t1\t2.0"), r"x and y hold fractions"),
        (SPOTS + "x" * 200_000, r"line 7 is no row of a table \(field larger"),
    ],
)
def test_malformed_spot_files_are_refused_with_file_and_place(tmp_path: Path, spots: str, message: str) -> None:
    root = write(tmp_path, spots=spots)
    with pytest.raises(InputError, match=message) as raised:
        her2st.read_section(root, "A1")
    assert "A1_selection.tsv" in str(raised.value)


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    path = root / "ST-cnts/A1.tsv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"A1.tsv.gz: truncated or corrupt gzip"):
        her2st.read_section(root, "A1")


def test_find_layout_says_why(tmp_path: Path) -> None:
    module, reason = find_layout(write(tmp_path))
    assert module is her2st
    assert "ST-cnts" in reason


@pytest.mark.parametrize(("make", "message"), [(False, "no such file or folder"), (True, "the folder is empty")])
def test_find_layout_refuses_missing_and_empty_folders(tmp_path: Path, make: bool, message: str) -> None:
    path = tmp_path / "source"
    if make:
        path.mkdir()
    with pytest.raises(InputError, match=message):
        find_layout(path)


def test_find_layout_names_what_it_cannot_recognise(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"layout not recognised \(it holds notes.txt\)"):
        find_layout(tmp_path)
    with pytest.raises(InputError, match="Unknown layout 'nope'"):
        find_layout(tmp_path, "nope")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="../shared/data is absent")
def test_real_sections_load_and_incomplete_ones_are_named() -> None:
    with pytest.raises(InputError, match=r"'B1'.*'C1'.*--sections C2,C3,C4,C5"):
        her2st.list_sections(SAMPLE)
    section = her2st.read_section(SAMPLE, "C3")
    assert section.counts.shape == (180, 15821)
    assert section.patient == "C"
    assert section.um_per_px == pytest.approx(0.69, abs=0.01)
    assert "2 selected spots have no counts" in section.notes
