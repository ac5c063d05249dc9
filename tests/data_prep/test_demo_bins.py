"""A whole Visium HD slide of 2 um bins, written block by block: real files, the known truth, and no seams."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import demo, demo_bins, demo_slide, demo_tissue, readers, slide
from data_prep.errors import InputError
from data_prep.section import Section
from tests.data_prep.test_demo import hashes

HD = readers.reader("visium_hd")
SMALL: dict[str, Any] = {
    "layout": "visium_hd",
    "patients": 1,
    "sections_per_patient": 1,
    "bins": 20_000,
    "um_per_px": 2.0,
    "seed": 3,
}
SMALL |= {"counts_per_spot": demo.BINS_COUNTS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written in several bands of the least height."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_bins, "_MOLECULES", 1)
        return demo.make_demo(tmp_path_factory.mktemp("bins") / "out", **SMALL)


@pytest.fixture(scope="module")
def section(root: Path) -> Section:
    return HD.read_section(root, "A1_002um")


def test_bins_have_the_depth_of_real_ones_and_follow_the_cells(root: Path, section: Section) -> None:
    assert 0.95 * SMALL["bins"] < len(section.spots) < 1.05 * SMALL["bins"]
    assert 15 < section.counts.nnz / len(section.spots) < 35  # depth differs between patients
    assert section.um_per_px == 2.0
    assert section.synthetic
    assert not section.notes
    cells, life = demo.load_truth(root, "A1")
    edges = [np.arange(0, 1000, 50.0)] * 2
    expected = np.histogram2d(*cells.xy_um.T, bins=edges, weights=demo_tissue.rna(cells, life))[0]
    found = np.histogram2d(*(section.spots.xy.T * 2.0), bins=edges, weights=section.counts.sum(axis=1))[0]
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.95


def test_no_count_is_lost_where_two_bands_meet(root: Path, section: Section, tmp_path: Path) -> None:
    whole = HD.read_section(demo.make_demo(tmp_path / "one", **SMALL), "A1_002um")
    assert whole.spots.id.tolist() == section.spots.id.tolist()
    assert whole.counts.sum() == pytest.approx(section.counts.sum(), rel=0.01)
    assert hashes(root)["A1/A1_tissue_image.tif"] == hashes(tmp_path / "one")["A1/A1_tissue_image.tif"]
    row = np.round(section.spots.xy[:, 1] * 2.0 - 1) // 2
    border = np.isin(row % 48, (0, 1, 46, 47))  # rows of 2 um next to the border of bands of 96 um
    of_bands, of_one = (each.counts.sum(axis=1)[border].sum() for each in (section, whole))
    assert of_bands == pytest.approx(of_one, rel=0.03)


def test_the_slide_is_a_pyramid_that_shows_the_bins(section: Section) -> None:
    with slide.open_slide(section.image_path) as image:
        assert image.um_per_px == pytest.approx(2.0, rel=1e-6)
        assert image.coarser(4.0)[1] == pytest.approx(4.0, rel=0.02)
        pixels = image.read_region(0, 0, image.width, image.height)
        level = image.read_region(0, 0, image.width // 4, image.height // 4, level=1)
    mean = pixels[: level.shape[0] * 4, : level.shape[1] * 4].reshape(*level.shape[:1], 4, level.shape[1], 4, 3)
    np.testing.assert_allclose(level, mean.mean(axis=(1, 3)), atol=0.51)
    column, row = section.spots.xy.astype(int).T
    assert pixels[row, column].mean() < pixels.mean() - 5  # tissue is darker than glass


def test_strips_leave_no_seam(section: Section) -> None:
    del section
    rng = np.random.default_rng(0)
    area = {"width_um": 700.0, "height_um": 640.0, "tissue_um2": 2e5}
    tissue = demo_tissue.grow(rng, **area, patient_effect=np.zeros(1), favour=np.zeros(4))
    options = {"tissue": tissue, "staining": demo_slide.patient_staining(rng), "um_per_px": 1.0}
    strips, whole = (
        np.concatenate(list(demo_slide.paint_strips(np.random.default_rng(1), **options, strip_px=rows)))
        for rows in (90, 1000)
    )
    assert strips.shape == whole.shape == (640, 700, 3)
    apart = np.abs(strips.astype(int) - whole).mean(axis=(1, 2))  # of each row: noise and grain alone
    border = np.arange(640) % 90 % 89 == 0
    assert apart[border].mean() < 1.2 * apart[~border].mean()
    coarse = [image[:640, :700].reshape(32, 20, 35, 20, 3).mean(axis=(1, 3)) for image in (strips, whole)]
    assert np.abs(coarse[0] - coarse[1]).mean() < 2


@pytest.mark.parametrize("options", [{"bins": 5, "layout": "her2st"}, {"bins": -1, "layout": "visium_hd"}])
def test_bins_are_those_of_visium_hd(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--bins is"):
        demo.make_demo(tmp_path / "out", **options)


def test_command_line_writes_one_section_of_bins(tmp_path: Path) -> None:
    demo.main(["--out", str(tmp_path / "out"), "--bins", "2000", "--source-um-per-px", "4"])
    assert HD.list_sections(tmp_path / "out") == ["A1_002um"]
    assert "bins" in (tmp_path / "out/SYNTHETIC.txt").read_text()
