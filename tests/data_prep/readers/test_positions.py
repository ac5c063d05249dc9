"""Tissue positions and their join: another sample's are refused, what converters leave behind is counted."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.readers._matrix import CountMatrix
from data_prep.readers._positions import join, read_positions

SPOTS = 300
HEADER = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"
NAMES = np.array([f"{'ACGT'[n % 4]}{n:05d}-1" for n in range(SPOTS)])  # one list for all slides
TISSUE = np.arange(SPOTS) < 200


def write(path: Path, *, names: Sequence[str] = tuple(NAMES), tissue: np.ndarray = TISSUE, header: bool = True) -> Path:
    rows = [f"{name},{int(on)},{n // 20},{n % 20},{10.5 * (n // 20)},{10.5 * (n % 20)}"
            for n, (name, on) in enumerate(zip(names, tissue, strict=True))]  # fmt: skip
    path.write_text("\n".join([HEADER, *rows] if header else rows) + "\n")
    return path


def matrix(names: Sequence[str], kind: str = "filtered") -> CountMatrix:
    counts = scipy.sparse.csr_array(np.ones((len(names), 1), np.int32))
    gene = np.array(["ERBB2"])
    return CountMatrix(Path("matrix.h5"), np.array(names, dtype=str), gene, gene, counts, kind=kind)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "tissue_positions.csv"


@pytest.mark.parametrize("every_spot", [True, False])
def test_filtered_matrix_of_the_same_sample_is_joined_without_a_word(place: Path, every_spot: bool) -> None:
    positions = read_positions(write(place))
    rows, places, notes = join(matrix(NAMES[TISSUE][::-1]), positions, every_spot=every_spot)
    assert rows.tolist() == list(range(200))
    assert positions.barcode[places].tolist() == NAMES[TISSUE][::-1].tolist()
    assert notes == ()


@pytest.mark.parametrize("kind", ["filtered", ""])
@pytest.mark.parametrize("every_spot", [True, False])
def test_positions_of_another_sample_are_refused(place: Path, kind: str, every_spot: bool) -> None:
    positions = read_positions(write(place))
    other = matrix(NAMES[80:280], kind)
    message = (
        r"^matrix.h5: 80 of its 200 barcodes are not under tissue in \S+, and 80 of the 200 spots under tissue there "
        r"are not in it; .* belong to different samples or in_tissue was changed"
    )
    with pytest.raises(InputError, match=message):
        join(other, positions, every_spot=every_spot)


def test_filtered_matrix_of_a_third_of_the_tissue_is_refused_for_spots_only(place: Path) -> None:
    positions = read_positions(write(place))
    with pytest.raises(
        InputError, match=r"0 of its 130 barcodes .* 70 of the 200 spots under tissue there are not in it"
    ):
        join(matrix(NAMES[:130]), positions, every_spot=True)
    assert join(matrix(NAMES[:130]), positions, every_spot=False)[2] == ("70 positions under tissue have no counts",)


@pytest.mark.parametrize(
    ("names", "kind", "note"),
    [
        (NAMES[:190], "filtered", "10 positions under tissue have no counts"),  # taken off by quality control
        (NAMES[:202], "filtered", "2 barcodes of the matrix are not under tissue and were left out"),
        (NAMES[:130], "", "70 positions under tissue have no counts"),
        (NAMES, "", "100 barcodes of the matrix are not under tissue and were left out"),
        (NAMES, "raw", "100 barcodes of the matrix are not under tissue and were left out"),
        (NAMES[50:], "raw", "50 positions under tissue have no counts"),
        ([*NAMES[:200], "X-1"], "filtered", "1 barcode of the matrix has no position and was left out"),
    ],
)
def test_what_is_left_out_is_counted(place: Path, names: Sequence[str], kind: str, note: str) -> None:
    assert note in join(matrix(names, kind), read_positions(write(place)), every_spot=True)[2]


def test_all_off_tissue_is_said(place: Path) -> None:
    positions = read_positions(write(place, tissue=np.zeros(SPOTS, bool)))
    with pytest.raises(InputError, match=r"positions.csv: in_tissue is 0 in all 300 rows, so that no spot is under"):
        join(matrix(NAMES[:200]), positions, every_spot=True)


@pytest.mark.parametrize("bare", ["matrix", "positions"])
def test_barcodes_without_the_librarys_number_are_joined(place: Path, bare: str) -> None:
    plain = [name.removesuffix("-1") for name in NAMES]
    positions = read_positions(write(place, names=plain if bare == "positions" else NAMES))
    counts = matrix(plain[:200] if bare == "matrix" else NAMES[:200])
    rows, places, notes = join(counts, positions, every_spot=True)
    assert places.tolist() == rows.tolist() == list(range(200))
    assert len(notes) == 1
    assert "lack the -1 of" in notes[0]
    assert notes[0].startswith(f"barcodes of {'matrix.h5' if bare == 'matrix' else 'tissue_positions.csv'} lack")


def test_barcodes_of_another_library_are_refused(place: Path) -> None:
    positions = read_positions(write(place, names=[name.replace("-1", "-2") for name in NAMES]))
    with pytest.raises(InputError, match="belong to different samples"):
        join(matrix(NAMES[:200]), positions, every_spot=True)


def test_several_libraries_in_one_matrix_are_named(place: Path) -> None:
    names = [*NAMES[:200], *(name.replace("-1", "-2") for name in NAMES[:200])]
    with pytest.raises(InputError, match=r"matrix.h5: barcodes of 2 libraries \(-1, -2\), as spaceranger aggr writes"):
        join(matrix(names), read_positions(write(place)), every_spot=True)
    write(place, names=names[:SPOTS])
    with pytest.raises(InputError, match=r"tissue_positions.csv: barcodes of 2 libraries"):
        join(matrix(NAMES[:200]), read_positions(place), every_spot=True)


def with_nan_row(lines: list[str]) -> list[str]:
    return [lines[0], "barcode,nan,nan,nan,nan,nan", *lines[1:]]


def with_a_spot_called_barcode(lines: list[str]) -> list[str]:
    return [lines[0], HEADER, *lines[1:]]


def with_an_empty_row(lines: list[str]) -> list[str]:
    return [lines[0], "X-1,,,,,", *lines[1:]]


@pytest.mark.parametrize("change", [with_nan_row, with_a_spot_called_barcode, with_an_empty_row])
def test_row_that_a_converter_made_of_the_header_is_left_out(
    place: Path, change: Callable[[list[str]], list[str]]
) -> None:
    write(place)
    place.write_text("\n".join(change(place.read_text().splitlines())))
    positions = read_positions(place)
    assert positions.barcode.tolist() == NAMES.tolist()
    assert join(matrix(NAMES[:200]), positions, every_spot=True)[2] == (
        "1 row of tissue_positions.csv holds no numbers and was left out",
    )


def test_many_rows_without_numbers_are_refused(place: Path) -> None:
    write(place)
    lines = place.read_text().splitlines()
    lines[1:9] = [",".join([*line.split(",")[:4], "nan", "nan"]) for line in lines[1:9]]
    place.write_text("\n".join(lines))
    with pytest.raises(
        InputError, match=r"column pxl_row_in_fullres is nan, expected a number, as in 7 more of 300 rows"
    ):
        read_positions(place)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_and_flags_are_told_by_content(place: Path, header: bool, mark: str) -> None:
    write(place, header=header)
    expected = read_positions(place)
    place.write_text(place.read_text().replace("-1,1,", "-1,TRUE,").replace(",", mark))
    found = read_positions(place)
    assert found.in_tissue.tolist() == expected.in_tissue.tolist() == TISSUE.tolist()
    assert found.pixel_xy.tolist() == expected.pixel_xy.tolist()
