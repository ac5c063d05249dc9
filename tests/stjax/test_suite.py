"""Suites: what they count, how runs are carried out, gone on with and left alone, and what their tables say."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data_prep import files
from data_prep.errors import InputError
from stjax import metrics, suite, suites
from stjax.processes import Ended, Pool
from stjax.reporting import read
from stjax.reporting.together import mean_pcc, of_patients, together
from stjax.suites import (
    Command,
    Data,
    Embedding,
    Figure,
    Options,
    Run,
    Suite,
    _footnotes,
    _sizes,
    _state,
    _table,
    comparators,
    her2st,
    pixnet_v1,
)
from tests.conftest import ROOT


def counts(name, **options):
    found = suites.load(name, Options(ROOT / "nowhere", **options))
    assert len({run.name for run in found.runs}) == len(found.runs)
    trainings = Counter()
    for run in found.runs:
        trainings[run.part] += run.trainings
    assert all(any(title.startswith(part) for title in found.figures) for part in trainings)
    assert all(part == "" or part in found.figures for part in (*found.quoted, *found.notes))
    return trainings


def test_suites_have_the_trainings_of_the_papers():
    assert counts("brstnet") == {"Tables 1, 2, S1": 100, "Final fits": 20}
    found = counts("pixnet-v1")
    assert (found["Table 1, STNet"], found["Table 1, HD breast"], found["Table 1, HD brain"]) == (32, 16, 16)
    assert (found["Table 2"], found["Table 3"], found["Fig. 4"]) == (8, 8, 6)
    found = counts("pixnet-v4")
    ours = Counter(run.part for run in suites.load("pixnet_v4", Options(ROOT)).runs if run.row == pixnet_v1.OVER_UNI2)
    published = found - ours
    assert [published["Table 1, HD breast"], published["Table 1, HD brain"]] == [14 * 2] * 2  # models x slides
    assert [published["Table 2, STNet"], published["Table 2, her2st"]] == [14 * 4, 14 * 8]  # models x folds
    assert published["Table 5"] == 7 + 2 + 1  # the rivals of version 1, iStar and MERGE, PixNet
    ablations = {"Table 3": 3 * 2, "Table 4": 2 * 2, "Table 6": 4 * 2, "Fig. 4": 5 * 2}  # less the row of Table 1 each
    assert {part: published[part] for part in ablations} == ablations
    assert sum(published.values()) == 262
    assert sum(ours.values()) == 2 + 2 + 4 + 8 + 1
    assert sum(counts("her2st").values()) == 6 * 8
    assert sum(counts("her2st", seeds=(0, 1)).values()) == 6 * 8 * 2
    assert sum(counts("stnet").values()) == 115  # 23 patients x (4 + 1)
    assert sum(counts("cross_scale").values()) == 12
    rows = len(comparators.MODELS)
    assert list(counts("comparators").values()) == [rows * 8, rows * 5]
    assert list(counts("comparators", tiny=True).values()) == [len(comparators.TINY)]
    assert sum(counts("hest_bench", encoders=("uni",)).values()) == 27
    assert sum(counts("hest_bench", encoders=("uni", "kaiko_s16")).values()) == 2 * 27


def test_rows_that_are_quoted_are_those_of_runs():
    for name in suites.names():
        found = suites.load(name, Options(ROOT / "nowhere"))
        for part, rows in found.quoted.items():
            assert rows.keys() <= {run.row for run in found.runs if part.startswith(run.part)}
            assert all(of.keys() <= {figure.key for figure in found.figures[part]} for of in rows.values())


def test_an_encoder_needs_its_weights_and_is_not_for_every_suite():
    found = suites.load("hest_bench", Options(ROOT, encoders=("uni", "uni2_h"), weights={"uni": "uni.bin"}))
    assert {run.row for run in found.runs if run.lacks} == {"uni2_h"}
    assert "--weights=uni=uni.bin" in found.runs[0].commands[0].arguments
    with pytest.raises(InputError, match="her2st does not"):
        suites.load("her2st", Options(ROOT, encoders=("uni",)))
    with pytest.raises(InputError, match="no seeds"):
        suites.load("hest_bench", Options(ROOT, seeds=(0, 1)))
    with pytest.raises(InputError, match="there is no encoder 'uni9'"):
        suites.load("hest_bench", Options(ROOT, encoders=("uni9",)))


def test_one_patient_alone_has_its_sections_held_out_in_turn(monkeypatch):
    monkeypatch.setattr(Options, "patients", lambda *_: {"C": ("C2", "C3")})
    runs = her2st.suite(Options(ROOT / "nowhere")).runs
    assert {run.name for run in runs if run.name.startswith("b0/")} == {"b0/C2", "b0/C3"}
    assert "--config.test_sections=C2" in runs[0].commands[0].arguments


def test_models_of_table_2_are_fitted_on_stnet_and_scored_on_bins_of_hd_slides(tmp_path):
    options = Options(tmp_path, weights={"ciga_resnet18": "c.pth", "densenet121": "d.pth", "resnet50": "r.pth"})
    runs = [run for run in pixnet_v1.suite(options).runs if run.part == "Table 2"]
    assert [run.row for run in runs] == list(pixnet_v1.MODELS)
    for run in runs:
        training, scoring = run.commands
        tiles = run.row == "PixNet"
        trained_on, scored_on = run.data
        assert trained_on.name == ("stnet_tiles" if tiles else "stnet_patches")
        assert "--target-um-per-px=0.67" in scored_on.build
        assert ("--bin-blocks=4/200" in scored_on.build) != tiles
        assert trained_on.features == scored_on.features
        assert f"--config.data_dir={tmp_path / 'data' / trained_on.name}" in training.arguments
        assert "--config.val_sections=patient_22_0,patient_22_1,patient_22_2" in training.arguments
        assert "--config.test_sections=patient_23_0,patient_23_1,patient_23_2" in training.arguments
        assert f"--data-dir={tmp_path / 'data' / scored_on.name}" in scoring.arguments
        assert ("--spot-size-um=2,8,16,100" in scoring.arguments) == tiles


def test_bins_of_every_size_of_a_slide_are_held_out_together(monkeypatch):
    sections = {"A": ("A1_002um", "A1_008um"), "B": ("B1_002um", "B1_008um")}
    monkeypatch.setattr(Options, "patients", lambda *_: sections)
    runs = pixnet_v1.suite(Options(ROOT / "nowhere", weights={"ciga_resnet18": "c.pth"})).runs
    runs = [run for run in runs if run.row == "PixNet" and run.part == "Table 1, HD breast"]
    held_out = {
        line for run in runs for command in run.commands for line in command.arguments if "test_sections" in line
    }
    assert held_out == {"--config.test_sections=A1_002um,A1_008um", "--config.test_sections=B1_002um,B1_008um"}


# ------------------------------------------------------------------------------------------------- carrying out


def stand_in(out, does, **more):
    """A suite of one run for each name, which does what is said; `more` of a run: names of those that it needs, ..."""
    runs = {name: Run(name, "part", name.split("/")[0], (), (step(out, name, do),)) for name, do in does.items()}
    for name, given in more.items():
        needs = tuple(runs[each] for each in given.get("needs", ()))
        runs[name] = dataclasses.replace(runs[name], **{**given, "needs": needs})
    return Suite("stand_in", "Stand-in", tuple(runs.values()), {"part": (Figure("pcc_mean", "mean PCC"),)})


def step(out, name, do):
    return Command("tests.stjax.suite_step", (do, str(out / "runs" / name)), "evaluation/*/metrics.json")


def carry_out(tmp_path, does, *, again=False, processes=1, chosen=slice(None), **more):
    options = Options(tmp_path)
    places = _state.places(stand_in(tmp_path, does, **more), options)[chosen]
    with Pool(processes) as pool:
        return suite.carry_out(places, pool, again=again), {place.run.name: place.state() for place in places}


def calls(tmp_path, name):
    path = tmp_path / "runs" / name / "calls"
    return len(path.read_text()) if path.exists() else 0


def test_finished_runs_are_not_made_again_and_failed_ones_only_when_asked_for(tmp_path, capsys):
    does = {"a/1": "work", "a/2": "fail", "b/1": "work"}
    failed, states = carry_out(tmp_path, does, processes=2)
    assert failed == ["a/2"]
    assert states == {"a/1": "done", "a/2": "failed", "b/1": "done"}
    assert "[a/2] error: no luck" in capsys.readouterr().out
    assert "error: no luck" in (tmp_path / "logs/a/2.log").read_text()

    (tmp_path / "runs/a/mended").touch()
    failed, _ = carry_out(tmp_path, does)
    assert failed == ["a/2"]
    assert "a/2 failed before, and is not tried again: error: no luck" in capsys.readouterr().out
    assert [calls(tmp_path, name) for name in does] == [1, 1, 1]

    failed, states = carry_out(tmp_path, does, again=True)
    assert not failed
    assert set(states.values()) == {"done"}
    assert [calls(tmp_path, name) for name in does] == [1, 2, 1]


def test_what_a_run_used_is_kept(tmp_path):
    held = np.ones(2 * 10**8)  # of this process: none of the run's
    assert held.nbytes > 1e9
    carry_out(tmp_path, {"a": "work"})
    (place,) = _state.places(stand_in(tmp_path, {"a": "work"}), Options(tmp_path))
    note = place.note()
    assert 0 < note["processor_s"] < 60
    assert 1e6 < note["peak_bytes"] < 1e9  # a Python that does nothing


def test_a_run_that_a_signal_ended_says_so(tmp_path):
    log = tmp_path / "log"
    log.write_text("epoch 1\n\n")
    assert _state.why(-9, log).startswith("killed, as the system does when memory runs out")
    assert _state.why(-11, log) == "ended by SIGSEGV"
    assert _state.why(2, log) == "epoch 1"


class Recorder:
    """Stands for a pool: notes the command lines, and leaves what they would leave."""

    def __init__(self):
        self.lines = []

    def run(self, _label, arguments, **_):
        self.lines.append(arguments)
        given = dict(each.split("=", 1) for each in arguments[1:] if "=" in each)
        if arguments[0] == "data_prep.build":
            (Path(given["--out"])).mkdir(parents=True)
            (Path(given["--out"]) / "manifest.json").touch()
        if arguments[0] == "stjax.embed":
            folder = Path(given["--data-dir"]) / "features" / given["--name"]
            folder.mkdir(parents=True)
            (folder / "features.json").touch()
        return Ended(0, 0.0, 0)


def test_data_is_prepared_with_its_features_and_only_what_is_missing_is_made(tmp_path):
    features = (Embedding("near", "uni"), Embedding("around", "uni", context=5))
    data = Data("patches", None, "synthetic tissue", ("--patch-size-px=64",), ("--spots=9",), (), {}, 0, features)
    options = Options(tmp_path, weights={"uni": "uni.bin"})
    suite.prepare(data, options, pool := Recorder())
    raw, target = tmp_path / "raw/patches", tmp_path / "data/patches"
    embed = ["stjax.embed", f"--data-dir={target}", "--encoder=uni"]
    assert pool.lines == [
        ["data_prep.demo", f"--out={raw}", "--spots=9"],
        ["data_prep.build", f"--source={raw}", f"--out={target}", "--patch-size-px=64"],
        [*embed, "--name=near", "--any-scale", "--weights=uni.bin"],
        [*embed, "--name=around", "--any-scale", "--weights=uni.bin", "--context=5", f"--source={raw}"],
    ]
    assert options.is_prepared(data)
    shutil.rmtree(target / "features/near")
    assert not options.is_prepared(data)
    raw.mkdir(parents=True)
    suite.prepare(data, options, pool := Recorder())
    assert [line[3] for line in pool.lines] == ["--name=near"]


def test_a_run_waits_for_those_it_needs(tmp_path, capsys):
    does = {"whole": "work", "part": "fail"}
    _, states = carry_out(tmp_path, does, whole={"needs": ("part",)})
    assert states == {"whole": "to do", "part": "failed"}
    assert "whole waits for part" in capsys.readouterr().out
    (tmp_path / "runs/mended").touch()
    _, states = carry_out(tmp_path, does, whole={"needs": ("part",)}, again=True)
    assert set(states.values()) == {"done"}


def test_shards_share_the_runs_and_a_run_of_another_process_is_left_to_it(tmp_path, capsys):
    does = {"a": "work", "b": "work", "c": "work"}
    _, states = carry_out(tmp_path, does, chosen=slice(1, None, 2))
    assert states == {"b": "done"}
    with files.lock(tmp_path / "state" / "a.lock", busy="held"):
        _, states = carry_out(tmp_path, does)
    assert states == {"a": "to do", "b": "done", "c": "done"}
    assert "a is left to the process that is at it" in capsys.readouterr().out


def test_a_run_with_other_settings_is_refused(tmp_path):
    carry_out(tmp_path, {"a": "fail"})
    with pytest.raises(InputError, match=r"runs/a is of a run with other settings .*choose another --out"):
        carry_out(tmp_path, {"a": "work"}, again=True)


def test_what_cannot_run_here_is_neither_run_nor_failed(tmp_path):
    failed, states = carry_out(tmp_path, {"a": "work"}, a={"lacks": "no weights"})
    assert not failed
    assert states == {"a": "cannot run here"}


def test_sigterm_ends_the_runs_and_the_same_command_goes_on(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.stjax.test_suite import carry_out\n"
        "carry_out(Path(sys.argv[1]), {'a': 'hang', 'b': 'hang'})"
    )
    line = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        while "hang in a" not in (process.stdout.readline() or "hang in a"):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) != 0
    assert (calls(tmp_path, "a"), calls(tmp_path, "b")) == (1, 0)
    options = Options(tmp_path)
    (place, _) = _state.places(stand_in(tmp_path, {"a": "hang", "b": "hang"}), options)
    assert place.state() == "begun"  # it was told to end, and has not failed


def test_a_pool_that_is_told_to_end_begins_nothing_more(tmp_path):
    with Pool(1) as pool:

        def work(_):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
            pool.run("sleep", ["tests.stjax.suite_step", "hang", str(tmp_path / "x")])
            time.sleep(1)
            return pool.run("late", ["tests.stjax.suite_step", "work", str(tmp_path / "x")])

        with pytest.raises(BaseException, match="stopped by SIGTERM"):
            pool.map(work, [0])
        with pytest.raises(InputError, match="late is not begun"):
            pool.run("late", [])


def test_a_folder_keeps_to_one_study(tmp_path):
    found = stand_in(tmp_path, {"a": "work"})
    _state.keep(found, Options(tmp_path))
    _state.keep(found, Options(tmp_path))
    with pytest.raises(InputError, match="of another study: tiny was False, is True; choose another --out"):
        _state.keep(found, Options(tmp_path, tiny=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["plan", "brstnett"],
            "suite 'brstnett' is not known; choose one of brstnet, comparators, cross_scale, her2st, ",
        ),
        (["plan", "her2st", "--only=b9"], "--only names b9, which no run is called"),
        (["plan", "her2st", "--seeds=0,0"], "--seeds is 0,0"),
        (["run", "her2st"], "data/patches is not prepared: give the raw files' folder with --root"),
        (["run", "her2st", "--root=nowhere"], "nowhere is not there; it is for her2st"),
        (["run", "her2st", "--root=nowhere", "--only=C5"], "nowhere is not there"),  # C5 may be of it
        (["run", "her2st", "--shard=0/2"], "shards do not prepare it; run once with --prepare"),
        (["run", "her2st", "--processes=0"], "--processes is 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        suite.main([*arguments, f"--out={tmp_path / 'out'}"])


def test_a_plan_counts_what_is_there_and_says_what_is_needed(tmp_path, capsys):
    suite.main(["plan", "pixnet_v1", f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    assert "86 trainings in 86 runs" in printed
    assert "9 runs cannot be made here: weights are needed, --weights=densenet121=FILE" in printed
    assert not list(tmp_path.iterdir())


def test_a_plan_says_how_long_the_rest_takes_from_finished_runs_of_the_same_row(tmp_path, monkeypatch, capsys):
    does = dict.fromkeys(("a/1", "a/2", "a/3", "a/4", "b/1"), "work")
    found = stand_in(tmp_path, does)
    monkeypatch.setattr(suites, "load", lambda *_: found)
    suite.plan("stand_in", Options(tmp_path))
    assert "once a run of each row is finished" in capsys.readouterr().out
    carry_out(tmp_path, {"a/1": "work"})
    place = _state.places(found, Options(tmp_path))[0]
    place.write({**place.note(), "seconds": 7200.0})
    suite.plan("stand_in", Options(tmp_path), processes=2)  # three of a are left, and b of which nothing is known
    printed = capsys.readouterr().out
    assert (
        "left: 4 runs; 3, as finished ones of their rows took, 6.0 h one after another here, 4.0 h 2 at a time"
        in printed
    )


# -------------------------------------------------------------------------------------------------------- tables


@pytest.fixture
def scored(trained, tmp_path):
    """A suite whose first row has two runs, the second of which is missing, and whose second row predicts at random."""
    found = stand_in(tmp_path, {"one/1": "", "one/2": "", "two/1": ""})
    for name in ("one/1", "two/1"):
        shutil.copytree(trained[0], tmp_path / "runs" / name)
    noted = {"part": {"one": {"pcc_mean": 0.5}}}
    return Suite("x", "X & Y", found.runs, found.figures, "A paper, Table 1", noted, {"part": ("mind 5 % of it",)})


def table_of(found, out):
    return _table.read_tables(found, _state.places(found, Options(out)))


def test_a_table_has_what_is_finished_beside_what_was_published_and_what_is_missing(scored, tmp_path):
    tables = table_of(scored, tmp_path)
    figures = json.loads(next((tmp_path / "runs/one/1").glob("evaluation/*/metrics.json")).read_text())
    value = figures["methods"]["model"]["pcc_mean"]
    one, two = tables.parts[0].rows
    assert one.figures["pcc_mean"] == (pytest.approx(value), pytest.approx(np.nan, nan_ok=True))
    assert (one.finished, one.planned, one.missing) == (1, 2, ["one/2"])
    assert two.pair.levels["spots"].difference == 0  # the same run under another name
    text = "\n".join(tables.console())
    assert "SYNTHETIC TISSUE" in text
    assert "1 of 2" in text
    assert "0.500" in text
    assert "* not finished: one lacks one/2" in text
    assert "* published results are quoted, not ours: A paper, Table 1" in text
    assert "no more than chance" in tables.parts[0].verdict


def test_rows_are_compared_with_the_reference_of_a_suite(scored, tmp_path):
    part = "part"
    figures = {
        part: (*scored.figures[part], Figure("raw:pcc_mean", "raw"), Figure("cost:peak_bytes", "GB", 1, False, 1e9))
    }
    with_reference = dataclasses.replace(scored, reference="two", figures=figures)
    for place in _state.places(with_reference, Options(tmp_path)):
        place.write({**place.note(), "peak_bytes": 3e9})
    tables = table_of(with_reference, tmp_path)
    (found,) = tables.parts
    head, rows = _table.cells(found)
    one, two = (dict(zip(head, row, strict=True)) for row in rows)
    raw = json.loads(next((tmp_path / "runs/one/1").glob("evaluation/*/metrics.json")).read_text())["targets"]["raw"]
    assert one["raw"] == f"{raw['methods']['model']['pcc_mean']:.3f}"
    assert (one["GB"], one["minus two"], two["minus two"]) == ("3.0", "+0.000", "")
    assert found.verdict.endswith("with two (median PCC, paired, 90% intervals): not significantly different: one.")
    tables.write(tmp_path)
    assert pd.read_csv(tmp_path / "table.csv")["compared_with"].tolist()[0] == "two"


def test_sizes_of_spots_have_a_column_each_and_a_figure_that_one_seed_lacks_is_left_out(tmp_path):
    def of(method, value):
        return {method: {"pcc_mean": value, "mse": 2 * value}}

    sizes = {"16": {"methods": of("model", 0.5)}, "2": {"methods": of("model", 0.3) | of("nearest_spot", 0.2)}}
    columns = _sizes.figures((2, 8, 16), (2, 8), ("mse",))
    runs = []
    for name, found in (("ridge/0", sizes), ("ridge/1", {"16": sizes["16"]}), ("mean/0", {"16": sizes["2"]})):
        folder = tmp_path / "runs" / name / "evaluation/pixnet/0123456789ab"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"sizes_um": found, "synthetic": True}))
        runs.append(Run(name, "part", name.split("/")[0], (), (Command("stjax.evaluate", (), _sizes.LEAVES),)))
    runs.append(dataclasses.replace(runs[-1], name="mean/1"))
    quoted = {"part": {"ridge": {"16:model:mse": 0.9}}}
    found = Suite("stand_in", "Stand-in", tuple(runs), {"part": columns}, "A paper", quoted, {"part": ("mind it",)})
    part, synthetic = _sizes.table(found, "part", _state.places(found, Options(tmp_path)))
    ridge, mean = part.rows
    assert {key: value for key, (value, _) in ridge.figures.items()} == {"16:model:pcc_mean": 0.5, "16:model:mse": 1.0}
    assert ridge.quoted == {"16:model:mse": 0.9}
    assert (mean.finished, mean.missing) == (1, ["mean/1"])
    assert part.verdict == ""  # none has a figure at 2 um
    assert synthetic
    assert part.notes == [
        "not finished: mean lacks mean/1",
        "published results are quoted, not ours: A paper",
        "mind it",
    ]
    assert _sizes.scores({"sizes_um": sizes}, columns) == {
        "2:model:pcc_mean": 0.3, "16:model:pcc_mean": 0.5, "2:nearest_spot:pcc_mean": 0.2,
        "2:model:mse": 0.6, "16:model:mse": 1.0,
    }  # fmt: skip


def test_the_files_of_a_table_say_the_same(scored, tmp_path):
    paths = table_of(scored, tmp_path).write(tmp_path)
    assert [path.name for path in paths] == ["suite.json", "table.csv", "table.md", "table.tex", "report.html"]
    rows = pd.read_csv(tmp_path / "table.csv")
    found = json.loads((tmp_path / "suite.json").read_text())
    assert rows["pcc_mean"].tolist() == pytest.approx([row["pcc_mean"] for row in found["table"]])
    assert rows["published_pcc_mean"].tolist()[:1] == [0.5]
    assert [run["status"] for run in found["runs"]] == ["done", "to do", "done"]
    assert "mind 5 \\% of it" in (tmp_path / "table.tex").read_text()
    assert "| one | 1 of 2 |" in (tmp_path / "table.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "X &amp; Y" in page
    assert page.count("<circle") == 3  # two rows and a published figure


def test_a_page_leaves_out_what_is_not_known(scored, tmp_path):
    tables = table_of(scored, tmp_path)
    for row in tables.parts[0].rows:
        row.mean_pcc = (np.nan, np.nan, np.nan)  # of a model that predicts constants
    tables.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "nan" not in page
    assert page.count("<circle") == 1  # the published figure


def test_runs_together_are_their_spots_side_by_side(trained):
    folder, _ = trained
    run = read.read_run(folder, "a")
    names = {section.name for section in run.sections}
    same = together([run, run], "two", names)
    assert same is not None
    for ours, theirs in zip(same.sections, sorted(run.sections, key=lambda section: section.name), strict=True):
        np.testing.assert_array_equal(ours.prediction, theirs.prediction)
    pcc = metrics.pooled_pcc(
        [each.prediction for each in same.sections],
        [each.truth for each in same.sections],
        [each.patient for each in same.sections],
        pooling=same.metrics["pcc_pooling"],
    )
    assert of_patients(same, "genes_pcc_above_0") == np.sum(pcc > 0)
    assert of_patients(same, "pcc_of_best") == np.nanmax(pcc)
    assert of_patients(same, "pcc_of_fifth") == np.sort(pcc[~np.isnan(pcc)])[-5]
    assert of_patients(same, "genes_sign_test") == 0  # of one patient
    estimate, low, high = mean_pcc(same)
    assert estimate == pytest.approx(np.nanmean(pcc))
    assert low < estimate < high
    assert together([run], "none", {*names, "another"}) is None


def test_the_note_on_what_lacks_names_some_rows_and_counts_the_others():
    rows = [SimpleNamespace(name=f"row {i}", missing=[f"{i}/{fold}" for fold in range(i)]) for i in range(6)]
    (note,) = _footnotes.lacking(rows)
    named = "not finished: row 1 lacks 1/0; row 2 lacks 2/0, 2/1; row 3 lacks 3/0, 3/1, 3/2; "
    assert note == named + "and 2 further rows: suite.json lists all runs"
    assert _footnotes.lacking(rows[:4]) == [named.removesuffix("; ")]
    assert _footnotes.lacking(rows[:1]) == []
