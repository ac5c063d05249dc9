"""Suites with --encoder: which rows there are, what they need, and what the tables say of encoders and heads."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import InputError
from stjax import suites
from stjax.suites import Cell, Command, Embedding, Figure, Options, Run, Suite, _effects, _state, _table, cross_scale
from tests.conftest import ROOT

PACKAGED, GIVEN = "efficientnet_lite0", "uni"
FIGURE = Figure("pcc_mean", "mean PCC")


def rows_of(name, **options):
    """{row: one of its runs}."""
    found = suites.load(name, Options(ROOT / "nowhere", **options))
    assert len({run.name for run in found.runs}) == len(found.runs)
    return {run.row: run for run in found.runs}


@pytest.mark.parametrize(("name", "around"), [("comparators", 5), ("cross_scale", 3)])
def test_every_head_on_features_is_a_row_for_each_encoder(name, around):
    rows = rows_of(name, encoders=(PACKAGED, GIVEN), weights={GIVEN: "uni.bin"})
    heads = {row.removesuffix(f" ({GIVEN})") for row in rows if row.endswith(f"({GIVEN})")}
    assert heads == {
        "Ridge on features", "HisToGene on features", "EGN, narrow", "EGGN", "SGN", "SGN, zero-shot", "BLEEP, frozen",
        "TRIPLEX",
    }  # fmt: skip
    assert heads == {row.removesuffix(f" ({PACKAGED})") for row in rows if row.endswith(f"({PACKAGED})")}
    whole = rows.keys() - {f"{head} ({encoder})" for head in heads for encoder in (PACKAGED, GIVEN)}
    assert {"ST-Net", "HisToGene", "BLEEP, trained", "PixNet, narrow"} < whole  # of images: no encoder
    assert not any(run.lacks for run in rows.values())
    triplex, ridge = (rows[f"{head} ({GIVEN})"] for head in ("TRIPLEX", "Ridge on features"))
    assert triplex.data[0].features == (Embedding("uni_around", GIVEN, context=around),)
    assert ridge.data[0].features == (Embedding(GIVEN, GIVEN),)
    assert "--config.features=uni" in ridge.commands[0].arguments
    assert ridge.cell is not None
    assert (ridge.cell.head, ridge.cell.encoder, ridge.cell.seed) == ("Ridge on features", GIVEN, 0)
    assert rows[f"Ridge on features ({PACKAGED})"].data[0].features == (Embedding("lite0", PACKAGED),)


def test_an_encoder_without_its_file_cannot_be_run_here_and_one_of_a_package_can():
    rows = rows_of("comparators", encoders=(PACKAGED, GIVEN))
    lacking = {row for row, run in rows.items() if run.lacks}
    assert lacking == {row for row in rows if row.endswith(f"({GIVEN})")}
    assert not any(run.lacks for run in rows_of("comparators", encoders=(GIVEN,), tiny=True).values())
    assert not any(run.cell for run in rows_of("comparators").values())
    with pytest.raises(InputError, match="--encoder names uni twice"):
        rows_of("comparators", encoders=(GIVEN, GIVEN))
    with pytest.raises(InputError, match="there is no encoder 'uni9'"):
        rows_of("cross_scale", encoders=("uni9",))


# -------------------------------------------------------------------------------------------------------- tables


def study(folds=5, *, missing=()):
    """Three heads on two encoders, of which the second is .04 better, in patients that differ."""
    rng = np.random.default_rng(0)
    patients, runs, values = rng.normal(scale=0.1, size=folds), [], {}
    for (h, head), (e, encoder), fold in itertools.product(
        enumerate(("Ridge", "EGN", "BLEEP")), enumerate(("lite0", "uni")), range(folds)
    ):
        name = f"{head}/{encoder}/{fold}"
        runs.append(Run(name, "part", f"{head} ({encoder})", (), (), cell=Cell(head, encoder, f"P{fold}", 0)))
        if name not in missing:
            values[name] = 0.3 + 0.01 * h + 0.04 * e + patients[fold] + 0.002 * rng.normal()
    found = _effects.study("part", FIGURE, runs, values)
    assert found is not None
    return found


def test_who_is_better_and_what_matters_is_said_in_words():
    shares, means = study().blocks()
    assert shares.verdict.startswith(
        "3 heads on 2 encoders predicted the same 5 folds of held-out patients. Of how much their mean PCC differs"
    )
    assert "% is due to the encoder (90% interval" in shares.verdict
    assert (
        "Changing the encoder changes it by 0.020, changing the head by 0.008 (standard deviations)." in shares.verdict
    )
    assert (
        "Averaged over the 3 heads, uni is the best encoder, by 0.040 over lite0, a significant difference"
        in means.verdict
    )
    assert "Averaged over the 2 encoders, BLEEP is the best head" in means.verdict
    assert [row[0] for row in means.rows] == ["encoder uni", "encoder lite0", "head BLEEP", "head EGN", "head Ridge"]
    assert means.rows[1][3] == "-0.040"


def test_folds_that_lack_a_run_are_left_out_and_none_is_no_analysis():
    found = study(missing=("EGN/uni/2",))
    assert "folds left out, as a head is not finished on an encoder in them: 1" in found.blocks()[0].notes
    assert found.found is not None
    assert found.found.blocks == 4
    constant = study(missing=[f"EGN/{encoder}/{fold}" for encoder in ("lite0", "uni") for fold in range(5)])
    assert "without EGN, of which no run has a mean PCC" in constant.blocks()[0].notes
    few = study(folds=1, missing=("EGN/uni/0",))
    assert (few.blocks(), few.plain()) == ([], [])
    assert "cannot be told yet" in few.notes[0]
    assert "no intervals" in " ".join(study(folds=3).blocks()[0].notes)
    assert _effects.study("part", FIGURE, [Run("a", "part", "a", (), ())], {"a": 0.3}) is None


def test_every_form_of_a_table_has_the_main_effects_and_csv_has_them_in_a_file_of_its_own(tmp_path):
    part = _table.Part("part", (FIGURE,), [_table.Row("part", "x", 1, [], {})], None, "best", "", [], study())
    suite = Suite("x", "X", (), {"part": (FIGURE,)})
    tables = _table.Tables(suite, [part], [], synthetic=False)
    assert tmp_path / "effects.csv" in tables.write(tmp_path)
    verdict = part.blocks()[1].verdict
    for text in (
        "\n".join(tables.console()),
        (tmp_path / "table.md").read_text(),
        (tmp_path / "report.html").read_text(),
    ):
        assert verdict in text
        assert "part: means by encoder and by head" in text
    assert "due to the encoder (90\\% interval" in (tmp_path / "table.tex").read_text()
    rows = pd.read_csv(tmp_path / "effects.csv")
    assert rows["what"].tolist() == ["share of the spread"] * 4 + ["mean of encoder"] * 2 + ["mean of head"] * 3
    assert rows["value"][:4].sum() == pytest.approx(1)
    assert json.loads((tmp_path / "suite.json").read_text())["effects"][0]["name"] == "encoder"


def test_rows_on_features_are_compared_with_the_ridge_on_the_same_encoder_and_not_ranked(trained, tmp_path):
    runs = []
    for head, encoder in itertools.product(("Ridge", "EGN"), ("lite0", "uni")):
        name = f"{head}/{encoder}"
        shutil.copytree(trained[0], tmp_path / "runs" / name)
        path = next((tmp_path / "runs" / name).glob("evaluation/*/metrics.json"))
        metrics = json.loads(path.read_text())
        metrics["methods"]["model"]["pcc_mean"] = {"lite0": 0.3, "uni": 0.4}[encoder] + 0.1 * (head == "EGN")
        path.write_text(json.dumps(metrics))
        command = Command("tests.stjax.suite_step", ("", name), "evaluation/*/metrics.json")
        runs.append(Run(name, "part", f"{head} ({encoder})", (), (command,), cell=Cell(head, encoder, "P", 0)))
    suite = Suite("x", "X", tuple(runs), {"part": (FIGURE,)}, reference="Ridge")
    tables = _table.read_tables(suite, _state.places(suite, Options(tmp_path)))
    (part,) = tables.parts
    assert part.best is None
    assert [row.compared_with for row in part.rows] == ["", "", "Ridge (lite0)", "Ridge (uni)"]
    assert part.verdict.startswith(
        "Rows differ in their encoder, and are not ranked. Compared with Ridge, same encoder"
    )
    assert "rows differ in their encoder too (lite0, uni): they are not ranked as heads" in part.notes
    shares, means = part.blocks()[1:]
    assert [row[:2] for row in shares.rows] == [
        ["encoder", "50%"],
        ["head", "50%"],
        ["patient at hand, and chance", "0%"],
    ]
    assert [row[1] for row in means.rows] == ["0.450", "0.350", "0.450", "0.350"]
    assert "minus Ridge, same encoder" in part.blocks()[0].head
    assert tables.runs[0]["encoder"] == "lite0"


def test_other_sizes_have_main_effects_too(tmp_path):
    options = Options(tmp_path, encoders=(PACKAGED, "kaiko_s16"), tiny=True)
    found = suites.load("cross_scale", options)
    places = _state.places(found, options, ("ridge", "bleep"))
    for place in places:
        folder = place.folder / "evaluation/pixnet/0123456789ab"
        folder.mkdir(parents=True)
        value = 0.3 + 0.1 * place.run.row.endswith(f"({PACKAGED})")
        (folder / "metrics.json").write_text(
            json.dumps({"sizes_um": {"2": {"methods": {"model": {"pcc_mean": value}}}}})
        )
    done = [dataclasses.replace(place, run=_finished(place.run)) for place in places]
    ((part,), _) = cross_scale._parts(found, done)
    assert (part.best, part.verdict) == (None, "")
    assert "they are not ranked as heads" in part.notes[-1]
    assert part.blocks()[1].rows[0][:2] == ["encoder", "100%"]


def test_tables_are_of_what_the_last_run_was_given(tmp_path):
    bare = Options(tmp_path)
    assert _state.as_kept(bare) == bare
    of = {"seeds": (0, 1), "weights": {GIVEN: "uni.bin"}}
    for encoders in ((), (PACKAGED,), (PACKAGED, GIVEN)):
        given = Options(tmp_path, encoders=encoders, **of)
        _state.keep(suites.load("comparators", given), given)
        assert _state.as_kept(bare) == given
    asked = dataclasses.replace(given, encoders=(GIVEN,))
    assert _state.as_kept(asked) == asked
    with pytest.raises(InputError, match=r"of another study: seeds was \[0, 1\], is \[0\]"):
        _state.keep(suites.load("comparators", bare), bare)


def _finished(run):
    """Its scoring alone, which is there."""
    return dataclasses.replace(run, commands=run.commands[1:])
