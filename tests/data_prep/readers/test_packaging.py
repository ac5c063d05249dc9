"""Space Ranger's files as GEO and downloads pack them: flat, prefixed, gzipped; missing pieces are named."""

import gzip
import json
import shutil
from pathlib import Path

import h5py
import pytest

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout
from data_prep.section import Section
from tests.data_prep.readers.conftest import Source

visium = readers.reader("visium")
visium_hd = readers.reader("visium_hd")

SMALL = ("tissue_positions.csv", "tissue_positions_list.csv", "scalefactors_json.json", "tissue_hires_image.png")


def pack(file: Path, place: Path, *, gz: bool = True) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(gzip.compress(file.read_bytes()) if gz else file.read_bytes())
    return place


def flatten(root: Path, out: Path, *, matrix: str, between: str = "_") -> Path:
    """The demo's samples A1 and B1 as GEO keeps them."""
    for number, name in enumerate(("A1", "B1"), start=1):
        prefix, outs = f"GSM{number}_{name}{between}", root / name / "outs"
        for file in (outs / "spatial" / small for small in SMALL):
            if file.is_file():
                pack(file, out / f"{prefix}{file.name}.gz")
        if matrix == "h5":
            pack(outs / "filtered_feature_bc_matrix.h5", out / f"{prefix}filtered_feature_bc_matrix.h5", gz=False)
        else:
            for file in (outs / "filtered_feature_bc_matrix").iterdir():
                pack(file, out / f"{prefix}{matrix}{file.name}", gz=False)
        pack(outs / f"{name}_image.jpg", out / f"{prefix}image.jpg", gz=False)
    return out


def check_same(section: Section, other: Section) -> None:
    assert section.spots.id.tolist() == other.spots.id.tolist()
    assert section.spots.xy.tolist() == other.spots.xy.tolist()
    assert section.genes.keys.tolist() == other.genes.keys.tolist()
    assert abs(section.counts - other.counts).sum() == 0
    assert section.um_per_px == other.um_per_px


@pytest.mark.parametrize(
    ("matrix", "between"), [("h5", "_"), ("h5", "."), ("", "_"), ("filtered_feature_bc_matrix_", "-"), ("raw_", "_")]
)
def test_flat_prefixed_files_give_what_folders_give(source: Source, tmp_path: Path, matrix: str, between: str) -> None:
    root = source("visium")
    flat = flatten(root, tmp_path / "GSE1_RAW", matrix=matrix, between=between)
    assert find_layout(flat)[0] is visium
    assert visium.list_sections(flat) == ["GSM1_A1", "GSM2_B1"]
    for name in ("A1", "B1"):
        found = visium.read_section(flat, f"GSM{'AB'.index(name[0]) + 1}_{name}")
        check_same(found, visium.read_section(root, name))
        assert found.image_path.name.endswith(f"{name}{between}image.jpg")


def test_prefixes_that_begin_alike_keep_their_images(source: Source, tmp_path: Path) -> None:
    root, out = source("visium"), tmp_path / "flat"
    for prefix, name in (("P2_", "A1"), ("P2_rep2_", "B1")):
        outs = root / name / "outs"
        for file in (outs / "filtered_feature_bc_matrix.h5", *(outs / "spatial" / small for small in SMALL)):
            if file.is_file():
                pack(file, out / f"{prefix}{file.name}", gz=False)
        pack(outs / f"{name}_image.jpg", out / f"{prefix}slide.jpg", gz=False)
    assert visium.list_sections(out) == ["P2", "P2_rep2"]
    assert visium.read_section(out, "P2").image_path.name == "P2_slide.jpg"
    assert visium.read_section(out, "P2_rep2").image_path.name == "P2_rep2_slide.jpg"


def test_flat_files_in_a_folder_each_and_without_a_prefix_are_found(source: Source, tmp_path: Path) -> None:
    root, out = source("visium"), tmp_path / "samples"
    for name in ("A1", "B1"):
        outs = root / name / "outs"
        for file in (outs / "filtered_feature_bc_matrix.h5", *(outs / "spatial").iterdir(), outs / f"{name}_image.jpg"):
            pack(file, out / name / file.name, gz=False)
    assert visium.list_sections(out) == ["A1", "B1"]
    check_same(visium.read_section(out, "B1"), visium.read_section(root, "B1"))
    check_same(visium.read_section(out / "B1", "B1"), visium.read_section(root, "B1"))


def test_gzipped_files_in_spatial_are_read(source: Source) -> None:
    root = source("visium")
    before = visium.read_section(root, "A1")
    for file in list((root / "A1/outs/spatial").iterdir()):
        pack(file, file.with_name(f"{file.name}.gz"))
        file.unlink()
    check_same(visium.read_section(root, "A1"), before)
    with pytest.raises(
        InputError, match=r"hires_image.png.gz: a gzipped image is not read; unpack it: gunzip \S+png.gz"
    ):
        visium.read_section(root, "A1", image=Path("hires"))


def test_every_missing_piece_is_named(source: Source, tmp_path: Path) -> None:
    flat = flatten(source("visium"), tmp_path / "flat", matrix="")
    (flat / "GSM1_A1_scalefactors_json.json.gz").unlink()
    (flat / "GSM1_A1_barcodes.tsv.gz").unlink()
    pack(flat / "GSM1_A1_image.jpg", flat / "GSM1_A1_image.jpg.gz")
    (flat / "GSM1_A1_image.jpg").unlink()
    lacks = visium.find_sections(flat)
    assert lacks["GSM2_B1"] == ""
    assert lacks["GSM1_A1"] == (
        "GSM1_A1_scalefactors_json.json not found, GSM1_A1_barcodes.tsv[.gz] not found, full-resolution image "
        f"GSM1_A1_image.jpg.gz is still packed, unpack it: gunzip {flat}/GSM1_A1_image.jpg.gz"
    )


def test_packed_spatial_folder_is_named_and_read_once_unpacked(source: Source, tmp_path: Path) -> None:
    root = source("visium")
    flat = flatten(root, tmp_path / "flat", matrix="h5")
    for file in flat.glob("GSM1_A1_[ts]*"):
        file.unlink()
    (flat / "GSM1_A1_spatial.tar.gz").write_bytes(b"")
    command = rf"mkdir -p {flat}/GSM1_A1 && tar -xf {flat}/GSM1_A1_spatial.tar.gz -C {flat}/GSM1_A1"
    with pytest.raises(InputError, match=f"GSM1_A1_spatial.tar.gz is still packed, unpack it: {command}"):
        visium.list_sections(flat)
    shutil.copytree(root / "A1/outs/spatial", flat / "GSM1_A1/spatial")
    check_same(visium.read_section(flat, "GSM1_A1"), visium.read_section(root, "A1"))
    (flat / "GSM1_A1_spatial.tar.gz").unlink()
    check_same(visium.read_section(flat, "GSM1_A1"), visium.read_section(root, "A1"))


def test_spatial_folder_under_the_prefix_is_read(source: Source, tmp_path: Path) -> None:
    root, flat = source("visium"), tmp_path / "flat"
    shutil.copytree(root / "A1/outs/spatial", flat / "GSM1_A1_spatial")
    shutil.copy(root / "A1/outs/filtered_feature_bc_matrix.h5", flat / "GSM1_A1_filtered_feature_bc_matrix.h5")
    shutil.copy(root / "A1/outs/A1_image.jpg", flat / "GSM1_A1.jpg")
    assert visium.list_sections(flat) == ["GSM1_A1"]
    check_same(visium.read_section(flat, "GSM1_A1"), visium.read_section(root, "A1"))


@pytest.mark.parametrize(("layout", "packed"), [("visium", "outs"), ("visium_hd", "binned_outputs")])
def test_sample_still_packed_beside_others_is_named(source: Source, layout: str, packed: str) -> None:
    root = source(layout)
    shutil.rmtree(root / "A1" / packed)
    (root / "A1" / f"{packed}.tar.gz").write_bytes(b"")
    reader = {"visium": visium, "visium_hd": visium_hd}[layout]
    with pytest.raises(
        InputError, match=rf"section 'A1': .*{packed}.tar.gz is still packed, unpack it: tar -xf \S+ -C"
    ):
        reader.list_sections(root)
    assert all(name.startswith("B1") for name in reader.list_sections(root, skip_incomplete=True))


def test_output_of_spaceranger_aggr_is_named(source: Source) -> None:
    root = source("visium")
    outs = root / "A1/outs"
    (outs / "spatial/tissue_positions.csv").rename(outs / "aggr_tissue_positions.csv")
    with pytest.raises(
        InputError, match="spaceranger aggr's output of several samples, give each sample's own outputs"
    ):
        visium.list_sections(root)


@pytest.mark.parametrize("name", ["outs.tar.gz", "binned_outputs.tar.gz", "GSE1_RAW.tar", "sample.zip"])
def test_archive_given_as_it_was_downloaded_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(
            InputError, match=rf"layout not recognised .*{name} is still packed, unpack it: (tar|unzip) "
        ):
            find_layout(path)


def test_the_matrix_passed_over_is_named(source: Source) -> None:
    root = source("visium")
    outs = root / "A1/outs"
    shutil.copy(outs / "filtered_feature_bc_matrix.h5", outs / "raw_feature_bc_matrix.h5")
    notes = visium.read_section(root, "A1").notes
    assert "filtered_feature_bc_matrix.h5 is read, the raw matrix next to it is not" in notes
    assert not any(
        "beside it" in note for note in visium.read_section(root, "B1").notes
    )  # HDF5 and .mtx are one matrix


@pytest.mark.parametrize("given", ["folder", "above", "samples"])
def test_bins_without_binned_outputs_above_are_read(source: Source, tmp_path: Path, given: str) -> None:
    root, sample = source("visium_hd"), tmp_path / "moved/A1"
    shutil.copytree(root / "A1/binned_outputs/square_008um", sample / "square_008um")
    shutil.copy(root / "A1/A1_tissue_image.jpg", sample)
    path = {"folder": sample / "square_008um", "above": sample, "samples": sample.parent}[given]
    assert find_layout(path)[0] is visium_hd
    assert visium_hd.list_sections(path) == ["A1_008um"]
    check_same(visium_hd.read_section(path, "A1_008um"), visium_hd.read_section(root, "A1_008um"))


def test_slide_may_lie_in_the_folder_of_bins_given_alone(source: Source, tmp_path: Path) -> None:
    square = source("visium_hd") / "A1/binned_outputs/square_008um"
    shutil.copytree(square, tmp_path / "A1/square_008um")
    image = shutil.copy(square.parents[1] / "A1_tissue_image.jpg", tmp_path / "A1/square_008um")
    assert visium_hd.read_section(tmp_path / "A1/square_008um", "A1_008um").image_path == Path(image)


def test_flat_bins_are_told_from_spots(source: Source, tmp_path: Path) -> None:
    root, flat = source("visium_hd"), tmp_path / "flat"
    square = root / "A1/binned_outputs/square_016um"
    pack(square / "filtered_feature_bc_matrix.h5", flat / "GSM1_A1_filtered_feature_bc_matrix.h5", gz=False)
    for name in ("tissue_positions.parquet", "scalefactors_json.json"):
        pack(square / "spatial" / name, flat / f"GSM1_A1_{name}.gz")
    shutil.copy(root / "A1/A1_tissue_image.jpg", flat / "GSM1_A1_slide.jpg")
    assert find_layout(flat)[0] is visium_hd
    check_same(visium_hd.read_section(flat, "GSM1_A1_016um"), visium_hd.read_section(root, "A1_016um"))


def test_cells_of_space_ranger_4_are_said_to_be_unread_unless_bins_are_asked_for(source: Source) -> None:
    root, note = source("visium_hd"), "only bins are read; --areas cells reads the cells"
    assert note in visium_hd.read_section(root, "A1_016um").notes
    assert note not in visium_hd.read_section(root, "A1_016um", areas="bins").notes
    shutil.rmtree(root / "A1/segmented_outputs")
    assert note not in visium_hd.read_section(root, "A1_016um").notes


def test_xenograft_is_refused(source: Source) -> None:
    root = source("visium")
    with h5py.File(root / "A1/outs/filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/features/genome"][:500] = b"mm10"
    with pytest.raises(InputError, match=r"features of 2 genomes \(GRCh38: 700, mm10: 500\); expected one species"):
        visium.read_section(root, "A1")


def test_scale_factors_of_bins_are_not_asked_of_spots(source: Source) -> None:
    root = source("visium")
    path = root / "A1/outs/spatial/scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bin_size_um": 8.0, "microns_per_pixel": 4.0}))
    assert "A1" not in visium.find_sections(root)
    assert "A1_008um" in visium_hd.find_sections(root)
