"""visium: positions told by content, y before x, the image's declared size, matrices of both kinds."""

import gzip
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout
from data_prep.spots import DISC
from tests.data_prep.readers.conftest import Source

visium = readers.reader("visium")

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"


def outs(root: Path, name: str = "A1") -> Path:
    return root / name / "outs"


def positions(root: Path) -> Path:
    return outs(root) / "spatial/tissue_positions.csv"


def test_matrix_market_gives_what_hdf5_gives(source: Source) -> None:
    root = source("visium")
    first = visium.read_section(root, "A1")
    (outs(root) / "filtered_feature_bc_matrix.h5").unlink()
    second = visium.read_section(root, "A1")
    assert second.spots.id.tolist() == first.spots.id.tolist()
    assert second.genes.keys.tolist() == first.genes.keys.tolist()
    assert abs(second.counts - first.counts).sum() == 0


def test_positions_without_a_header_and_with_another_order_are_told_by_content(source: Source) -> None:
    root = source("visium")
    first = visium.read_section(root, "A1")
    header, *rows = positions(root).read_text().splitlines()
    positions(root).unlink()
    (outs(root) / "spatial/tissue_positions_list.csv").write_text("\n".join(rows[::-1]))
    second = visium.read_section(root, "A1")
    assert header.startswith("barcode")
    np.testing.assert_array_equal(second.spots.xy, first.spots.xy)


def test_pxl_row_is_y(source: Source) -> None:
    root = source("visium")
    section = visium.read_section(root, "A1")
    row = next(line.split(",") for line in positions(root).read_text().splitlines() if section.spots.id[0] in line)
    assert section.spots.xy[0].tolist() == [float(row[5]), float(row[4])]


def test_negative_and_far_pixels_are_kept_for_the_build_to_count(source: Source) -> None:
    root = source("visium")
    before = visium.read_section(root, "A1").spots.xy
    header, *lines = positions(root).read_text().splitlines()
    cells = [line.split(",") for line in lines]
    moved = [",".join([*row[:4], str(float(row[4]) - 1e4), str(float(row[5]) + 1e6)]) for row in cells]
    positions(root).write_text("\n".join([header, *moved]))
    section = visium.read_section(root, "A1", um_per_px=4.0)
    np.testing.assert_allclose(section.spots.xy - before, np.tile([1e6, -1e4], (len(before), 1)), atol=1e-6)


def test_scale_comes_from_the_pitch_and_not_from_the_theoretical_diameter(source: Source) -> None:
    root = source("visium")
    path = outs(root) / "spatial/scalefactors_json.json"
    factors = json.loads(path.read_text())
    path.write_text(json.dumps(factors | {"spot_diameter_fullres": 1.0}))
    section = visium.read_section(root, "A1")
    assert section.um_per_px == pytest.approx(4.0)
    assert section.um_per_px_source == "spot pitch"
    np.testing.assert_allclose(section.spots.size_px, 27.5 / 4, rtol=1e-6)
    assert set(section.spots.kind) == {DISC}


def test_raw_matrix_is_cut_to_tissue_and_its_rest_noted(source: Source) -> None:
    root = source("visium")
    lines = positions(root).read_text().splitlines()
    inside = [index for index, line in enumerate(lines) if line.split(",")[1] == "1"]
    fields = lines[inside[0]].split(",")
    lines[inside[0]] = ",".join([fields[0], "0", *fields[2:]])
    positions(root).write_text("\n".join(lines))
    for entry in ("filtered_feature_bc_matrix.h5", "filtered_feature_bc_matrix"):
        (outs(root) / entry).rename(outs(root) / f"X1_{entry.replace('filtered', 'raw')}")
    section = visium.read_section(root, "A1")
    assert fields[0] not in section.spots.id
    assert "1 barcode of the matrix is not under tissue and was left out" in section.notes


def test_features_that_are_no_genes_are_left_out_and_noted(source: Source) -> None:
    root = source("visium")
    with h5py.File(outs(root) / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/features/feature_type"][:3] = b"Custom"
        file["matrix/features/feature_type"][3:5] = b"Antibody"
    section = visium.read_section(root, "A1")
    assert len(section.genes) == 1195
    note = "5 features that are not gene expression were left out (2 Antibody, 3 Custom)"
    assert note in section.notes


@pytest.mark.parametrize("given", ["outs", "sample", "root"])
def test_a_sample_may_be_given_at_any_depth(source: Source, given: str) -> None:
    root = source("visium")
    path = {"outs": outs(root), "sample": root / "A1", "root": root}[given]
    assert find_layout(path)[0] is visium
    section = visium.read_section(path, "A1")
    assert section.name == "A1"
    assert section.synthetic
    assert section.patient == ("A" if given == "root" else "A1")
    assert any("patient not stated" in note for note in section.notes) == (given != "root")


def test_missing_image_is_named_and_may_be_given(source: Source, tmp_path: Path) -> None:
    root = source("visium")
    image = outs(root) / "A1_image.jpg"
    folder = tmp_path / "slides"
    folder.mkdir()
    moved = image.rename(folder / "A1.jpg")
    with pytest.raises(InputError, match=r"'A1': full-resolution image not found in outs/ .*--image"):
        visium.list_sections(root)
    assert visium.read_section(root, "A1", image=moved).image_path == moved
    assert visium.read_section(root, "A1", image=folder).image_path == moved
    with pytest.raises(InputError, match="is one image, but there are several sections"):
        visium.list_sections(root, image=moved)
    assert visium.list_sections(root, sections=["A1"], image=moved) == ["A1"]
    with pytest.raises(InputError, match="no such file or folder"):
        visium.list_sections(root, image=tmp_path / "nowhere.tif")


def test_reduced_image_is_used_on_request_only(source: Source) -> None:
    root = source("visium")
    full = visium.read_section(root, "A1")
    section = visium.read_section(root, "A1", image=Path("lowres"))
    scale = json.loads((outs(root) / "spatial/scalefactors_json.json").read_text())["tissue_lowres_scalef"]
    assert section.image_path.name == "tissue_lowres_image.png"
    np.testing.assert_allclose(section.spots.xy, full.spots.xy * scale)
    assert section.um_per_px == pytest.approx(full.um_per_px / scale)
    assert any("reduced lowres image" in note for note in section.notes)


def test_image_of_another_size_than_declared_is_refused(source: Source) -> None:
    root = source("visium")
    path = outs(root) / "A1_image.jpg"
    with Image.open(path) as image:
        image.resize((image.width // 2, image.height // 2)).save(path)
    with pytest.raises(InputError, match=r"A1_image.jpg is \d+ x \d+ px, but tissue_hires_image.png .* declares"):
        visium.read_section(root, "A1")


def test_two_images_are_refused(source: Source) -> None:
    root = source("visium")
    shutil.copy(outs(root) / "A1_image.jpg", outs(root) / "other.jpg")
    with pytest.raises(InputError, match=r"several images .*A1_image.jpg, other.jpg"):
        visium.read_section(root, "A1")


def test_space_rangers_own_pictures_are_no_slides(source: Source) -> None:
    root = source("visium")
    for name in ("cytassist_image.tiff", "aligned_fiducials.jpg", "detected_tissue_image.jpg"):
        shutil.copy(outs(root) / "A1_image.jpg", outs(root) / name)
    assert visium.read_section(root, "A1").image_path.name == "A1_image.jpg"


def test_matrices_of_several_samples_are_refused(source: Source) -> None:
    root = source("visium")
    shutil.copy(outs(root) / "filtered_feature_bc_matrix.h5", outs(root) / "B7_filtered_feature_bc_matrix.h5")
    with pytest.raises(InputError, match="matrices of several samples"):
        visium.list_sections(root)


def test_matrix_and_positions_of_different_samples_are_refused(source: Source) -> None:
    root = source("visium")
    positions(root).write_text(positions(root).read_text().replace("-1,", "-2,"))
    with pytest.raises(InputError, match="belong to different samples"):
        visium.read_section(root, "A1")


def damage_h5(path: Path, key: str, value: object) -> None:
    with h5py.File(path, "a") as file:
        kept = np.array(file["matrix"][key][:])
        del file["matrix"][key]
        file["matrix"][key] = value(kept) if callable(value) else value


def with_first(value: float) -> object:
    def change(kept: np.ndarray) -> np.ndarray:
        changed = kept.astype(np.float64)
        changed[0] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data", with_first(-3), r"count is -3.0, expected a non-negative whole number"),
        ("data", with_first(np.nan), r"count is nan"),
        ("data", with_first(1.5), r"count is 1.5"),
        ("barcodes", lambda kept: np.concatenate([kept[:1], kept[:-1]]), r"barcode \S+ appears 2 times"),
        ("shape", lambda kept: kept + 1, r"matrix is .* but there are 1200 features"),
        ("indices", lambda kept: kept + 1200, r"damaged sparse matrix \(columns from 1200"),
    ],
)
def test_malformed_hdf5_is_refused_with_file_and_place(source: Source, key: str, value: object, message: str) -> None:
    root = source("visium")
    damage_h5(outs(root) / "filtered_feature_bc_matrix.h5", key, value)
    with pytest.raises(InputError, match=message) as raised:
        visium.read_section(root, "A1")
    assert "filtered_feature_bc_matrix.h5" in str(raised.value)


def test_truncated_hdf5_is_refused(source: Source) -> None:
    root = source("visium")
    path = outs(root) / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"matrix.h5: truncated, damaged or not a Space Ranger"):
        visium.read_section(root, "A1")
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"matrix.h5: truncated, damaged or not a Space Ranger"):
        visium.read_section(root, "A1")
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(InputError, match="holds other, expected the group 'matrix'"):
        visium.read_section(root, "A1")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("matrix.mtx.gz", lambda text: text[:-30], r"matrix.mtx.gz: .* entries, but its first lines announce"),
        ("matrix.mtx.gz", lambda text: text.replace("1200 ", "1201 ", 1), r"matrix is \(1201, .* but features.tsv.gz"),
        ("barcodes.tsv.gz", lambda text: text.splitlines()[0] + "\n" + text, r"the three files belong to different"),
        (
            "features.tsv.gz",
            lambda text: text.replace("\t", "", 1),
            r"features.tsv.gz: line 2 has 3 fields, expected 2",
        ),
    ],
)
def test_malformed_matrix_market_is_refused(source: Source, name: str, change: object, message: str) -> None:
    root = source("visium")
    (outs(root) / "filtered_feature_bc_matrix.h5").unlink()
    path = outs(root) / "filtered_feature_bc_matrix" / name
    text = gzip.decompress(path.read_bytes()).decode()
    assert callable(change)
    path.write_bytes(gzip.compress(change(text).encode()))
    with pytest.raises(InputError, match=message):
        visium.read_section(root, "A1")
    path.write_bytes(gzip.compress(text.encode())[:-10])
    with pytest.raises(InputError, match=rf"{name}: truncated or corrupt gzip"):
        visium.read_section(root, "A1")
    path.unlink()
    with pytest.raises(InputError, match=rf"{name.removesuffix('.gz')}\[.gz\] not found"):
        visium.read_section(root, "A1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("array_row", "row"), r"array_row not found"),
        (lambda text: text.replace(",0,", ",zero,", 1), r"line 2, column in_tissue is 'zero'"),
        (lambda text: text.replace(",0,", ",,"), r"barcode \S+, column in_tissue is nan, expected a number, as in \d+"),
        (lambda text: text.rsplit(",", 1)[0], r"has 5 fields, expected 6"),
        (lambda text: text + text.splitlines()[-1] + "\n", r"barcode \S+ appears 2 times"),
        (lambda text: text[:0] + "AAAC-1,1,2\n", r"3 columns without a header"),
    ],
)
def test_malformed_positions_are_refused(source: Source, change: object, message: str) -> None:
    root = source("visium")
    assert callable(change)
    positions(root).write_text(change(positions(root).read_text()))
    with pytest.raises(InputError, match=message) as raised:
        visium.read_section(root, "A1")
    assert "tissue_positions.csv" in str(raised.value)


@pytest.mark.parametrize("name", ["scalefactors_json.json", "tissue_positions.csv"])
def test_files_that_are_links_to_nothing_are_named(source: Source, name: str) -> None:
    root = source("visium")
    path = outs(root) / "spatial" / name
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(InputError, match=rf"'A1': .*{name}: a link to nothing, expected a file"):
        visium.read_section(root, "A1")
    others = visium.list_sections(root, skip_incomplete=True)
    assert others
    assert "A1" not in others


def test_a_small_image_that_is_a_folder_is_no_image_left_out(source: Source) -> None:
    root = source("visium")
    path = outs(root) / "spatial/tissue_hires_image.png"
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"tissue_hires_image.png: a folder, expected a file"):
        visium.read_section(root, "A1")


def test_missing_scale_factors_and_positions_are_named(source: Source) -> None:
    root = source("visium")
    path = outs(root) / "spatial/scalefactors_json.json"
    text = path.read_text()
    path.write_text(text[:10])
    with pytest.raises(InputError, match=r"scalefactors_json.json: no readable JSON"):
        visium.read_section(root, "A1")
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"scalefactors_json.json: holds a list"):
        visium.read_section(root, "A1")
    path.unlink()
    with pytest.raises(InputError, match=r"'A1': scalefactors_json.json not found in spatial/"):
        visium.read_section(root, "A1")
    path.write_text(text)
    positions(root).unlink()
    with pytest.raises(InputError, match=r"'A1': tissue_positions.parquet or .* not found in spatial/"):
        visium.read_section(root, "A1")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize(("name", "shape"), [("visium_tiny", (22, 49)), ("visium_mtx", (3352, 815))])
def test_real_samples_load(name: str, shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="full-resolution image not found"):
        visium.list_sections(SHARED / name)
    section = visium.read_section(SHARED / name, name, image=Path("lowres"))
    assert section.counts.shape == shape
    factors = json.loads((SHARED / name / "outs/spatial/scalefactors_json.json").read_text())
    assert section.um_per_px * factors["tissue_lowres_scalef"] == pytest.approx(0.725, abs=1e-3)
    assert section.genes.ensembl_id[0].startswith("ENSMUSG")
    assert section.genes.symbol[0]
