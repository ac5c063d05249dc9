"""The real HER2+ sections, against an independent reading of their tables."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.build import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError

SOURCE = Path(__file__).resolve().parents[2] / "../shared/data/her2st"
SECTIONS = ["C2", "C3", "C4", "C5"]

pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="needs ../shared/data/her2st")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PatchDataset:
    out = tmp_path_factory.mktemp("her2st") / "out"
    return PatchDataset.open(build(SOURCE, out, skip_incomplete=True).parent, verify=True)


def source_table(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts [spots, symbols] and pixel positions of the selected spots that were counted, joined on the spot."""
    counts = pd.read_csv(SOURCE / f"ST-cnts/{name}.tsv.gz", sep="\t", index_col=0)
    spots = pd.read_csv(SOURCE / f"ST-spotfiles/{name}_selection.tsv", sep="\t")
    spots = spots[spots.selected == 1]
    spots.index = spots.x.astype(str) + "x" + spots.y.astype(str)
    both = counts.index.intersection(spots.index)
    return counts.loc[both], spots.loc[both, ["pixel_x", "pixel_y"]]


def image_of(name: str) -> np.ndarray:
    (path,) = (SOURCE / "ST-imgs" / "C" / name).glob("*.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        return np.asarray(Image.open(path))


def test_sections_without_image_stop_the_build_and_are_named(tmp_path):
    with pytest.raises(InputError) as raised:
        build(SOURCE, tmp_path / "out")
    for word in ("'B1'", "'C1'", "ST-imgs/B/B1", "ST-imgs/C/C1", "--skip-incomplete", "--sections C2,C3,C4,C5"):
        assert word in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_sections_built_are_those_with_an_image(dataset):
    assert [entry["name"] for entry in dataset.sections] == SECTIONS
    assert dataset.manifest["skipped"].keys() == {"B1", "C1"}
    assert not dataset.manifest["synthetic"]
    for entry in dataset.sections:
        assert 0.68 < entry["um_per_px"] < 0.70
        assert entry["um_per_px_source"] == "spot pitch"


@pytest.mark.parametrize("name", SECTIONS)
def test_counts_in_tables_equal_the_source_for_every_spot_and_gene(dataset, name):
    counts, pixel_xy = source_table(name)
    enough = counts.sum(axis=1) >= 1000
    table, source = dataset.table(name), dataset.source([name])
    assert set(table.spots.id) == set(counts.index[enough])
    assert dataset.section(name)["removed"]["low_counts"] == (~enough).sum()
    assert len(source) == len(table.spots.id)

    expected = counts.loc[table.spots.id].reindex(columns=dataset.genes.symbol, fill_value=0)
    np.testing.assert_array_equal(table.counts.toarray(), expected.to_numpy())
    lost = counts.columns.difference(dataset.genes.symbol)
    assert counts.loc[table.spots.id, lost].to_numpy().sum() == 0  # only genes never found were removed
    np.testing.assert_array_equal(table.total_counts, counts.loc[table.spots.id].sum(axis=1))
    np.testing.assert_allclose(table.spots.xy, pixel_xy.loc[table.spots.id])
    for index, spot in enumerate(table.spots.id):
        record = source[index]
        assert record["spot_id"].tolist() == [spot]
        assert record["total_counts"] == table.total_counts[index]


def test_patches_are_centred_on_their_spots_and_hardly_touched_by_jpeg(dataset):
    pixels = image_of("C3")
    source, table = dataset.source(["C3"]), dataset.table("C3")
    differences = []
    for index in range(0, len(source), 11):
        record = source[index]
        np.testing.assert_allclose(record["spot_xy"], [[112, 112]], atol=0.51)
        x, y = (int(value) for value in record["origin_xy"])
        assert np.abs(record["origin_xy"] + 112 - table.spots.xy[index]).max() <= 0.5
        window = pixels[y : y + 224, x : x + 224].astype(int)
        differences.append(np.abs(record["image"] - window).mean())
    assert np.mean(differences) < 1.5  # grey levels of 255


@pytest.mark.slow
def test_one_section_with_stain_normalisation_stays_under_1500_mb(tmp_path):
    command = [sys.executable, "-m", "data_prep.build", "--source", SOURCE, "--out", tmp_path / "out"]
    flags = ["--sections", "C2", "--stain", "vahadane", "--stain-target", "C3"]
    subprocess.run([*map(str, command), *flags], check=True, capture_output=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1_500_000  # kB
    manifest = PatchDataset.open(tmp_path / "out", verify=True).manifest
    assert manifest["stain_target"]["image"].endswith("D1.jpg")  # C3's
    assert manifest["sections"][0]["stain"]["method"] == "vahadane"
