"""hest: centres from obsm, scale and patient from metadata, known issues said."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import find_layout
from data_prep.spots import SQUARE
from tests.data_prep.readers.conftest import Source

hest = readers.reader("hest")

NAME = "DEMO1A"


def edit(root: Path, **changes: object) -> Path:
    path = root / f"metadata/{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return root


def rename(root: Path, name: str) -> Path:
    for file in root.glob(f"*/{NAME}.*"):
        file.rename(file.with_name(f"{name}{file.suffix}"))
    return root


def test_coordinates_are_centres_while_patches_hold_corners(source: Source) -> None:
    root = source("hest")
    section = hest.read_section(root, NAME)
    with h5py.File(root / f"patches/{NAME}.h5") as file:
        corner, barcode, side = file["coords"][:], file["barcode"][:, 0].astype(str), round(112 / section.um_per_px)
    rows = [section.spots.id.tolist().index(name) for name in barcode]
    np.testing.assert_allclose(section.spots.xy[rows] - corner, side / 2, atol=1)
    assert section.spots.id[0] == barcode[0]
    assert len(section.spots.id[0].split("x")[0]) == 3  # zero padded


def test_scale_is_the_estimated_one_and_differences_are_noted(source: Source) -> None:
    section = hest.read_section(edit(source("hest"), pixel_size_um_embedded=0.26), NAME)
    assert (section.um_per_px, section.um_per_px_source) == (4.0, "metadata")
    assert any("pixel_size_um_embedded is 0.26" in note for note in section.notes)


def test_embedded_scale_is_used_where_none_is_estimated(source: Source) -> None:
    root = edit(source("hest"), pixel_size_um_estimated=None, pixel_size_um_embedded="4.0")
    assert hest.read_section(root, NAME).um_per_px == 4.0


def test_scale_from_the_user_where_metadata_has_none(source: Source) -> None:
    root = edit(source("hest"), pixel_size_um_estimated=float("nan"))
    with pytest.raises(InputError, match="--source-um-per-px"):
        hest.read_section(root, NAME)
    section = hest.read_section(root, NAME, um_per_px=3.5)
    assert (section.um_per_px, section.um_per_px_source) == (3.5, "user")


@pytest.mark.parametrize(
    ("changes", "patient"),
    [
        ({}, "stjax demo: Patient 1"),
        ({"dataset_title": ""}, "Patient 1"),
        ({"patient": None}, "stjax demo"),
        ({"patient": "", "dataset_title": " "}, NAME),
        ({"patient": "nan", "dataset_title": float("nan")}, NAME),
        ({"patient": 0}, "stjax demo: 0"),
    ],
)
def test_patients_are_told_apart_by_study(source: Source, changes: dict[str, object], patient: str) -> None:
    section = hest.read_section(edit(source("hest"), **changes), NAME)
    assert section.patient == patient
    assert any("patient not stated" in note for note in section.notes) == (not section.patient.endswith(("1", "0")))


@pytest.mark.parametrize("title", ["Breast, ductal and lobular, of 23 women", "Atlas of the human heart " * 8])
def test_patients_of_a_study_whose_title_cannot_be_typed_have_a_short_one(source: Source, title: str) -> None:
    root = edit(source("hest"), dataset_title=title)
    section = hest.read_section(root, NAME)
    study, patient = section.patient.split(": ")
    assert re.fullmatch(r"(Breast_ductal_and_lobular|Atlas_of_the_human)-[0-9a-f]{6}", study)
    assert patient == "Patient 1"
    assert f"patient {section.patient} stands for {title.strip()}: Patient 1" in section.notes
    assert hest.read_section(root, NAME).patient == section.patient
    assert "," not in section.patient


def test_patients_csv_goes_before_metadata(source: Source) -> None:
    root = source("hest")
    (root / "patients.csv").write_text(f"section,patient\n{NAME},P7\n")
    assert hest.read_section(root, NAME).patient == "P7"


@pytest.mark.parametrize(
    ("changes", "radius_um"),
    [
        ({"st_technology": "Spatial Transcriptomics", "spot_diameter": None}, 50),
        ({"st_technology": None, "spot_diameter": None}, 27.5),
    ],
)
def test_spot_size_follows_the_technology(source: Source, changes: dict[str, object], radius_um: float) -> None:
    section = hest.read_section(edit(source("hest"), **changes), NAME)
    np.testing.assert_allclose(section.spots.size_px * 4, radius_um)


def test_pooled_technologies_give_squares(source: Source) -> None:
    section = hest.read_section(edit(source("hest"), st_technology="Xenium", spot_diameter=None), NAME)
    assert set(section.spots.kind) == {SQUARE}
    np.testing.assert_allclose(section.spots.size_px * 4, 100, rtol=1e-3)


def test_known_issues_are_noted(source: Source) -> None:
    section = hest.read_section(rename(source("hest"), "TENX155"), "TENX155")
    assert any("the same section as TENX128" in note for note in section.notes)


def test_metadata_that_is_a_folder_does_not_count_as_absent(source: Source) -> None:
    root = source("hest")
    path = root / f"metadata/{NAME}.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"json: a folder, expected a file"):
        hest.read_section(root, NAME, um_per_px=4.0)


def test_missing_image_and_metadata_are_named(source: Source) -> None:
    root = source("hest")
    (root / f"wsis/{NAME}.tif").unlink()
    (root / f"metadata/{NAME}.json").unlink()
    with pytest.raises(
        InputError, match=rf"'{NAME}': image not found \(expected wsis/{NAME}.tif\), metadata not found"
    ):
        hest.list_sections(root)
    assert hest.list_sections(root, skip_incomplete=True) == ["DEMO2A"]
    assert find_layout(root)[0] is hest


def test_image_of_another_size_than_declared_is_refused(source: Source) -> None:
    root = source("hest")
    Image.new("RGB", (30, 20)).save(root / f"wsis/{NAME}.tif")
    with pytest.raises(InputError, match=rf"{NAME}.tif is 30 x 20 px, but {NAME}.json declares"):
        hest.read_section(root, NAME)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON"),
        ("[]", "holds a list"),
        ('{"pixel_size_um_estimated": -1}', "expected a positive number"),
    ],
)
def test_malformed_metadata_is_refused(source: Source, text: str, message: str) -> None:
    root = source("hest")
    (root / f"metadata/{NAME}.json").write_text(text)
    with pytest.raises(InputError, match=rf"{NAME}.json.*{message}"):
        hest.read_section(root, NAME)


def test_truncated_h5ad_is_refused(source: Source) -> None:
    root = source("hest")
    path = root / f"st/{NAME}.h5ad"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=rf"{NAME}.h5ad: truncated, damaged or not an .h5ad file"):
        hest.read_section(root, NAME)
