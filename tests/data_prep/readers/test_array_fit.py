"""Spots that do not lie where the array puts them are refused and named, in every layout; sound ones pass unchanged."""

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from data_prep import demo, readers
from data_prep.errors import InputError
from data_prep.readers import _array_fit, _arrays, _legacy
from tests.data_prep.readers import tiny_h5ad
from tests.data_prep.readers.conftest import Source

REAL = Path(__file__).resolve().parents[3] / "../shared/data/her2st/ST-spotfiles"
FILE = Path("spots.tsv")
PITCH_PX = 290.0


def array(*, jitter: float = 0.07, spots: int = 180, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places and pixels [S, 2] of a turned square array, spots off by `jitter` pitches, as printers leave them."""
    rng = np.random.default_rng(seed)
    places = np.column_stack([axis.ravel() for axis in np.mgrid[:16, :14]])
    grid = places[rng.permutation(len(places))[:spots]].astype(float)
    turn = np.array([[np.cos(0.02), np.sin(0.02)], [-np.sin(0.02), np.cos(0.02)]])
    return grid, (grid @ turn + rng.normal(0, jitter / 2, grid.shape)) * PITCH_PX + [900.0, 1300.0]


def refused(grid: np.ndarray, spots: np.ndarray) -> str:
    with pytest.raises(InputError) as raised:
        _array_fit.check(FILE, [f"{column:.0f}x{row:.0f}" for column, row in grid], grid, spots)
    text = str(raised.value)
    assert text.startswith("spots.tsv: ")
    assert len(text) < 450
    return text


def test_printing_errors_pass_and_the_fit_is_least_squares_to_the_last_bit() -> None:
    grid, spots = array()
    _array_fit.check(FILE, ["spot"] * len(grid), grid, spots)
    found = _array_fit.fit(grid, spots)
    assert found is not None
    assert found.affine.tobytes() == np.asarray(_array_fit.grid_affine(grid, spots)).tobytes()
    assert 0.05 < found.off.max() < 0.3


@pytest.mark.parametrize("value", [0.0, 12345.0, 1e9, -1e300, 1e308])
@pytest.mark.parametrize("spots", [9, 180])
def test_one_wrong_coordinate_is_named_with_where_it_should_be(value: float, spots: int) -> None:
    grid, pixels = array(jitter=0.0, spots=spots)
    expected = pixels[4, 1]
    pixels[4, 1] = value
    text = refused(grid, pixels)
    assert f"1 of {spots} spots lies more than half a pitch from where the rest of the array puts them" in text
    assert f"'{grid[4, 0]:.0f}x{grid[4, 1]:.0f}' at ({pixels[4, 0]:.6g}, {value:.6g})" in text
    assert f"expected ({pixels[4, 0]:.6g}, {expected:.6g})" in text


def test_a_wrong_place_on_the_array_is_named_too() -> None:
    grid, pixels = array()
    grid[7] = 1e9
    assert "1 of 180 spots lies more" in refused(grid, pixels)


def test_two_wrong_coordinates_are_both_named() -> None:
    grid, pixels = array()
    pixels[[3, 60], 0] += [0.7 * PITCH_PX, -20 * PITCH_PX]
    text = refused(grid, pixels)
    assert "2 of 180 spots lie more" in text
    assert all(f"'{grid[row, 0]:.0f}x{grid[row, 1]:.0f}' at" in text for row in (3, 60))


@pytest.mark.parametrize("share", [0.1, 0.45])
def test_many_wrong_coordinates_are_counted_and_some_named(share: float) -> None:
    grid, pixels = array()
    wrong = int(share * 180)
    pixels[:wrong] += np.random.default_rng(1).uniform(2, 30, (wrong, 2)) * PITCH_PX
    text = refused(grid, pixels)
    assert f"{wrong} of 180 spots lie more" in text
    assert text.count(" at (") == 3
    assert ", ..." in text


def test_rows_with_x_and_y_swapped_are_called_so() -> None:
    grid, pixels = array()
    pixels[:40] = pixels[:40, ::-1]
    assert "they fit with x and y swapped" in refused(grid, pixels)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        ("reordered", "rows were reordered in some of the columns, or are of another section"),
        ("another section", "rows were reordered in some of the columns, or are of another section"),
        ("a row down", "pixels are those of the row before or after (a header taken for"),
        ("a row up", "pixels are those of the row before or after (a header taken for"),
        ("y sorted", "pixels in x follow the array and those in y"),
        ("x sorted", "pixels in y follow the array and those in x"),
        ("most swapped", "x and y swapped"),
        ("in pieces", "bent or put together"),
    ],
)
def test_where_most_do_not_fit_the_cause_is_said(damage: str, cause: str) -> None:
    grid, xy = array()
    rng = np.random.default_rng(2)
    damaged = {
        "reordered": rng.permutation(xy),
        "another section": array(seed=5)[1],
        "a row down": np.roll(xy, 1, axis=0),
        "a row up": np.roll(xy, -1, axis=0),
        "y sorted": np.column_stack([xy[:, 0], np.sort(xy[:, 1])]),
        "x sorted": np.column_stack([np.sort(xy[:, 0]), xy[:, 1]]),
        "most swapped": np.where(rng.random((len(xy), 1)) < 0.4, xy, xy[:, ::-1]),
        "in pieces": xy + 1600.0 * ((xy // 1000).sum(axis=1, keepdims=True) % 3),
    }
    assert cause in refused(grid, damaged[damage])


def test_small_bins_may_bend_with_the_camera_but_not_jump() -> None:
    row, column = (axis.ravel() for axis in np.mgrid[:400, :400])
    grid = np.column_stack([column, row]).astype(float)
    pixels = grid * 7.3 / (1 + 2e-5 * grid[:, :1])  # as a slanted camera sees it, a pitch off at most
    found = _array_fit.fit(grid, pixels)
    assert found is not None
    assert found.off.max() > _array_fit.OFF
    assert not found.misplaced.any()
    pixels[5] += 30.0
    assert "1 of 160000 spots lies" in refused(grid, pixels)


def test_a_line_of_spots_and_two_spots_say_nothing() -> None:
    grid, pixels = array()
    on_line = np.column_stack([np.arange(9.0), np.zeros(9)])
    for places, where in ((on_line, pixels[:9]), (grid[:2], pixels[:2]), (grid[:0], pixels[:0])):
        assert _array_fit.fit(places, where) is None
        _array_fit.check(FILE, ["spot"] * len(places), places, where)


def table(
    tmp_path: Path, array_xy: np.ndarray, spot_xy: np.ndarray, names: tuple[str, str] = ("array_col", "array_row")
):
    obs = pd.DataFrame(array_xy, columns=list(names), index=tiny_h5ad.barcodes(len(array_xy)))
    return _arrays.of_table(obs, spot_xy, tmp_path / "A1.h5ad")


@pytest.mark.parametrize("make", [tiny_h5ad.hexagonal, tiny_h5ad.square])
def test_annotation_of_an_array_with_one_spot_elsewhere_is_refused(tmp_path: Path, make: Callable) -> None:
    array_xy, spot_xy = make(12, 12)
    found, notes = table(tmp_path, array_xy, spot_xy)
    assert found is not None
    assert (round(found.pitch_px, 6), notes) == (50.0, ())
    spot_xy[30, 0] += 3000.0
    with pytest.raises(
        InputError, match=r"A1.h5ad: 1 of 144 .* 'AAAAAAAAAAAAACTG-1' at .*correct obsm\['spatial'\], or"
    ):
        table(tmp_path, array_xy, spot_xy)
    with pytest.raises(InputError, match="reordered"):
        table(tmp_path, array_xy, np.random.default_rng(0).permutation(spot_xy))


def test_annotation_that_is_no_array_is_noted_and_not_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array_xy, spot_xy = tiny_h5ad.square(12, 12)
    in_words = "obs['array_row'] and obs['array_col'] do not tell where spots lie in the image and are not used"
    number = np.arange(144)
    for width in (10, 11, 13, 14, 17):  # numbered anew, by a width that is not the array's
        found, notes = table(tmp_path, np.column_stack([number % width, number // width]), spot_xy)
        assert (found and found.kind, notes) == ("unknown", (in_words,))
    cells = rng.uniform(0, 4000, (300, 2))  # numbered by the square they lie in
    found, notes = table(tmp_path, np.floor(cells / 50), cells)
    assert (found and found.kind, notes) == ("unknown", (in_words,))
    assert table(tmp_path, rng.permutation(array_xy), spot_xy, ("col", "row")) == (None, ())


def move_one(path: Path, column: str, separator: str) -> None:
    """Adds 5,000 px to one spot's pixel."""
    frame = pd.read_csv(path, sep=separator, dtype=str)
    frame.loc[1, column] = str(float(frame.loc[1, column]) + 5000)
    frame.to_csv(path, sep=separator, index=False)


@pytest.mark.parametrize(
    ("layout", "pattern", "column", "separator"),
    [
        ("her2st", "ST-spotfiles/*.tsv", "pixel_x", "\t"),
        ("stnet", "spots_*", "Y", ","),
        ("cscc", "*spot_data-selection-*", "pixel_y", "\t"),
        ("visium", "*/**/tissue_positions*.csv", "pxl_col_in_fullres", ","),
    ],
)
def test_every_layout_of_tables_refuses_one_wrong_coordinate(
    tmp_path: Path, layout: str, pattern: str, column: str, separator: str
) -> None:
    root = demo.make_demo(tmp_path / layout, layout=layout, patients=1, sections_per_patient=1, spots=24, um_per_px=4.0)
    for path in root.glob(pattern):
        move_one(path, column, separator)
    module, _ = readers.find_layout(root)
    for name in module.list_sections(root):
        with pytest.raises(InputError, match=r"1 of \d+ spots lies more than half a pitch"):
            module.read_section(root, name)


def test_visium_hd_refuses_a_bin_that_is_elsewhere(source: Source) -> None:
    root = source("visium_hd")
    for path in root.rglob("tissue_positions.parquet"):
        frame = pd.read_parquet(path)
        frame.loc[1, "pxl_row_in_fullres"] += 5000
        frame.to_parquet(path)
    module, _ = readers.find_layout(root)
    with pytest.raises(InputError, match=r"tissue_positions.parquet: 1 of \d+ spots lies more than half a pitch"):
        module.read_section(root, module.list_sections(root)[0])


@pytest.mark.parametrize("layout", ["hest", "anndata"])
def test_h5ad_layouts_refuse_one_wrong_coordinate(source: Source, layout: str) -> None:
    root = source(layout)
    module, _ = readers.find_layout(root)
    name = module.list_sections(root)[0]
    (path,) = root.rglob(f"{name}.h5ad")
    made = anndata.read_h5ad(path)
    made.obsm["spatial"][1, 0] += 150.0  # within the image
    made.write_h5ad(path)
    with pytest.raises(InputError, match=rf"1 of \d+ spots lies .*'{made.obs_names[1]}' at .*correct obsm"):
        module.read_section(root, name)


def test_pooled_samples_of_hest_may_number_their_squares_anew(tmp_path: Path) -> None:
    root = demo.make_demo(tmp_path / "hest", layout="hest", patients=1, sections_per_patient=1, spots=24, um_per_px=4.0)
    module, _ = readers.find_layout(root)
    name = module.list_sections(root)[0]
    made = anndata.read_h5ad(root / "st" / f"{name}.h5ad")
    number = np.random.default_rng(0).permutation(made.n_obs)
    made.obs["array_row"], made.obs["array_col"] = number // 5, number % 5
    made.write_h5ad(root / "st" / f"{name}.h5ad")
    with pytest.raises(InputError, match="reordered"):
        module.read_section(root, name)
    metadata = root / "metadata" / f"{name}.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"st_technology": "Xenium"}))
    assert len(module.read_section(root, name).spots.id) == made.n_obs


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/her2st")
@pytest.mark.parametrize("section", ["B1", "C1", "C2", "C3", "C4", "C5"])
def test_real_spots_lie_well_within_and_one_wrong_is_named(section: str) -> None:
    spots = _legacy.read_selection(REAL / f"{section}_selection.tsv")
    pixels, integers = spots["pixel_xy"], np.array([spot.split("x") for spot in spots["id"]], float)
    for grid in (spots["grid_xy"], integers):
        found = _array_fit.fit(grid, pixels)
        assert found is not None
        assert found.off.max() < 0.24
        assert found.affine.tobytes() == np.asarray(_array_fit.grid_affine(grid, pixels)).tobytes()
    for grid in (spots["grid_xy"], integers):
        for row in (0, len(grid) // 2, len(grid) - 1):
            moved = pixels.copy()
            moved[row, 0] *= 10
            with pytest.raises(InputError, match=rf"1 of {len(grid)} spots lies .*'{spots['id'][row]}' at"):
                _array_fit.check(FILE, spots["id"], grid, moved)
