"""anndata: coordinates wherever tools keep them; names decide x and y, contradictions are said or refused."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.section import Section
from tests.data_prep.readers.tiny_h5ad import hexagonal, visium, write

reader = readers.reader("anndata")

XY = hexagonal()[1]


def frame(made: ad.AnnData, **columns: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(columns, index=made.obs_names)


def read(folder: Path, made: ad.AnnData) -> Section:
    return reader.read_section(write(folder, "A", made), "A")


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("pxl_col_in_fullres", "pxl_row_in_fullres"),
        ("imagecol", "imagerow"),
        ("x", "y"),
        ("X", "Y"),
        ("pixel_x", "pixel_y"),
    ],
)
@pytest.mark.parametrize("key", ["spatial", "X_spatial"])
def test_names_of_columns_decide_not_their_place(tmp_path: Path, x: str, y: str, key: str) -> None:
    made = visium()
    del made.obsm["spatial"]
    made.obsm[key] = frame(made, **{y: XY[:, 1], x: XY[:, 0]})
    section = read(tmp_path, made)
    np.testing.assert_array_equal(section.spots.xy, XY)
    assert f"x and y are the columns {x!r} and {y!r} of obsm[{key!r}]" in section.notes


def test_a_whole_table_of_positions_is_read_by_its_pixels(tmp_path: Path) -> None:
    made = visium()
    row, column = made.obs["array_row"].to_numpy(), made.obs["array_col"].to_numpy()
    made.obsm["spatial"] = frame(
        made, array_row=row, array_col=column, pxl_row_in_fullres=XY[:, 1], pxl_col_in_fullres=XY[:, 0]
    )
    np.testing.assert_array_equal(read(tmp_path, made).spots.xy, XY)


@pytest.mark.parametrize("names", [("array_row", "array_col"), ("row", "col"), ("left", "right")])
def test_columns_of_other_names_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    made = visium()
    made.obsm["spatial"] = frame(made, **{names[0]: XY[:, 0], names[1]: XY[:, 1]})
    with pytest.raises(InputError, match=rf"columns of obsm\['spatial'\] are {names[0]}, {names[1]}, .*pxl_col_in_"):
        read(tmp_path, made)


def test_columns_without_names_are_taken_in_their_order_and_said(tmp_path: Path) -> None:
    made = visium()
    made.obsm["spatial"] = frame(made, spatial_1=XY[:, 0], spatial_2=XY[:, 1])
    section = read(tmp_path, made)
    np.testing.assert_array_equal(section.spots.xy, XY)
    assert any("in that order" in note for note in section.notes)


@pytest.mark.parametrize(
    ("x", "y"), [("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow"), ("x", "y")]
)
def test_columns_of_obs_are_read_where_obsm_has_none(tmp_path: Path, x: str, y: str) -> None:
    made = visium()
    del made.obsm["spatial"]
    made.obs[y], made.obs[x] = XY[:, 1], XY[:, 0]
    section = read(tmp_path, made)
    np.testing.assert_array_equal(section.spots.xy, XY)
    assert any(note.startswith("obsm['spatial'] not found: x and y are obs[") for note in section.notes)


def test_a_third_coordinate_is_left_out_and_said(tmp_path: Path) -> None:
    made = visium()
    made.obsm["spatial"] = np.column_stack([XY, np.zeros(len(XY))])
    section = read(tmp_path, made)
    np.testing.assert_array_equal(section.spots.xy, XY)
    assert "the third coordinate of obsm['spatial'] is not used" in section.notes


def test_slices_by_the_third_coordinate_are_refused(tmp_path: Path) -> None:
    made = visium()
    made.obsm["spatial"] = np.column_stack([XY, np.arange(len(XY)) % 2])
    with pytest.raises(InputError, match="several samples: the third coordinate has 2 values"):
        read(tmp_path, made)


def test_text_that_a_misread_header_made_of_numbers_is_read(tmp_path: Path) -> None:
    made = visium()
    made.obsm["spatial"] = frame(made, x=XY[:, 0].astype(str), y=XY[:, 1].astype(str))
    np.testing.assert_allclose(read(tmp_path, made).spots.xy, XY)


def test_words_for_coordinates_are_refused(tmp_path: Path) -> None:
    made = visium()
    made.obsm["spatial"] = frame(made, x=["left"] * len(XY), y=XY[:, 1].astype(str))
    with pytest.raises(InputError, match="holds 'left', expected numbers"):
        read(tmp_path, made)


def test_a_spot_without_coordinates_is_left_out_and_counted(tmp_path: Path) -> None:
    made = visium()
    made.obs = made.obs.astype(float)  # as a join leaves it that finds no positions for one barcode
    made.obs.iloc[4] = np.nan
    made.obsm["spatial"][4] = np.nan
    section = read(tmp_path, made)
    assert len(section.spots.id) == len(section.spots.xy) == section.counts.shape[0] == len(XY) - 1
    assert f"1 spot without coordinates was left out (e.g. {made.obs_names[4]})" in section.notes
    assert section.counts[4].toarray().tolist() == made.X[5].tolist()


def test_no_coordinates_at_all_are_refused(tmp_path: Path) -> None:
    made = visium()
    made.obsm["spatial"][:] = np.nan
    with pytest.raises(InputError, match="no spot has coordinates"):
        read(tmp_path, made)


def test_order_that_columns_of_obs_contradict_is_put_right_and_said(tmp_path: Path) -> None:
    made = visium()
    made.obs["pxl_row_in_fullres"], made.obs["pxl_col_in_fullres"] = XY[:, 1], XY[:, 0]
    made.obsm["spatial"] = XY[:, ::-1].copy()
    section = read(tmp_path, made)
    np.testing.assert_array_equal(section.spots.xy, XY)
    assert any(note.startswith("obsm['spatial'] holds (row, col): x and y are obs['pxl_col") for note in section.notes)


def test_a_small_pictures_pixels_that_obs_contradicts_are_put_right_and_said(tmp_path: Path) -> None:
    made = visium(tissue_hires_scalef=0.2)
    made.obs["imagerow"], made.obs["imagecol"] = XY[:, 1], XY[:, 0]
    made.obsm["spatial"] = XY * 0.2
    section = read(tmp_path, made)
    np.testing.assert_array_equal(section.spots.xy, XY)
    assert any("in pixels of a smaller picture (tissue_hires_scalef)" in note for note in section.notes)


def test_other_contradictions_are_said(tmp_path: Path) -> None:
    made = visium()
    made.obs["imagerow"], made.obs["imagecol"] = XY[:, 1] + 20, XY[:, 0]
    section = read(tmp_path, made)
    np.testing.assert_array_equal(section.spots.xy, XY)
    assert "obsm['spatial'] is used, although obs['imagecol'] and obs['imagerow'] say otherwise" in section.notes


def test_order_that_the_image_contradicts_is_refused(tmp_path: Path) -> None:
    made = visium()
    made.obsm["spatial"] = made.obsm["spatial"][:, ::-1].copy()
    root = write(tmp_path, "A", made)
    Image.new("RGB", (400, 270), "white").save(root / "A.png")
    with pytest.raises(InputError, match=r"lie outside the image .* with x and y swapped: obsm\['spatial'\] is \(row"):
        reader.read_section(root, "A")


def test_nothing_to_place_spots_by_is_refused(tmp_path: Path) -> None:
    made = visium()
    del made.obsm["spatial"]
    with pytest.raises(InputError, match=r"obsm\['spatial'\] not found \(obsm holds nothing\)"):
        read(tmp_path, made)


@pytest.mark.parametrize(
    "values",
    [lambda n: ["0", *["1"] * (n - 1)], lambda n: [False, *[True] * (n - 1)], lambda n: [np.nan, *[1.0] * (n - 1)]],
)
def test_in_tissue_is_read_however_it_is_written(tmp_path: Path, values: Callable[[int], list[object]]) -> None:
    made = visium()
    made.obs["in_tissue"] = values(made.n_obs)
    section = read(tmp_path, made)
    assert len(section.spots.id) == made.n_obs - 1
    assert "1 spot is not under tissue and was left out" in section.notes


def test_in_tissue_of_other_values_is_refused(tmp_path: Path) -> None:
    made = visium()
    made.obs["in_tissue"] = "stroma"
    with pytest.raises(InputError, match=r"obs\['in_tissue'\] holds 'stroma', expected 1"):
        read(tmp_path, made)
