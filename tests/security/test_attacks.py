"""Folders that somebody prepared to write, delete or read elsewhere, to pass for what they are not, or to stop a
command: labs open each other's files. One test an attack, those that always failed among them."""

import csv
import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from data_prep import files, json_files
from data_prep.build import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import checkpoint, evaluate, export, intervals, manifest, model_card, outputs, predict, report, views
from stjax.inference.dense_map import DenseMap
from stjax.inference.model_folder import REQUIRED
from stjax.inference.records import Record
from stjax.progress import Progress
from stjax.reporting import page, read
from stjax.tables import quoted, unquoted, write_csv
from stjax.workdir import Run
from tests.data_prep.tiny_source import write_source
from tests.fuzz.make_run import ARCHIVE
from tests.inference.test_dense import ramps
from tests.mutated_json import mutants, refusal, reseal
from tests.report.made_run import make_run

OF = {"model_sha256": "m"}


# -------------------------------------------------------------------------------- writing and deleting elsewhere


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside the folder that commands write into."""
    path = tmp_path / "victim.txt"
    path.write_text("mine")
    return path


def plant(out: Path, name: str, target: Path) -> None:
    """A record as `predict` writes it, which names a file elsewhere as its own."""
    out.mkdir(exist_ok=True)
    record = {"format": "stjax-prediction", "version": 1, "of": {"model_sha256": "other"}}
    record["files"] = {"csv": {name: files.sha256(target)}}
    json_files.write(out / "S1.prediction.json", record)


@pytest.mark.parametrize("name", ["../victim.txt", "{absolute}", "S1/../../victim.txt", "S1.link"])
def test_a_planted_record_deletes_nothing_elsewhere(tmp_path: Path, victim: Path, name: str) -> None:
    out = tmp_path / "out"
    plant(out, name.format(absolute=victim), victim)
    (out / "S1.link").symlink_to(victim)
    Record(out, "S1", OF, overwrite=True)
    assert victim.read_text() == "mine"
    assert (out / "S1.link").is_symlink()


def test_a_planted_record_deletes_nothing_of_another_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "S1.csv").write_text("predicted")
    plant(out, "notes.txt", out / "notes.txt")
    Record(out, "S1", OF, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    plant(out, "S1.csv", out / "S1.csv")
    Record(out, "S1", OF, overwrite=True)
    assert not (out / "S1.csv").exists()  # what is the record's own goes


@pytest.mark.parametrize("name", ["report.html", "report.html.tmp", ".report.html.lock"])
def test_a_report_does_not_write_through_a_planted_link(tmp_path: Path, victim: Path, name: str) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(victim)
    refusal(name, lambda: report.report([run], out / "report.html"))
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["../../victim", "..", "/etc/hostname", "a\0b"])
def test_a_report_reads_sections_from_its_own_folder_alone(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run")
    path = run / "evaluation" / "stjax" / "metrics.json"
    metrics = json.loads(path.read_text())
    json_files.write(path, metrics | {"sections": [name]})
    with pytest.raises(InputError, match=r"sections\[0\] is .*expected a name"):
        report.report([run], tmp_path / "report.html")
    json_files.write(path, metrics)
    reseal(run / "data.json", lambda data: data.update(protocol="../../run/evaluation/stjax"))
    with pytest.raises(InputError, match=r"protocol is .*expected a name"):
        report.report([run], tmp_path / "report.html")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    return build(write_source(root / "source"), root / "out", patch_size_px=96, min_counts=10).parent


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "dataset"))


@pytest.mark.parametrize("key", ["table", "thumbnail", "shards"])
def test_a_data_set_names_files_of_its_own_folder_alone(dataset: Path, victim: Path, key: str) -> None:
    def change(content: dict[str, Any]) -> None:
        outside = {"file": "../victim.txt", "bytes": 4, "sha256": files.sha256(victim), "records": 0}
        content["sections"][0][key] = {"table": outside, "shards": [outside], "thumbnail": "../victim.txt"}[key]

    reseal(dataset / "manifest.json", change)
    with pytest.raises(InputError, match=r"is '../victim.txt', expected a path inside the folder"):
        PatchDataset.open(dataset)


def test_genes_of_any_name_make_a_file_name(tmp_path: Path) -> None:
    for gene in ("../../x", "a/b", "G" * 300, "é" * 100, "a\0b", ".."):
        name = f"{'s' * files.MAX_NAME_BYTES}_{outputs.file_name(gene)}.png"
        assert not any(letter in name for letter in "/\0")
        files.write_text(tmp_path / name, "")
    assert outputs.file_name("HLA-DRB1") == "HLA-DRB1"
    assert outputs.file_name("G" * 300) != outputs.file_name("G" * 301)


# ---------------------------------------------------------------------------------------------------- two writers


def fake_run(*_: Any, **__: Any) -> Any:
    return SimpleNamespace(progress=Progress(finished=True))


def test_a_second_export_into_a_folder_waits_for_nothing_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, refused = tmp_path / "model", []

    def write(_: Any, folder: Path) -> None:
        for name in [*REQUIRED, "MODEL_CARD.md"]:
            (folder / name).write_text(name)
        refused.append(refusal("second", lambda: export.export(tmp_path, out)) if not refused else "")

    monkeypatch.setattr(export, "_to_export", fake_run)
    monkeypatch.setattr(export, "write", write)
    monkeypatch.setattr(model_card, "for_the_hub", lambda *_: "a page")
    export.export(tmp_path, out)
    assert "another process is writing" in refused[0]
    assert {path.name for path in out.iterdir()} == {*REQUIRED, "MODEL_CARD.md", "README.md", "manifest.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    manifest.verify(out, what="model folder", others=True, required=REQUIRED)


def test_one_process_at_a_time_writes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "report.html"
    build_page, said = page.build, []

    def meanwhile(*given: Any, **options: Any) -> str:
        said.append(refusal("second", lambda: report.report([run], out)))
        return build_page(*given, **options)

    monkeypatch.setattr(page, "build", meanwhile)
    report.report([run], out)
    assert "another process is writing" in said[0]
    assert out.is_file()
    assert not list(tmp_path.glob(".*"))


def test_one_process_at_a_time_predicts_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {field.name: None for field in dataclasses.fields(predict.SectionWriter)}
    given["out"] = tmp_path / "out"
    job, said = predict.SectionWriter(**given), []
    source: Any = SimpleNamespace(read=lambda name: name, bare=False)

    def meanwhile(_job: predict.SectionWriter, _section: Any, name: str, *_: Any) -> list[Path]:
        if name == "A1":
            said.append(refusal("second", lambda: job.run(source, "A1")))
            job.run(source, "A2")  # another section may
        return []

    monkeypatch.setattr(predict.SectionWriter, "write_section", meanwhile)
    job.run(source, "A1")
    assert "another process is predicting A1 into" in said[0]
    assert not list((tmp_path / "out").iterdir())


def test_one_process_at_a_time_scores_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(fold=SimpleNamespace(protocol="stjax"), view=views.get("patches"))
    monkeypatch.setattr(evaluate.workdir.Run, "load", lambda _folder: run)
    monkeypatch.setattr(evaluate.Request, "of", lambda *_, **__: SimpleNamespace(target=tmp_path / "evaluation"))
    said = []

    def meanwhile(*_: Any, **__: Any) -> dict[str, Any]:
        said.append(refusal("second", lambda: evaluate.evaluate(tmp_path)))
        return {}

    monkeypatch.setattr(evaluate, "score", meanwhile)
    evaluate.evaluate(tmp_path)
    assert "another process is scoring into" in said[0]
    assert not list((tmp_path / "evaluation").iterdir())


@pytest.mark.parametrize("lacking", REQUIRED)
def test_a_model_is_not_sealed_nor_loaded_without_a_file_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def write(_: Any, folder: Path) -> None:
        for name in set(REQUIRED) - {lacking}:
            (folder / name).write_text(name)

    monkeypatch.setattr(export, "_to_export", fake_run)
    monkeypatch.setattr(export, "write", write)
    with pytest.raises(InputError, match=f"{lacking} was not written"):
        export.export(tmp_path, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    write(None, tmp_path)
    manifest.seal(tmp_path, {})
    with pytest.raises(InputError, match=f"is not whole: it was sealed without {lacking}"):
        manifest.verify(tmp_path, what="model folder", required=REQUIRED)


# ---------------------------------------------------------------------------------------------------------- seals


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Of a run whose settings and data are there."""
    run = tmp_path / "run"
    run.mkdir()
    for name in checkpoint.RUN_FILES:
        json_files.write(run / name, json_files.sealed({"seed": 1}))
    schedule = {"scale": 1.0, "best_loss": None, "epochs_without_gain": 0, "epochs_at_scale": 0}
    meta = {"step": 1, "best_step": 1, "finished": True, "schedule": schedule}
    checkpoint.save(run / "checkpoints", 1, {"w": jnp.arange(4.0)}, meta)
    return run / "checkpoints"


@pytest.mark.parametrize("name", checkpoint.RUN_FILES)
def test_a_checkpoint_does_not_pass_under_the_settings_or_data_of_another_run(checkpoints: Path, name: str) -> None:
    checkpoint.check_of(checkpoints, 1)
    json_files.write(checkpoints.parent / name, json_files.sealed({"seed": 2}))  # sound in itself
    with pytest.raises(InputError, match=f"{name} is not the one that .* was trained with; restore it"):
        checkpoint.check_of(checkpoints, 1)
    (checkpoints.parent / name).unlink()
    with pytest.raises(InputError, match=f"{name} is not the one"):
        checkpoint.check_of(checkpoints, 1)


def test_a_report_refuses_edited_settings_and_data(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name, before, after in (("config.json", '"b0"', '"b5"'), ("data.json", '"T1"', '"T2"')):
        text = (run / name).read_text()
        assert before in text
        (run / name).write_text(text.replace(before, after))
        with pytest.raises(InputError, match=f"{name}: has changed since it was written"):
            report.report([run], tmp_path / "report.html")
        (run / name).write_text(text)


@pytest.mark.parametrize("name", [*checkpoint.RUN_FILES, intervals.FILE])
def test_a_run_whose_files_lack_their_hash_is_refused(tmp_path: Path, name: str) -> None:
    """As it would be for an edit to pass for what an older version wrote."""
    shutil.unpack_archive(ARCHIVE, tmp_path)
    (tmp_path / name).write_text((tmp_path / name).read_text().replace('"sha256":', '"sha257":'))
    with pytest.raises(InputError, match=f"{name}: has no hash of itself"):
        assert Run.load(tmp_path).intervals


# ------------------------------------------------------------------------------------------ any JSON in its place


def test_any_resealed_checkpoint_is_read_or_refused(checkpoints: Path) -> None:
    path = checkpoints / "1" / checkpoint.MANIFEST
    content = json.loads(path.read_text())
    del content["sha256"]
    template = {"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=jnp.zeros(4).sharding)}
    for number, (what, mutant) in enumerate(mutants(content)):
        path.write_text(json.dumps(json_files.sealed(mutant), indent=1))
        refused = refusal(what, lambda: (checkpoint.newest(checkpoints), checkpoint.check_of(checkpoints, 1)))
        if not refused and number % 25 == 0:
            refusal(what, lambda: checkpoint.restore(checkpoints, 1, template))


def test_a_checkpoint_of_other_arrays_is_refused_in_one_line(checkpoints: Path) -> None:
    path = checkpoints / "1"
    template = {"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=jnp.zeros(4).sharding)}
    for file in sorted((path / "state").rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            file.write_bytes(data[: len(data) // 2])
            content = json.loads((path / checkpoint.MANIFEST).read_text())
            manifest.seal(path, {key: content[key] for key in ("step", "meta", "of")})
            refusal(str(file), lambda: checkpoint.restore(checkpoints, 1, template))
            file.write_bytes(data)


def test_any_record_of_predictions_is_read_or_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "S1.csv").write_text("1")
    Record(tmp_path, "S1", OF, overwrite=False).add("csv", ["S1.csv"])
    path = tmp_path / "S1.prediction.json"
    for what, mutant in mutants(json.loads(path.read_text())):
        json_files.write(path, mutant)
        refusal(what, lambda: Record(tmp_path, "S1", OF, overwrite=False).lacks(["csv"]))


@pytest.mark.parametrize(("name", "stop"), [("zarr.json", None), ("0/zarr.json", None), ("progress.json", 3)])
def test_any_dense_map_is_read_or_refused(tmp_path: Path, name: str, stop: int | None) -> None:
    path = ramps(tmp_path / "map", stop=stop)
    text = (path / name).read_text()
    for what, mutant in mutants(json.loads(text)):
        (path / name).write_text(json.dumps(mutant))
        refusal(what, lambda: DenseMap.open(path))
        if stop is not None:
            refusal(what, lambda: ramps(path, stop=stop))
        (path / name).write_text(text)


def test_any_metrics_make_a_report_or_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spots=9)
    path = run / "evaluation" / "stjax" / "metrics.json"
    for number, (what, mutant) in enumerate(mutants(json.loads(path.read_text()))):
        path.write_text(json.dumps(mutant))
        if number % 20 == 0:
            refusal(what, lambda: report.report([run], tmp_path / "report.html"))
        elif number % 4 == 0:
            refusal(what, lambda: read.read_runs([run]))


# ---------------------------------------------------------------------------------------------- code in data, text


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_a_pickle_in_a_table_is_never_executed(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = json.loads((dataset / "manifest.json").read_text())["sections"][0]
    table = dataset / entry["table"]["file"]
    with np.load(table) as file:
        arrays = dict(file)
    np.savez(table, **arrays | {"spot_id": np.array([Bomb()] * len(arrays["spot_id"]), object)})
    assert b"exploded" in table.read_bytes()

    def change(content: dict[str, Any]) -> None:
        of = content["sections"][0]["table"]
        of |= {"bytes": table.stat().st_size, "sha256": files.sha256(table)}

    reseal(dataset / "manifest.json", change)
    with pytest.raises((InputError, ValueError)):
        PatchDataset.open(dataset, verify=True).table(entry["name"])
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "exploded").exists()  # it would have


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\r=1", "'=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_in_a_table_is_no_formula_and_numbers_are_untouched(tmp_path: Path, text: str) -> None:
    table = pd.DataFrame({"gene": [text, "ERBB2"], "pcc": [-0.5, np.nan], text: [-1, 2], "sure": [True, False]})
    write_csv(tmp_path / "a.csv", table)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert not any(cell.startswith(tuple("=+@\t\r")) for row in rows for cell in row)
    assert rows[2] == ["ERBB2", "", "2", "False"]
    found = pd.read_csv(tmp_path / "a.csv")
    assert found["pcc"][0] == -0.5
    assert found["gene"][0] == "'" + text.replace("\r", "")
    assert unquoted(quoted(text)) == text.replace("\r", "")
    assert table.columns[2] == text  # the caller's own is as it was


def test_an_ordinary_table_is_as_pandas_writes_it(tmp_path: Path) -> None:
    table = pd.DataFrame({"gene": ["A", "B"], "id": ["", "ENSG1"], "pcc": [0.1, np.nan], "n": [1, -2]})
    table.to_csv(tmp_path / "plain.csv", index=False, float_format="%.7g")
    write_csv(tmp_path / "ours.csv", table, float_format="%.7g")
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
