import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from data_prep import build, demo
from data_prep.errors import InputError
from stjax import evaluate, predict, train
from stjax.config import built_in
from tests.conftest import command


def test_training_prints_where_its_results_are_and_they_are_there(trained):
    folder, output = trained
    assert "SYNTHETIC" in output
    assert "177,063 parameters" in output
    printed = [line for line in output.splitlines() if line.startswith(str(folder))]
    assert [line.rsplit(".", 1)[1] for line in printed[:2]] == ["json", "csv"]
    assert output.rstrip().endswith(printed[-1])
    for path in printed:
        assert Path(path).stat().st_size


def test_metrics_name_their_rules_and_stand_beside_the_baselines(trained):
    folder, _ = trained
    result = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())
    assert list(result["methods"]) == [
        "model", "ridge_colour", "total_counts", "mean", "nearest_measured"
    ]  # fmt: skip
    assert result["uses_test_expression"] == ["total_counts", "nearest_measured"]
    assert result["synthetic"] is True
    assert len(result["protocol_sha256"]) == len(result["data_sha256"]) == 64
    assert result["patients_also_in_training"] == []
    assert result["methods"]["mean"]["genes_without_pcc"] == 250
    assert result["methods"]["ridge_colour"]["pcc_median"] > 0.2  # the demo's signal is there to be learnt
    genes = pd.read_csv(folder / "evaluation" / "stjax" / "per_gene.csv")
    assert list(genes.columns[:6]) == ["gene", "ensembl_id", "pcc", "mae", "rmse", "mean_expression"]
    assert len(genes) == 250
    assert genes["pcc"].median() == pytest.approx(result["methods"]["model"]["pcc_median"])
    for method in ("ridge_colour", "nearest_measured"):
        assert genes[f"pcc_{method}"].median() == pytest.approx(result["methods"][method]["pcc_median"])


def test_figures_have_intervals_and_raw_and_normalised_targets_stand_side_by_side(trained):
    folder, _ = trained
    result = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())
    assert (result["level"], result["resampled"], result["bootstraps"]) == (0.9, "spatial_blocks", 1000)
    for name, summary in result["methods"].items():
        for figure, ends in summary["intervals"].items():
            assert (ends is None) == (summary[figure] is None or (name == "mean" and "pcc" in figure))
            assert ends is None or ends[0] <= summary[figure] <= ends[1]
    genes = pd.read_csv(folder / "evaluation" / "stjax" / "per_gene.csv")
    assert (genes["pcc_low"] <= genes["pcc"]).all()
    assert (genes["pcc"] <= genes["pcc_high"]).all()
    for figure in ("spearman", "ssim", "pcc_smoothed"):
        assert genes[figure].median() == pytest.approx(result["methods"]["model"][f"{figure}_median"])
    assert result["targets"]["library"]["methods"] == result["methods"]  # what the model was trained for
    raw = result["targets"]["raw"]["methods"]
    assert raw["total_counts"]["pcc_median"] > 0.5  # raw counts say mostly how deep a spot is
    assert raw["model"]["amae"] is None  # its units need the spot's total, which is not for it to know
    assert raw["ridge_colour"]["amae"] > 0
    ours, theirs = (result["methods"][name]["pcc_median"] for name in ("model", "ridge_colour"))
    difference = result["model_minus"]["ridge_colour"]["pcc_median"]
    assert difference["difference"] == pytest.approx(ours - theirs)
    assert difference["interval"][0] < ours - theirs < difference["interval"][1]


def test_predictions_open_and_score_as_the_metrics_say(trained):
    folder, _ = trained
    sections = [anndata.read_h5ad(path) for path in sorted((folder / "predictions").glob("*.h5ad"))]
    assert len(sections) == 2
    genes = pd.read_csv(folder / "evaluation" / "stjax" / "per_gene.csv")
    predicted, truth = (
        np.concatenate(arrays) for arrays in ([s.X for s in sections], [s.layers["truth"] for s in sections])
    )
    gene = int(genes["pcc"].argmax())
    assert np.corrcoef(predicted[:, gene], truth[:, gene])[0, 1] == pytest.approx(genes["pcc"][gene], abs=1e-4)
    assert list(sections[0].var_names) == list(genes["gene"])
    assert sections[0].uns["stjax"]["units"] == "stjax: log1p_library"
    assert sections[0].obsm["spatial"].min() > 0


def test_a_second_run_says_it_is_finished_and_overwrites_no_checkpoint(trained, cache):
    folder, _ = trained
    before = {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")}
    result = command("stjax.train", "--config=configs/tiny.py", f"--workdir={folder}", cache=cache)
    assert "is finished" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")} == before


def test_the_log_has_every_step_once_and_finite(trained):
    folder, _ = trained
    entries = [json.loads(line) for line in (folder / "logs" / "train.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in entries if entry["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert all(
        np.isfinite(entry["loss"]) and entry["learning_rate"] > 0 for entry in entries if entry["kind"] == "train"
    )
    assert [entry["epoch"] for entry in entries if entry["kind"] == "epoch"] == [1, 2]
    assert any((folder / "logs" / "tensorboard").iterdir())


def test_evaluate_again_gives_the_same_figures(trained, capsys):
    folder, _ = trained
    before = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())
    after = evaluate.evaluate(folder)
    for method, summary in before["methods"].items():
        for key, value in summary.items():
            if key != "intervals":
                assert after["methods"][method][key] == pytest.approx(value, abs=1e-3), (method, key)
    assert "held-out sections" in capsys.readouterr().out


def test_scoring_training_sections_says_so_and_leaves_the_held_out_result_alone(trained, capsys):
    folder, _ = trained
    path = folder / "evaluation" / "stjax" / "metrics.json"
    before = path.read_bytes()
    section = json.loads((folder / "data.json").read_text())["split"]["train"][0]
    result = evaluate.evaluate(folder, evaluate.Options(sections=(section,)))
    assert result["part"] == "TRAINING"
    assert result["patients_also_in_training"] == ["B"]
    assert "TRAINING sections" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_a_data_set_made_another_way_is_not_scored(trained, tmp_path):
    folder, _ = trained
    source = demo.make_demo(tmp_path / "source", patients=1, sections_per_patient=1, spots=12)
    build.build(source, tmp_path / "stained", patch_size_px=32, stain="macenko", stain_target="A1")
    build.build(source, tmp_path / "scaled", patch_size_px=32, um_per_px=2.8)
    with pytest.raises(InputError, match="--stain macenko"):
        evaluate.evaluate(folder, evaluate.Options(data_dir=str(tmp_path / "stained")))
    with pytest.raises(InputError, match=r"--target-um-per-px 1\.400"):
        evaluate.evaluate(folder, evaluate.Options(data_dir=str(tmp_path / "scaled")))


def test_predict_opens_a_raw_section_and_writes_the_genes_asked_for(trained, source, cache, tmp_path):
    folder, _ = trained
    genes = pd.read_csv(folder / "evaluation" / "stjax" / "per_gene.csv")["gene"][:2]
    result = command(
        "stjax.predict", f"--workdir={folder}", f"--source={source}", f"--out={tmp_path}",
        f"--genes={','.join(genes)}", cache=cache,
    )  # fmt: skip
    path = next(tmp_path.glob("*.h5ad"))
    assert str(path) in result.stdout
    section = anndata.read_h5ad(path)
    assert list(section.var_names) == list(genes)
    assert np.isfinite(section.X).all()
    assert section.layers["truth"].shape == section.X.shape
    assert next(tmp_path.glob("*.png")).stat().st_size > 10_000


def test_prediction_from_the_raw_section_equals_the_one_from_its_records(trained, cache, tmp_path):
    folder, _ = trained
    name = json.loads((folder / "data.json").read_text())["split"]["test"][0]
    source = demo.make_demo(tmp_path / "source", patients=3)  # the recipe of the tiny demo data set
    command(
        "stjax.predict", f"--workdir={folder}", f"--source={source}", f"--out={tmp_path / 'out'}", f"--sections={name}",
        cache=cache,
    )  # fmt: skip
    raw = anndata.read_h5ad(tmp_path / "out" / f"{name}.h5ad")
    prepared = anndata.read_h5ad(folder / "predictions" / f"{name}.h5ad")
    raw = raw[prepared.obs_names]
    np.testing.assert_allclose(raw.layers["truth"], prepared.layers["truth"], atol=1e-5)
    # The records hold JPEG: the pictures differ by its rounding, the predictions hardly.
    assert np.abs(raw.X - prepared.X).mean() < 0.05 * prepared.X.std()
    assert raw.uns["stjax"]["interval_level"] == 0.9
    own, theirs = (section.uns["stjax"]["interval_factor"] for section in (raw, prepared))
    assert own == pytest.approx(theirs, rel=0.02)  # JPEG is of nearly the same colours
    for section in (raw, prepared):  # the same intervals, around one's own prediction
        half_width = (section.layers["upper"] - section.layers["lower"]) / 2
        half_width *= theirs / section.uns["stjax"]["interval_factor"]
        np.testing.assert_allclose(half_width, np.broadcast_to(half_width[0], half_width.shape), atol=1e-5)
        np.testing.assert_allclose((section.layers["upper"] + section.layers["lower"]) / 2, section.X, atol=1e-5)
        np.testing.assert_allclose(half_width[0], (prepared.layers["upper"] - prepared.X)[0], atol=1e-5)


def test_raw_sections_are_stain_normalised_as_the_training_slides_were(tmp_path):
    source = demo.make_demo(tmp_path / "source", patients=2, sections_per_patient=1, spots=40)
    data = tmp_path / "data"
    build.build(source, data, patch_size_px=32, stain="macenko", stain_target="A1", image_format="raw")
    config = built_in("tiny")
    config.update({"data_dir": str(data), "num_epochs": 1, "batch_size": 16})
    train.train(config, tmp_path / "run")
    predict.predict(tmp_path / "run", source, tmp_path / "out", sections=["B1"])
    raw, prepared = (
        anndata.read_h5ad(folder / "B1.h5ad") for folder in (tmp_path / "out", tmp_path / "run/predictions")
    )
    np.testing.assert_allclose(raw[prepared.obs_names].X, prepared.X, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("protocol", ["brstnet_paper", pytest.param("brstnet_code", marks=pytest.mark.slow)])
def test_the_published_protocols_train_and_evaluate(protocol, dataset, tmp_path, capsys):
    config = built_in("tiny")
    config.update(
        {"data_dir": str(dataset), "protocol": protocol, "num_epochs": 1, "model": {"aux": protocol == "brstnet_code"}}
    )
    train.train(config, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "evaluation" / protocol / "metrics.json").read_text())
    assert (result["protocol"], result["target"]) == (protocol, "log1p_counts")
    assert f"protocol {protocol}" in capsys.readouterr().out
