"""anndata: scale and spot shape, by how the spots lie, and what is said where figures contradict one another."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from data_prep import readers
from data_prep.errors import InputError
from data_prep.spots import DISC, SQUARE
from tests.data_prep.readers.tiny_h5ad import hexagonal, square, table, visium, write

reader = readers.reader("anndata")


def test_visium_is_told_by_its_array(tmp_path: Path) -> None:
    section = reader.read_section(write(tmp_path, "A", visium()), "A")
    assert (section.um_per_px, section.um_per_px_source) == (pytest.approx(2.0), "spot pitch")
    assert (section.spots.kind[0], section.spots.size_px[0]) == (DISC, pytest.approx(13.75))


def test_what_the_user_states_wins_over_visiums_pitch(tmp_path: Path) -> None:
    section = reader.read_section(write(tmp_path, "A", visium()), "A", um_per_px=1.0)
    assert (section.um_per_px, section.um_per_px_source) == (1.0, "user")
    assert any("the spot pitch says 2" in note for note in section.notes)


def test_a_square_array_is_not_visium(tmp_path: Path) -> None:
    root = write(tmp_path, "A", table(*square()))
    with pytest.raises(InputError, match=r"form a square array \(spots 50 px apart\).*give --source-um-per-px"):
        reader.read_section(root, "A")
    section = reader.read_section(root, "A", um_per_px=1.0)
    assert (section.um_per_px, section.um_per_px_source) == (1.0, "user")
    assert not any("spot pitch" in note for note in section.notes)
    assert (section.spots.kind[0], section.spots.size_px[0]) == (SQUARE, 50.0)
    assert "spot size not stated: taken as the distance between neighbours, 50 um" in section.notes


def test_a_square_array_200_um_apart_is_legacy_st(tmp_path: Path) -> None:
    section = reader.read_section(write(tmp_path, "A", table(*square())), "A", um_per_px=4.0)
    assert (section.spots.kind[0], section.spots.size_px[0]) == (DISC, 12.5)
    assert "spot size not stated: taken as legacy ST's 100 um" in section.notes


def test_bins_are_scaled_by_their_size(tmp_path: Path) -> None:
    root = write(tmp_path, "A", table(*square(), bin_size_um=8.0, spot_diameter_fullres=50.0))
    section = reader.read_section(root, "A")
    assert (section.um_per_px, section.um_per_px_source) == (pytest.approx(0.16), "spot pitch")
    assert (section.spots.kind[0], section.spots.size_px[0]) == (SQUARE, pytest.approx(50.0))


def test_bins_and_microns_per_pixel_that_disagree_are_said(tmp_path: Path) -> None:
    root = write(tmp_path, "A", table(*square(), bin_size_um=8.0, microns_per_pixel=0.5))
    section = reader.read_section(root, "A")
    assert (section.um_per_px, section.um_per_px_source) == (0.5, "file")
    assert any("the spot pitch says 0.16" in note for note in section.notes)


def test_squares_as_wide_as_their_pitch_are_squares(tmp_path: Path) -> None:
    root = write(tmp_path, "A", table(*square(), spot_diameter_fullres=50.0, microns_per_pixel=0.5))
    section = reader.read_section(root, "A")
    assert (section.spots.kind[0], section.spots.size_px[0]) == (SQUARE, 50.0)


def test_bins_that_do_not_lie_along_the_image_are_said(tmp_path: Path) -> None:
    array_xy, spot_xy = square()
    turned = spot_xy @ np.array([[0.995, 0.0998], [-0.0998, 0.995]]) + [30, 0]
    section = reader.read_section(write(tmp_path, "A", table(array_xy, turned, bin_size_um=8.0)), "A")
    assert "bins are turned by 5.7 degrees against the image and taken as upright" in section.notes


def test_an_array_neither_hexagonal_nor_square_is_refused(tmp_path: Path) -> None:
    array_xy, spot_xy = square()
    root = write(tmp_path, "A", table(array_xy, spot_xy * [1, 1.4]))
    with pytest.raises(InputError, match=r"form no array known.*give --source-um-per-px"):
        reader.read_section(root, "A")


@pytest.mark.parametrize(("key", "which"), [("tissue_hires_scalef", "hires"), ("tissue_lowres_scalef", "lowres")])
@pytest.mark.parametrize("with_array", [True, False])
def test_coordinates_of_a_small_picture_are_refused(tmp_path: Path, key: str, which: str, with_array: bool) -> None:
    made = visium(tissue_hires_scalef=0.2, tissue_lowres_scalef=0.06)
    made.obsm["spatial"] = made.obsm["spatial"] * made.uns["spatial"]["L"]["scalefactors"][key]
    if not with_array:
        del made.obs["array_row"]
    with pytest.raises(InputError, match=rf"in pixels of the {which} picture; .* divide obsm\['spatial'\] by {key}"):
        reader.read_section(write(tmp_path, "A", made), "A", um_per_px=2.0)


def test_visium_spots_of_another_size_than_stated_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, "A", visium(spot_diameter_fullres=100.0))
    with pytest.raises(InputError, match=r"spots are 50 px apart, but spot_diameter_fullres is 100 px"):
        reader.read_section(root, "A")
    section = reader.read_section(root, "A", um_per_px=2.0)
    assert any("they may belong to different images" in note for note in section.notes)


@pytest.mark.parametrize("diameter", [65 / 2, 55 / 2])
def test_both_diameters_that_tools_write_fit_visium(tmp_path: Path, diameter: float) -> None:
    section = reader.read_section(write(tmp_path, "A", visium(spot_diameter_fullres=diameter)), "A")
    assert section.um_per_px == pytest.approx(2.0)


def test_scale_factors_without_a_library_between_are_read(tmp_path: Path) -> None:
    made = table(*square())
    made.uns["spatial"] = {"scalefactors": {"microns_per_pixel": 0.5}, "images": {}}
    assert reader.read_section(write(tmp_path, "A", made), "A").um_per_px == 0.5


def test_a_lost_array_row_does_not_move_the_scale(tmp_path: Path) -> None:
    made = visium()
    made.obs["array_row"] = made.obs["array_row"].astype(float)
    made.obs.iloc[3, made.obs.columns.get_loc("array_row")] = np.nan
    assert reader.read_section(write(tmp_path, "A", made), "A").um_per_px == pytest.approx(2.0)


def test_seurats_rows_and_columns_are_an_array_too(tmp_path: Path) -> None:
    made = visium()
    made.obs = made.obs.rename(columns={"array_row": "row", "array_col": "col"})
    assert reader.read_section(write(tmp_path, "A", made), "A").um_per_px == pytest.approx(2.0)


def test_files_without_array_or_factors_ask_for_the_scale(tmp_path: Path) -> None:
    _, spot_xy = hexagonal()
    made = ad.AnnData(np.ones((len(spot_xy), 2), np.float32), obsm={"spatial": spot_xy})
    with pytest.raises(InputError, match="give --source-um-per-px"):
        reader.read_section(write(tmp_path, "A", made), "A")
