"""What evaluation says of the spots of a prepared section: each has its own size."""

import numpy as np

from data_prep import build, demo
from data_prep.dataset import PatchDataset


def test_bins_cut_as_patches_are_squares_of_their_own_side(tmp_path):
    demo.make_demo(tmp_path / "raw", layout="visium_hd", patients=1, sections_per_patient=1, spots=2)
    build.build(tmp_path / "raw", tmp_path / "data", patch_size_px=32, min_counts=0, bin_um=[8, 16])
    dataset = PatchDataset.open(tmp_path / "data")
    for section in dataset.sections:
        across = dataset.table(section["name"]).spots.across_um(section["um_per_px"])
        size = float(section["name"].rpartition("_")[2].removesuffix("um"))
        np.testing.assert_allclose(across, size, rtol=1e-5)
