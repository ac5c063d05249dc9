"""cscc: GEO's names, the whole array counted, spots by their selection, packed images named."""

import gzip
from pathlib import Path

import pytest
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout

cscc = readers.reader("cscc")
stnet = readers.reader("stnet")

COUNTS = "\tERBB2\tCOL1A1\n10x13\t0\t3\n11x13\t5\t0\n10x14\t1\t1\n40x41\t9\t9\n"
SPOTS = (
    "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\n"
    "11\t13\t11.0\t13.0\t300\t110\n10\t13\t10.0\t13.0\t100\t110\n10\t14\t10.0\t14.0\t100\t310\n"
)
GEO = "GSM4284316_"


def write(root: Path, *, geo: str = GEO, name: str = "P2_ST_rep1", image: str = ".jpg") -> Path:
    root.mkdir(exist_ok=True)
    (root / f"{geo}{name}_stdata.tsv.gz").write_bytes(gzip.compress(COUNTS.encode()))
    (root / f"{geo}spot_data-selection-{name}.tsv.gz").write_bytes(gzip.compress(SPOTS.encode()))
    Image.new("RGB", (600, 400), "white").save(root / f"{geo}{name}{image.removesuffix('.gz')}")
    if image.endswith(".gz"):
        plain = root / f"{geo}{name}{image.removesuffix('.gz')}"
        (root / f"{geo}{name}{image}").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return root


@pytest.mark.parametrize("geo", [GEO, ""])
def test_section_is_read_with_or_without_geos_numbers(tmp_path: Path, geo: str) -> None:
    root = write(tmp_path / "raw", geo=geo)
    assert find_layout(root)[0] is cscc
    assert stnet.detect(root) is None
    section = cscc.read_section(root, *cscc.list_sections(root))
    assert (section.name, section.patient) == ("P2_ST_rep1", "P2")
    assert section.spots.id.tolist() == ["10x13", "11x13", "10x14"]
    assert section.spots.xy.tolist() == [[100, 110], [300, 110], [100, 310]]
    assert section.counts.toarray().tolist() == [[0, 3], [5, 0], [1, 1]]
    assert (section.um_per_px, section.um_per_px_source) == (pytest.approx(0.75), "spot pitch")
    assert section.spots.size_px[0] * section.um_per_px == pytest.approx(55)
    assert "1 counted spot is not in the spot file and was left out" in section.notes
    assert any(note.startswith("spots are taken as 110 um wide and 150 um apart") for note in section.notes)


def test_sections_come_in_order_and_patients_by_name(tmp_path: Path) -> None:
    for name in ("P10_ST_rep1", "P2_ST_rep2", "P2_ST_rep1"):
        write(tmp_path / "raw", name=name)
    sections = list(cscc.read_sections(tmp_path / "raw"))
    assert [section.name for section in sections] == ["P2_ST_rep1", "P2_ST_rep2", "P10_ST_rep1"]
    assert [section.patient for section in sections] == ["P2", "P2", "P10"]


def test_missing_and_packed_files_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "raw", image=".jpg.gz")
    with pytest.raises(InputError, match=r"P2_ST_rep1.jpg.gz is still packed, unpack it: gunzip \S+_P2_ST_rep1.jpg.gz"):
        cscc.list_sections(root)
    write(root)  # unpacked beside the packed one
    assert cscc.list_sections(root) == ["P2_ST_rep1"]
    (root / f"{GEO}spot_data-selection-P2_ST_rep1.tsv.gz").unlink()
    assert find_layout(root)[0] is cscc
    with pytest.raises(InputError, match=r"spot file not found \(expected spot_data-selection-P2_ST_rep1.tsv.gz"):
        cscc.list_sections(root)


def test_one_section_twice_is_refused(tmp_path: Path) -> None:
    root = write(write(tmp_path / "raw"), geo="GSM9_")
    with pytest.raises(InputError, match=r"'P2_ST_rep1': both .* keep one of the two"):
        cscc.list_sections(root)
