"""Scores of gene sets: read from GMT, made of the genes that are predicted, with what an evaluation found of them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import InputError
from stjax import gene_sets
from stjax.data.panel import Panel
from stjax.gene_sets import FIGURES, FILE, GeneSets
from stjax.tables import write_csv
from stjax.trust import RESTS_ON

SYMBOLS = np.array(["ERBB2", "GNAS", "CD3E", "MS4A1", "KRT8"])
LINES = (
    "BREAST\tof breast\tHER2\tGNAS\tKRT8\tKRT8\tNOTAGENE",
    "IMMUNE\thttp://x\tCD3E\tMS4A1\tERBB2",
    "FEW\t-\tCD3E\tNOTAGENE",
)
MEAN, STD = np.arange(5.0), np.full(5, 2.0)


@pytest.fixture
def fold():
    panel = Panel(np.full(5, ""), SYMBOLS, 5, 100)
    return SimpleNamespace(panel=panel, main=SimpleNamespace(train_mean=MEAN, target_std=STD))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "sets.gmt").write_text("\n".join(LINES) + "\n\n")
    return tmp_path / "sets.gmt"


def test_genes_are_found_by_any_name_and_what_is_left_out_is_said(path, fold, capsys):
    sets = GeneSets.read(path, fold)
    assert sets.names == ("BREAST", "IMMUNE")
    assert sets.table()["genes"].tolist() == ["ERBB2 GNAS KRT8", "ERBB2 CD3E MS4A1"]
    assert sets.table()[["genes_listed", "genes_predicted"]].to_numpy().tolist() == [[4, 3], [3, 3]]
    said = capsys.readouterr().out
    assert "1 of 3 gene sets have no score, as the model predicts fewer than 3 of their genes: FEW" in said
    assert "6 of their 7 genes are predicted" in said


def test_a_score_is_the_mean_z_score_of_what_was_measured(path, fold):
    sets, expression = GeneSets.read(path, fold), np.random.default_rng(0).normal(size=(7, 5))
    z = (expression - MEAN) / STD
    np.testing.assert_allclose(sets.scores(expression)[:, 0], z[:, [0, 1, 4]].mean(axis=1), rtol=1e-5)
    expression[:, 0] = np.nan  # not measured in this section
    np.testing.assert_allclose(sets.scores(expression)[:, 0], z[:, [1, 4]].mean(axis=1), rtol=1e-5)
    assert np.isnan(sets.scores(np.full((2, 5), np.nan))).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no line, expected a GMT file"),
        (b"A\tdescription\n", "line 1 has no genes"),
        (b"\tdescription\tERBB2\n", "line 1 has no name"),
        (b"A\t-\tERBB2\nA\t-\tGNAS\n", "line 2 names 'A' again"),
        (b"A\x07\t-\tERBB2\n", "line 1 contains a control character"),
        (b"A\t-\tERBB2\n", "of none of its 1 sets does the model predict 3 genes"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_no_gmt_file_is_refused(tmp_path, fold, text, says):
    (tmp_path / "bad.gmt").write_bytes(text)
    with pytest.raises(InputError, match=says):
        GeneSets.read(tmp_path / "bad.gmt", fold)
    with pytest.raises(InputError, match="cannot be read"):
        GeneSets.read(tmp_path / "none.gmt", fold)


def test_reliability_is_that_of_the_same_sets_and_model(path, fold, tmp_path):
    sets = GeneSets.read(path, fold)
    assert sets.with_trust(tmp_path, "a" * 64, symmetries=False)["pcc"].isna().all()
    known = sets.table().assign(**dict.fromkeys(FIGURES, 0.5), **dict.fromkeys(RESTS_ON, 4), resampled="patients")
    known = known.assign(units=gene_sets.UNITS, symmetries=0, model_sha256="a" * 64)
    known.loc[1, "genes"] = "ERBB2 CD3E"  # the set had other genes then
    write_csv(tmp_path / FILE, known)
    found = sets.with_trust(tmp_path, "a" * 64, symmetries=False)
    assert found["gene_set"].tolist() == ["BREAST", "IMMUNE"]
    assert found["pcc"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)
    assert sets.with_trust(tmp_path, "b" * 64, symmetries=False)["pcc"].isna().all()
    (tmp_path / FILE).write_text("gene_set\n")
    with pytest.raises(InputError, match=r"trust_gene_sets\.csv is not readable"):
        sets.with_trust(tmp_path, "a" * 64, symmetries=False)


def test_sets_are_told_apart_by_their_genes(path, fold):
    sets = GeneSets.read(path, fold)
    path.write_text(path.read_text().replace("GNAS", "MS4A1", 1))
    other = GeneSets.read(path, fold)
    assert sets.sha256 != other.sha256
    pd.testing.assert_series_equal(sets.table()["gene_set"], other.table()["gene_set"])
