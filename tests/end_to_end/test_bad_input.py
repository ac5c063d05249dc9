"""Bad input ends with one clear line and exit code 2, never a traceback; nothing half-written is taken for whole."""

import dataclasses
import importlib
import json
import shutil
import sys
import types

import numpy as np
import pytest

from data_prep import cli, json_files
from data_prep.errors import InputError
from stjax import cli as stjax_cli
from stjax import config as configs
from stjax import evaluate, predict, protocols, train, workdir
from stjax.config import built_in
from stjax.data.fit import fit
from stjax.training import job
from tests.conftest import command


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Runs a command line in this process; returns its exit code, standard output and error."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        try:
            cli.run(importlib.import_module(module).main)
        except SystemExit as ended:
            return ended.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def test_a_program_ends_with_code_2_and_no_traceback(cache):
    result = command("stjax.evaluate", "--workdir=nowhere", cache=cache, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: nowhere is not a stjax run directory")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("stjax.train", ["--config=configs/tiny.py", "--config.num_epoch=3"], "did you mean 'num_epochs'"),
        ("stjax.train", ["--config=configs/none.py"], "configs/none.py does not exist"),
        ("stjax.train", ["--workdir=x"], "no config is given"),
        ("stjax.train", ["--config=configs/tiny.py", "--config.num_epochs=three"], "three"),
        ("stjax.train", ["--config=configs/tiny.py", "--config.data_dir=nowhere"], "nowhere"),
        ("stjax.evaluate", ["--workdir=nowhere"], "nowhere is not a stjax run directory"),
        ("stjax.predict", ["--workdir=nowhere", "--source=.", "--out=x"], "nowhere is not a stjax run directory"),
        ("data_prep.build", ["--source=nowhere", "--out=x"], "nowhere"),
    ],
)
def test_command_lines_say_what_is_wrong_in_one_line(module, arguments, message, run_main):
    code, _, errors = run_main(module, *arguments)
    assert code == 2
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("module", [module for module, _ in stjax_cli.COMMANDS.values() if module != "stjax.cli"])
def test_help_shows_examples(module, run_main):
    code, printed, _ = run_main(module, "--help")
    assert code == 0
    assert "examples:" in printed
    assert f"python -m {module} " in printed


def demo_config(dataset, **values):
    config = built_in("tiny")
    config.update({"data_dir": str(dataset), "batch_size": 16, "num_epochs": 1, **values})
    return config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protocol": "hest2"}, "protocol 'hest2' is not known"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"aux_weight": -1.0}, "aux_weight is -1.0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"init_from": "none.safetensors"}, "none.safetensors"),
        ({"optimizer": "lion"}, "config.optimizer is 'lion'"),
        ({"schedule": "step"}, "config.schedule is 'step'"),
        ({"fold": 9}, "fold is 9"),
        ({"test_sections": "Z1"}, "test_sections names Z1"),
        ({"model": {"module": "resnext"}}, "config.model.module is 'resnext'"),
        ({"model": {"variant": "b9"}}, "config.model.variant is 'b9'"),
        ({"model": {"dtype": "float8"}}, "config.model.dtype is 'float8'"),
    ],
)
def test_train_refuses_values_that_cannot_be(values, message, dataset, tmp_path):
    with pytest.raises(InputError, match=message):
        train.train(demo_config(dataset, **values), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()  # the corrected command may use the same folder


def test_a_work_directory_of_another_model_is_refused_and_left_alone(trained):
    folder, _ = trained
    before = (folder / "config.json").read_bytes()
    config = built_in("tiny")
    config.model.variant = "b1"
    with pytest.raises(InputError, match=r"holds another run: model.variant was 'tiny', is 'b1'"):
        train.train(config, folder)
    assert (folder / "config.json").read_bytes() == before


def test_other_data_are_named_before_other_settings(trained, dataset, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"synthetic": true', '"synthetic":  true'))
    config = built_in("tiny")
    config.data_dir = str(copy)  # not the demo's: its own recipe holds
    with pytest.raises(InputError, match=r"its data set was the built-in demo data, is .*data; batch_size was 16, is"):
        train.train(config, trained[0])
    before = built_in("tiny")
    before.data_dir, config = str(dataset), built_in("tiny")
    assert job.other_data(before, config, trained[0]) == f"its data set was {dataset}, is the built-in demo data"
    assert not job.other_data(before, before, trained[0])
    assert not job.other_data(config, config, trained[0])


def test_validation_without_a_spot_is_refused_before_training(dataset, tmp_path):
    protocol = dataclasses.replace(protocols.stjax, max_white_fraction=0.0, white_filter_scope="all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "get_protocol", lambda _: protocol)
        patch.setattr(job, "fit", lambda view, _, *rest, **sizes: fit(view, protocols.stjax, *rest, **sizes))
        with pytest.raises(InputError, match=r"uses none of the .* spots of .*, the val sections: 0 have fewer"):
            train.train(demo_config(dataset), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_folder_in_use_by_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="in use by something else"):
        train.train(demo_config("unread"), tmp_path)


def test_two_processes_do_not_train_in_one_folder(dataset, tmp_path):
    with workdir.locked(tmp_path / "run"), pytest.raises(InputError, match="another process is training"):
        train.train(demo_config(dataset), tmp_path / "run")


def test_a_run_under_rules_that_have_changed_is_not_resumed_or_scored(trained, monkeypatch):
    folder, _ = trained
    changed = dataclasses.replace(protocols.get_protocol("stjax"), min_counts=7)
    monkeypatch.setattr(workdir, "get_protocol", lambda _: changed)
    with pytest.raises(InputError, match="other rules than protocol stjax now has"):
        evaluate.evaluate(folder)
    with pytest.raises(InputError, match="other rules than protocol stjax now has"):
        workdir.checked_protocol(workdir.load_fold(folder), folder)


@pytest.mark.parametrize(("before", "after"), [('"seed": 0', '"seed": 1'), ('"synthetic": true', '"synthetic": false')])
def test_edited_settings_or_data_are_refused(trained, tmp_path, before, after):
    copy = tmp_path / "run"
    shutil.copytree(trained[0], copy)
    edited = copy / ("config.json" if "seed" in before else "data.json")
    text = edited.read_text()
    assert before in text
    edited.write_text(text.replace(before, after))
    with pytest.raises(InputError, match=f"{edited.name}: has changed since it was written"):
        evaluate.evaluate(copy)
    values = json.loads(edited.read_text())
    del values["sha256"]
    edited.write_text(json.dumps(json_files.sealed(values)))  # sound in itself, but not what was trained with
    with pytest.raises(InputError, match=f"{edited.name} is not the one that .* was trained with; restore it"):
        evaluate.evaluate(copy)


def test_a_data_set_without_manifest_is_no_data_set(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json"):
        train.train(demo_config(copy), tmp_path / "run")


def test_a_truncated_shard_is_found_before_training(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = next(copy.rglob("*array_record*"))
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(InputError, match=shard.name.split("-")[1][:4]):
        train.train(demo_config(copy), tmp_path / "run")


def test_evaluate_refuses_a_changed_data_set(trained, monkeypatch):
    other = types.SimpleNamespace(content_hash="0" * 64)
    monkeypatch.setattr(workdir.PatchDataset, "open", lambda *_, **__: other)
    with pytest.raises(InputError, match="has changed since this run was trained"):
        evaluate.evaluate(trained[0])


def test_evaluate_refuses_unknown_sections_and_foreign_protocols(trained):
    folder, _ = trained
    with pytest.raises(InputError, match="--sections names Q9"):
        evaluate.evaluate(folder, evaluate.Options(sections=("Q9",)))
    with pytest.raises(InputError, match="trained under protocol stjax; give --protocol=all"):
        evaluate.evaluate(folder, evaluate.Options(protocol="brstnet_paper"))


def test_evaluate_refuses_options_of_tiles_for_a_model_of_patches(trained):
    for options in ({"max_spots": 50}, {"sizes_um": (8.0,)}, {"beside": trained[0]}):
        with pytest.raises(InputError, match="--spot-size-um, --max-spots and --beside are for models of tiles"):
            evaluate.evaluate(trained[0], evaluate.Options(**options))


def test_results_of_other_options_are_not_the_runs_own(trained):
    run = workdir.Run.load(trained[0])
    own = evaluate.Request.of(run, evaluate.Options())
    assert own.own
    assert own.target == trained[0] / "evaluation" / "stjax"
    changes = [
        {"sections": ("A1",)},
        {"data_dir": run.fold.data_dir},
        *({"max_spots": 5}, {"beside": trained[0]}, {"symmetries": True}),
        {"max_spots": 6},
    ]
    others = [evaluate.Request.of(run, evaluate.Options(**change)) for change in changes]
    assert not any(each.own for each in others)
    assert len({each.target for each in (own, *others)}) == 1 + len(changes)
    assert others[2].differs == ("--max-spots",)


def test_evaluate_refuses_damaged_checkpoints(trained, tmp_path):
    folder, _ = trained
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            damaged = bytearray(path.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            path.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match="no sound checkpoint"):
        evaluate.evaluate(copy)


def test_predict_offers_the_nearest_names_of_an_unknown_gene(trained, source, tmp_path):
    folder, _ = trained
    with pytest.raises(InputError, match=r"does not predict gene 'ACTBB'; nearest names: .*ACTB"):
        predict.predict(folder, source, tmp_path, options=predict.Options(genes=["ACTBB"]))


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_spots(dataset, tmp_path):
    config = demo_config(
        dataset, optimizer="sgd", learning_rate=1e30, schedule="constant", num_epochs=3, log_every_steps=1
    )
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"at step \d+; its batch holds B"):
        train.train(config, tmp_path / "run")
    configs.load(tmp_path / "run" / "config.json")
