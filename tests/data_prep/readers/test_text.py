"""Tables as people save them: other separators, letters and packings are read where nothing is in doubt, else named."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.readers import _count_table, _sections, _text

TABLE = "spot\tx\ty\n10x13\t1.5\t2\n11x13\t3.5\t4\n"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def tarred(text: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("table.tsv")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def zipped(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, TABLE)
    return packed.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),  # with a byte order mark, as Excel's "Unicode text"
        TABLE.encode("utf-16-le"),
        TABLE.encode("utf-16-be"),
        TABLE.encode("utf-32"),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
        TABLE.replace("\t", ",").encode(),
        TABLE.replace("\t", ";").encode(),
        TABLE.replace("\t", ";").replace(".", ",").encode(),
        TABLE.replace(".", ",").encode(),
        "\n".join("\t".join(f'"{cell}"' for cell in line.split("\t")) for line in TABLE.splitlines()).encode(),
        gzip.compress(TABLE.encode(), mtime=0),
        gzip.compress(TABLE.replace("\t", ";").encode("utf-16"), mtime=0),
    ],
)
def test_the_same_table_is_read_however_it_was_saved(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "table.tsv", data)
    header, *rows = _text.read_rows(path, "\t")
    spot, x, y = _text.columns(path, header, rows, ["spot", "x", "y"])
    assert spot == ["10x13", "11x13"]
    assert _text.numbers(path, "x", x).tolist() == [1.5, 3.5]
    assert _text.numbers(path, "y", y).tolist() == [2, 4]


def test_letters_of_windows_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "patients.csv", "section,patient\nA1,Müller €1\n".encode("cp1252"))
    assert _text.read_rows(path, ",")[1] == ["A1", "Müller €1"]


def test_fields_separated_by_semicolons_keep_decimal_commas_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", b"AAAC-1;1;0;0;1000,5;2000,25\nAAAG-1;1;0;2;1000,5;2100,25\n")
    rows = _text.read_rows(path, ",")
    assert [len(row) for row in rows] == [6, 6]
    np.testing.assert_array_equal(_text.numbers(path, "y", [row[5] for row in rows]), [2000.25, 2100.25])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1,234", "12,345"], r"line 2, column x is '1,234', which may be 1.234 or 1234; write numbers with a decimal"),
        (["1,5", "2.5"], r"line 2, column x is '1,5', expected a number"),
        (["1", "10_13"], r"line 3, column x is '10_13', expected a number"),
        (["1", ""], r"line 3, column x is '', expected a number"),
    ],
)
def test_numbers_in_doubt_are_refused(tmp_path: Path, values: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _text.numbers(tmp_path / "table.tsv", "x", values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tarred(TABLE), r"table.tsv.gz: a tar archive, expected a table; unpack it: tar -xf \S+table.tsv.gz"),
        (zipped("table.tsv"), r"table.tsv.gz: a zip archive, expected a table; unpack it: unzip \S+"),
        (zipped("[Content_Types].xml"), r"an Excel workbook, expected a table; save it as tab-separated text"),
        (
            gzip.compress(gzip.compress(TABLE.encode(), mtime=0), mtime=0),
            r"gzipped twice, expected a table; unpack it once: gunzip",
        ),
        (b"BZh91AY&SY" + bytes(40), r"packed with bzip2, expected a table; unpack it: bunzip2"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), r"an HDF5 file, expected a table; check its name"),
        (b"<!DOCTYPE html><html><body>403</body></html>", r"a web page, expected a table; the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid 1\n", r"a Git LFS pointer and not the file itself"),
        (b"\xff\xd8\xff\xe0" + bytes(range(1, 9)) * 8, r"not text \(byte 0 is not UTF-8\)"),
        (b"", r"the file is empty"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "table.tsv.gz", data)
    with pytest.raises(InputError, match=message):
        _text.read_rows(path, "\t")


def test_header_that_r_wrote_without_a_corner_is_completed(tmp_path: Path) -> None:
    path = write(tmp_path / "table.tsv", b'"x"\t"y"\n"10x13"\t1\t2\n"11x13"\t3\t4\n')
    assert _text.read_rows(path, "\t", row_names=True)[0] == ["", "x", "y"]
    with pytest.raises(InputError, match="line 2 has 3 fields, expected 2"):
        _text.read_rows(path, "\t")


@pytest.mark.parametrize("rest", ['"P1\nA2,P2\n', '"P1"x\nA2,P2\n', '"P1\nA2,P2"\n'])
def test_a_quotation_mark_that_is_not_closed_hides_no_lines(tmp_path: Path, rest: str) -> None:
    path = write(tmp_path / "patients.csv", f"section,patient\nA1,{rest}".encode())
    with pytest.raises(InputError, match="line 2 is no row of a table"):
        _text.read_rows(path, ",")


def test_counts_of_digits_are_read_as_any_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.choice([0, 0, 0, 1, 7, 10, 99, 12_345, 2**31 - 1], size=(5, 40))
    head = "\t" + "\t".join(f"GENE{gene}" for gene in range(40)) + "\n"
    for form in (str, "{}.0".format, "{:012d}".format, "+{}".format, '"{}"'.format):
        rows = [f"{spot}x1\t" + "\t".join(map(form, row)) + "\r\n" for spot, row in enumerate(counts.tolist())]
        path = write(tmp_path / "A1.tsv", (head + "".join(rows)).encode())
        assert _count_table.read(path)[2].toarray().tolist() == counts.tolist()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_count_tables_are_read_in_other_letters(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "A1.tsv", "\tTNFß\tIFN\n1x1\t1\t2\n".encode(encoding))
    assert _count_table.read(path)[1] == ["TNFß", "IFN"]


@pytest.mark.parametrize("mark", [",", ";"])
def test_count_tables_take_other_separators(tmp_path: Path, mark: str) -> None:
    text = "\tERBB2\tCOL1A1\n10x13\t1\t0\n11x13\t2\t3\n".replace("\t", mark)
    spots, genes, counts = _count_table.read(write(tmp_path / "A1.tsv", text.encode()))
    assert (spots, genes) == (["10x13", "11x13"], ["ERBB2", "COL1A1"])
    assert counts.toarray().tolist() == [[1, 0], [2, 3]]


def test_counts_with_an_underscore_are_no_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "A1.tsv", b"\tERBB2\n10x13\t1_0\n")
    with pytest.raises(InputError, match="count is '1_0'"):
        _count_table.read(path)


def test_names_of_any_length_take_little(tmp_path: Path) -> None:
    path = write(tmp_path / "A1.tsv", b"\tERBB2\t" + b"x" * 100_000 + b"\n10x13\t1\t2\n")
    with pytest.raises(InputError, match=r"A1.tsv: gene 'x+\.\.\. is longer than 200 bytes"):
        _count_table.read(path)


def test_names_are_sorted_by_their_numbers_however_long() -> None:
    names = ["A10", "A2", "A" + "9" * 5000, "A02b", "B"]
    assert sorted(names, key=_sections.natural) == ["A2", "A02b", "A10", "A" + "9" * 5000, "B"]
