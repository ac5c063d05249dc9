"""HEST-Benchmark by one command: on a synthetic bundle, beside scikit-learn, stopped and gone on with, and refused."""

import csv
import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep import demo_hest_bench, hest_bench
from data_prep.errors import InputError
from stjax import metrics
from stjax.evaluation import hest_scores
from stjax.evaluation.linear_probe import COMPONENTS, Probe
from stjax.hest_bench import main
from stjax.inference.hest_features import Maker
from tests.small_encoder import NAME

GENES = 5


@pytest.fixture
def root(tmp_path):
    return demo_hest_bench.write(tmp_path / "bench", spots=20, genes=GENES, size_px=32)


def write_features(root, folder, name, width, *, task="TINY_VISIUM"):
    """Known features of a task as HEST keeps them, in another order than the patches; {sample: of the patches}."""
    opened, rng, found = hest_bench.open_task(root, task), np.random.default_rng(3), {}
    for sample in opened.patches:
        read = hest_bench.read_sample(opened, sample)
        hidden = read.targets @ rng.normal(size=(read.targets.shape[1], width))
        found[sample] = (hidden + rng.normal(0, 2, size=hidden.shape)).astype(np.float32)
        order = rng.permutation(len(hidden))
        path = folder / task / name / f"{sample}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["embeddings"], file["coords"] = found[sample][order], np.zeros((len(order), 2), np.int64)
            file["barcodes"] = read.barcodes[order].astype(object)[:, None]
    return found


def run(root, out, *more):
    main([f"--root={root}", f"--out={out}", *more])


def test_known_features_score_as_scikit_learns_pipeline_does(tmp_path):
    root = demo_hest_bench.write(tmp_path / "bench", spots=150, genes=GENES, size_px=8)
    features = write_features(root, tmp_path / "embeddings", "known", 280)
    options = (f"--features={tmp_path / 'embeddings'}", "--encoder=known", "--tasks=TINY_VISIUM", "--protocols=A1")
    run(root, tmp_path / "out", *options)
    task = hest_bench.open_task(root, "TINY_VISIUM")
    y = {name: hest_bench.read_sample(task, name).targets for name in task.patches}
    ridge = Ridge(alpha=100 / (COMPONENTS * GENES), fit_intercept=False, solver="lsqr", tol=1e-10)
    theirs = make_pipeline(StandardScaler(), PCA(COMPONENTS, svd_solver="full"), ridge)
    kfold = []
    for place, fold in enumerate(task.folds):
        x, target = (np.concatenate([of[name] for name in fold.train]).astype(np.float64) for of in (features, y))
        predicted = theirs.fit(x, target).predict(features[fold.test[0]].astype(np.float64))
        expected = metrics.pearson_per_gene(predicted, y[fold.test[0]])
        split = tmp_path / "out/hest/A1/TINY_VISIUM/known" / f"split{place}"
        results = json.loads((split / "summary.json").read_text())
        found = [each["pearson_corr"] for each in results["pearson_corrs"]]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert [each["name"] for each in results["pearson_corrs"]] == list(task.genes)
        assert (results["n_train"], results["n_test"]) == (300, 150)
        np.testing.assert_allclose(results["l2_errors"], np.mean((predicted - y[fold.test[0]]) ** 2, axis=0), rtol=1e-3)
        with np.load(split / "inference_dump.npz", allow_pickle=False) as dump:
            np.testing.assert_array_equal(dump["targets_all"], y[fold.test[0]])
            np.testing.assert_allclose(dump["preds_all"], predicted, atol=1e-3)
        kfold.append(results["pearson_mean"])
    whole = json.loads((tmp_path / "out/hest/A1/TINY_VISIUM/known/results_kfold.json").read_text())
    assert whole["mean_per_split"] == kfold
    assert whole["pearson_std"] == pytest.approx(np.std(kfold))
    means = [gene["mean"] for gene in whole["pearson_corrs"]]
    assert means == sorted(means, reverse=True)
    with (tmp_path / "out/hest/A1/dataset_results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["dataset"] == "TINY_VISIUM"
    assert float(row["known_mean"]) == pytest.approx(np.mean(kfold))


def test_a_run_that_was_stopped_goes_on_and_a_finished_one_makes_nothing_again(
    root, small_encoder, tmp_path, monkeypatch, capsys
):
    options = (f"--encoder={NAME}", f"--weights={NAME}={small_encoder}")
    run(root, tmp_path / "whole", *options)
    whole = capsys.readouterr().out.replace("whole", "out")

    def stopped(*given):
        if len(list((tmp_path / "out/scores").rglob("*.json"))) == 2:
            raise KeyboardInterrupt
        write(*given)

    write = hest_scores.write
    with monkeypatch.context() as patched:
        patched.setattr(hest_scores, "write", stopped)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            run(root, tmp_path / "out", *options)
    run(root, tmp_path / "out", *options)
    assert "A3 to score" in capsys.readouterr().out
    monkeypatch.setattr(Probe, "fit", None)
    monkeypatch.setattr(Maker, "_embed", None)
    run(root, tmp_path / "out", *options)
    again = capsys.readouterr().out
    assert again.count("features there; nothing to score") == 2
    assert again[again.index("Mean PCC") :] == whole[whole.index("Mean PCC") :]
    for name in ("table.md", "table.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.usefixtures("small_encoder")
def test_other_counts_are_scored_anew_and_other_weights_refused(root, tmp_path, capsys):
    options = (f"--encoder={NAME}", "--random", "--tasks=TINY_XENIUM", "--protocols=A1")
    run(root, tmp_path / "out", *options)
    first = pd.read_csv(tmp_path / "out/table.csv")
    other = demo_hest_bench.write(tmp_path / "other", spots=20, genes=GENES, size_px=32, seed=1)
    for path in (root / "TINY_XENIUM/adata").iterdir():
        shutil.copy(other / "TINY_XENIUM/adata" / path.name, path)
    capsys.readouterr()
    run(root, tmp_path / "out", *options)
    assert "features there; A1 to score" in capsys.readouterr().out
    assert (pd.read_csv(tmp_path / "out/table.csv")["pcc_pooled"] != first["pcc_pooled"]).all()
    with pytest.raises(InputError, match="made with another weights_sha256"):
        run(root, tmp_path / "out", *options, "--seed=1")


def test_a_gene_that_does_not_vary_is_counted_and_left_out(root, tmp_path, capsys):
    import anndata

    write_features(root, tmp_path / "embeddings", "known", 8)
    path = root / "TINY_VISIUM/adata/TINY1.h5ad"
    table = anndata.read_h5ad(path)
    matrix = table.X.toarray()
    matrix[:, list(table.var_names).index("GENE002")] = 0
    table.X = matrix
    table.write_h5ad(path)
    options = (f"--features={tmp_path / 'embeddings'}", "--encoder=known", "--tasks=TINY_VISIUM")
    run(root, tmp_path / "out", *options)
    assert "A1: 1 gene of folds does not vary and has no PCC" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/hest/A1/TINY_VISIUM/known/split0/results.json").read_text())
    values = [each["pearson_corr"] for each in results["pearson_corrs"]]
    assert values[2] is None
    assert results["pearson_mean"] == pytest.approx(np.mean([value for value in values if value is not None]))
    assert pd.read_csv(tmp_path / "out/table.csv")["genes_without_pcc"].tolist() == [1, 1, 1]


def test_pooled_and_within_samples_differ_where_samples_do(root, tmp_path):
    rows = pd.concat([pd.read_csv(root / f"TINY_VISIUM/splits/test_{place}.csv") for place in (0, 1)])
    for path in (root / "TINY_VISIUM/splits").glob("*_[12].csv"):
        path.unlink()
    rows.to_csv(root / "TINY_VISIUM/splits/test_0.csv", index=False)
    pd.read_csv(root / "TINY_VISIUM/splits/train_0.csv").iloc[1:].to_csv(root / "TINY_VISIUM/splits/train_0.csv")
    features = write_features(root, tmp_path / "embeddings", "known", 8)
    options = (f"--features={tmp_path / 'embeddings'}", "--encoder=known", "--tasks=TINY_VISIUM", "--protocols=A2")
    run(root, tmp_path / "out", *options)
    (row,) = pd.read_csv(tmp_path / "out/table.csv").to_dict("records")
    task = hest_bench.open_task(root, "TINY_VISIUM")
    y = {name: hest_bench.read_sample(task, name).targets for name in task.patches}
    x = features["TINY3"].astype(np.float64)
    fitted = Ridge(alpha=100 / (8 * GENES), fit_intercept=False, solver="svd").fit(x, y["TINY3"])
    pcc = [metrics.pearson_per_gene(fitted.predict(features[name]), y[name]).mean() for name in ("TINY1", "TINY2")]
    assert row["pcc_within_samples"] == pytest.approx(np.mean(pcc), abs=1e-6)
    assert abs(row["pcc_pooled"] - row["pcc_within_samples"]) > 1e-3


def remove_split(root):
    (root / "TINY_VISIUM/splits/test_1.csv").unlink()


def copy_sample(root):
    with (
        h5py.File(root / "TINY_VISIUM/patches/TINY2.h5") as one,
        h5py.File(root / "TINY_VISIUM/patches/TINY1.h5", "a") as other,
    ):
        other["img"][:] = one["img"][:][:, :, ::-1]


def add_gene(root):
    (root / "TINY_VISIUM" / hest_bench.GENES).write_text(json.dumps({"genes": ["GENE000", "ABSENT"]}))


def cut_patches(root):
    path = root / "TINY_VISIUM/patches/TINY1.h5"
    path.write_bytes(path.read_bytes()[:-20_000])


def remove_features(root):
    with h5py.File(root / "embeddings/TINY_VISIUM/known/TINY1.h5", "a") as file:
        names = file["barcodes"][:]
        names[0] = b"NOBODY-1"
        file["barcodes"][:] = names


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_split, r"test_1\.csv not found"),
        (copy_sample, "share 20 images"),
        (add_gene, "ABSENT"),
        (cut_patches, r"TINY1\.h5"),
        (remove_features, "1 of 20 patches have no features"),
    ],
)
def test_damaged_bundles_are_refused(root, tmp_path, damage, message):
    write_features(root, root / "embeddings", "known", 8)
    damage(root)
    options = (f"--features={root / 'embeddings'}", "--encoder=known", "--tasks=TINY_VISIUM")
    with pytest.raises(InputError, match=message) as refused:
        run(root, tmp_path / "out", *options)
    assert len(str(refused.value)) <= 500
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--encoder=uni_of_nobody",), "there is no encoder"),
        (("--encoder=uni",), "needs its weights"),
        (("--encoder=a,a", "--features=x"), "something twice"),
        (("--encoder=known", "--features=x", "--random"), "not for those of --features"),
        (("--encoder=known", "--features=x", "--protocols=A9"), "choose from A1, A2, A3"),
        (("--encoder=uni", "--weights=uni2_h=x.bin"), "--weights names uni2_h"),
        (("--encoder=known", "--features=x", "--tasks=NONE"), "NONE"),
    ],
)
def test_options_that_do_not_go_together_are_refused(root, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(root, tmp_path / "out", *options)


def test_a_task_called_luad_is_scored_as_lung_and_its_features_may_be_called_either(root, tmp_path):
    write_features(root, tmp_path / "embeddings", "known", 12, task="TINY_XENIUM")
    shutil.move(root / "TINY_XENIUM", root / "LUAD")
    for called in ("LUNG", "LUAD"):
        folder = tmp_path / called
        shutil.copytree(tmp_path / "embeddings/TINY_XENIUM", folder / called)
        out = tmp_path / f"out_{called}"
        run(root, out, f"--features={folder}", "--encoder=known", f"--tasks={called}", "--protocols=A2")
        assert pd.read_csv(out / "table.csv")["task"].tolist() == ["LUNG"]
