"""HEST-Benchmark's folder, synthetic: joined by barcode, both kinds of coordinates, and what is refused."""

import json
import shutil

import anndata
import h5py
import numpy as np
import pytest

from data_prep import demo_hest_bench, hest_bench, patch_file, repeats
from data_prep.errors import InputError


@pytest.fixture
def root(tmp_path):
    return demo_hest_bench.write(tmp_path / "bench", spots=20, genes=5, size_px=32)


@pytest.mark.parametrize(("task", "sample"), [("TINY_VISIUM", "TINY1"), ("TINY_XENIUM", "TINY4")])
@pytest.mark.parametrize("corners", [False, True])
def test_targets_are_those_of_each_patchs_barcode(tmp_path, task, sample, corners):
    root = demo_hest_bench.write(tmp_path, spots=20, genes=5, size_px=32, corners=corners)
    opened = hest_bench.open_task(root, task)
    found = hest_bench.read_sample(opened, sample)
    table = anndata.read_h5ad(opened.expression[sample])
    expected = np.log1p(table[found.barcodes, list(opened.genes)].X.toarray().astype(np.float64))
    np.testing.assert_array_equal(found.targets, expected)
    np.testing.assert_array_equal(found.centre_xy, table[found.barcodes].obsm["spatial"])
    assert found.coords == (patch_file.CORNERS if corners else patch_file.CENTRES)


def test_every_sample_is_held_out_in_turn(root):
    folds = hest_bench.open_task(root, "TINY_VISIUM").folds
    assert [fold.test for fold in folds] == [("TINY1",), ("TINY2",), ("TINY3",)]
    assert folds[0].train == ("TINY2", "TINY3")


def test_a_split_without_its_other_half_is_refused(root):
    (root / "TINY_VISIUM/splits/test_1.csv").unlink()
    with pytest.raises(InputError, match=r"test_1\.csv not found"):
        hest_bench.open_task(root, "TINY_VISIUM")


def test_a_sample_trained_and_tested_on_is_refused(root):
    shutil.copy(root / "TINY_XENIUM/splits/train_0.csv", root / "TINY_XENIUM/splits/test_0.csv")
    with pytest.raises(InputError, match="trains and tests on TINY5"):
        hest_bench.open_task(root, "TINY_XENIUM")


def test_a_gene_that_a_sample_lacks_is_refused(root):
    path = root / "TINY_VISIUM" / hest_bench.GENES
    path.write_text(json.dumps({"genes": ["GENE000", "ABSENT"]}))
    with pytest.raises(InputError, match=r"not measured exactly once .*ABSENT"):
        hest_bench.read_sample(hest_bench.open_task(root, "TINY_VISIUM"), "TINY1")


def test_patches_of_another_sample_are_refused(root):
    task = hest_bench.open_task(root, "TINY_VISIUM")
    with h5py.File(task.patches["TINY1"], "a") as file:
        file["coords"][:] = file["coords"][:] + 900
    with pytest.raises(InputError, match="900 px from the spots"):
        hest_bench.read_sample(task, "TINY1")


def test_a_mirrored_sample_across_train_and_test_is_refused(root):
    task = hest_bench.open_task(root, "TINY_VISIUM")
    prints = {name: repeats.fingerprints(patch_file.images(path)) for name, path in task.patches.items()}
    hest_bench.check_apart(task, prints)
    mirrored = [batch[::-1, :, ::-1] for batch in patch_file.images(task.patches["TINY2"])]
    with pytest.raises(InputError, match="share 20 images"):
        hest_bench.check_apart(task, prints | {"TINY1": repeats.fingerprints(mirrored)})


def test_lung_may_be_called_luad(root):
    shutil.move(root / "TINY_XENIUM", root / "LUAD")
    assert hest_bench.tasks(root) == ["LUNG", "TINY_VISIUM"]
    by_name, by_alias = (hest_bench.open_task(root, name) for name in ("LUNG", "LUAD"))
    assert by_name.name == by_alias.name == "LUNG"
    assert by_name.folder == by_alias.folder == root / "LUAD"
    shutil.copytree(root / "LUAD", root / "LUNG")
    with pytest.raises(InputError, match="has the folders LUNG and LUAD, which are one task; keep one of them"):
        hest_bench.open_task(root, "LUNG")
