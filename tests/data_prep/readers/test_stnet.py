"""stnet: BT and BC, Ensembl columns, patients from metadata.csv, faults named."""

import gzip
from pathlib import Path

import pytest
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout

stnet = readers.reader("stnet")

COUNTS = (
    "\tENSG00000141736.12\tENSG00000108821\tENSG99999999999\n"
    "12x17\t0\t3\t1\n11x17\t5\t0\t0\n11x18\t1\t1\t1\n1x1\t9\t9\t9\n"
)
SPOTS = ",X,Y\n11x17,1000.5,2000\n12x17,1200.5,2000\n11x18,1000.5,2200\n13x17,1400.5,2000\n"


def write(root: Path, *, counts: str = COUNTS, spots: str = SPOTS, prefix: str = "BT") -> Path:
    root.mkdir(exist_ok=True)
    (root / "BC23450_C1_stdata.tsv.gz").write_bytes(gzip.compress(counts.encode()))
    (root / f"spots_{prefix}23450_C1.csv.gz").write_bytes(gzip.compress(spots.encode()))
    Image.new("RGB", (50, 40), "white").save(root / f"HE_{prefix}23450_C1.jpg")
    (root / "metadata.csv").write_text("type,patient\nLuminal_A,BC23450\n")
    return root


@pytest.mark.parametrize("prefix", ["BT", "BC"])
def test_read_section_takes_bt_and_bc_for_one(tmp_path: Path, prefix: str) -> None:
    root = write(tmp_path / "a", prefix=prefix)
    assert find_layout(root)[0] is stnet
    assert stnet.list_sections(root) == ["BC23450_C1"]
    section = stnet.read_section(root, "BC23450_C1")
    assert section.patient == "BC23450"
    assert section.spots.id.tolist() == ["12x17", "11x17", "11x18"]
    assert section.spots.xy.tolist() == [[1200.5, 2000], [1000.5, 2000], [1000.5, 2200]]
    assert section.um_per_px == pytest.approx(1.0)
    assert section.genes.ensembl_id.tolist() == ["ENSG00000141736", "ENSG00000108821", "ENSG99999999999"]
    assert section.genes.symbol.tolist() == ["ERBB2", "COL1A1", ""]
    assert "1 counted spot is not in the spot file and was left out" in section.notes
    assert "1 selected spot has no counts" in section.notes
    assert "1 of 3 Ensembl ids have no symbol and stay under their id" in section.notes


def test_files_in_the_archives_own_folder_are_found(tmp_path: Path) -> None:
    write(tmp_path / "Human breast cancer in situ capturing transcriptomics")
    assert stnet.list_sections(tmp_path) == ["BC23450_C1"]
    assert stnet.read_section(tmp_path, "BC23450_C1").patient == "BC23450"


def test_section_without_metadata_notes_its_patient(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    (root / "metadata.csv").unlink()
    section = stnet.read_section(root, "BC23450_C1")
    assert section.patient == "BC23450"
    assert any("metadata.csv does not list" in note for note in section.notes)


def test_metadata_that_is_no_file_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    (root / "metadata.csv").unlink()
    (root / "metadata.csv").symlink_to("elsewhere.csv")
    with pytest.raises(InputError, match=r"metadata.csv: a link to nothing, expected a file"):
        stnet.read_section(root, "BC23450_C1")


def test_patient_is_the_metadatas_even_where_the_name_differs(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    (root / "metadata.csv").write_text("type,patient,replicate\nLuminal_A,BT23450,C1\n")
    assert stnet.read_section(root, "BC23450_C1").patient == "BC23450"


def test_section_listed_without_files_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    (root / "metadata.csv").write_text("type,patient,replicate\nLuminal_A,BC23450,C1\nTNBC,BT23268,D1\n")
    with pytest.raises(InputError, match=r"'BC23268_D1': count table not found \(expected BC23268_D1_stdata"):
        stnet.list_sections(root)
    assert stnet.list_sections(root, skip_incomplete=True) == ["BC23450_C1"]


def test_the_same_section_under_two_names_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    (root / "HE_BC23450_C1.jpg").write_bytes((root / "HE_BT23450_C1.jpg").read_bytes())
    with pytest.raises(InputError, match="keep one of the two"):
        stnet.read_section(root, "BC23450_C1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": COUNTS.replace("5\t0", "-1\t0")}, r"stdata.tsv.gz: line 3, gene ENSG00000141736.12: count is '-1'"),
        ({"counts": COUNTS.replace("11x18", "11x17")}, r"stdata.tsv.gz: spot 11x17 appears on lines 3 and 4"),
        ({"counts": COUNTS.replace("5\t0\t0", "5\t0")}, r"stdata.tsv.gz: line 3 has 3 fields, expected 4"),
        ({"spots": SPOTS.replace(",X,Y", ",a,b")}, r"spots_BT23450_C1.csv.gz: header .* expected the columns X, Y"),
        ({"spots": SPOTS.replace("1200.5", "nan")}, r"spots_BT23450_C1.csv.gz: line 3, column X is 'nan'"),
        ({"spots": SPOTS.replace("11x18,1000.5,2200", "11x18,1000.5")}, r"line 4 has 2 fields, expected 3"),
        ({"spots": SPOTS.replace("11x17", "spot")}, r"line 2 is named 'spot'"),
    ],
)
def test_malformed_files_are_refused_with_file_and_place(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stnet.read_section(write(tmp_path / "a", **options), "BC23450_C1")


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    path = root / "spots_BT23450_C1.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"spots_BT23450_C1.csv.gz: truncated or corrupt gzip"):
        stnet.read_section(root, "BC23450_C1")
