import re

import pytest

from stjax import crossval
from stjax.evaluation import results, under_protocols


def summary(value, ends):
    figures = dict.fromkeys((*results.COLUMNS, *results.SIZE_COLUMNS), value)
    figures |= {name: 250 for name in results.COLUMNS if name.startswith("genes")}
    return figures | {"intervals": dict.fromkeys(results.WITH_INTERVAL, ends)}


def test_columns_of_wide_figures_stay_apart_and_aligned(capsys):
    """Errors of raw counts are hundreds: `65       51.869` was two columns."""
    results.print_methods({"model": summary(51.869, [48.11, 155.22]), "mean": summary(None, None)})
    head, model, mean = capsys.readouterr().out.splitlines()
    assert re.split(r" {2,}", head.strip()) == list(results.COLUMNS.values())
    assert re.split(r" {2,}", model)[:3] == ["model", "51.869 (48.11 to 155.22)", "51.869 (48.11 to 155.22)"]
    assert len(re.split(r" {2,}", model)) == len(re.split(r" {2,}", mean)) == 1 + len(results.COLUMNS)
    assert len(head) == len(model) == len(mean)


def test_the_table_of_protocols_keeps_columns_apart_and_reasons_below(capsys):
    fits = {
        "fits": True, "why": "because", "target": "a_transform_with_a_long_name_of_its_own", "spots": 1234567,
        "genes": 250, "pcc_pooling": "pooled",
        "methods": {name: summary(1051.869, [948.11, 1155.22]) for name in ("model", "ridge_colour")},
    }  # fmt: skip
    under_protocols.print_table({"one": fits, "two": {"fits": False, "why": "no genes"}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "one prediction under every protocol"
    assert re.split(r" {2,}", lines[3])[:3] == ["one (a_transform_with_a_long_name_of_its_own)", "1234567", "250"]
    assert lines[5:] == ["  because", "two: does not fit: no genes"]


def test_the_table_of_folds_keeps_columns_apart(capsys):
    names = ("epoch", "val_loss", "val_pcc_median", *crossval.COLUMNS)
    run = dict.fromkeys(names, 123456789012.5) | {"fold": 0, "seed": 123456, "training_finished": True}
    crossval.print_table({"runs": [run], "summary": crossval.summary([run])})
    lines = capsys.readouterr().out.splitlines()
    assert len(re.split(r" {2,}", lines[2])) == 1 + len(names)
    assert lines[2].startswith("fold 0 seed 123456  123456789012.500  ")


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"ridge_colour": 0.3}, ["the colour of the patch"]),
        ({"ridge_colour": 0.29}, []),
        ({"ridge_colour": 0.29, "ridge_features": 0.31}, ["its features"]),
        ({"ridge_colour": 0.29, "ridge_features": 0.30001}, []),  # the model is that ridge, in float32
    ],
)
def test_a_model_that_no_more_than_ties_with_a_ridge_is_told_so(theirs, said, capsys):
    counts = dict.fromkeys(
        ("genes", "genes_constant_prediction", "genes_constant_in_a_section", "genes_constant_truth"), 0
    )
    methods = {name: counts | {"pcc_median": value} for name, value in {"model": 0.3, **theirs}.items()}
    about = {
        "features": "uni", "encoder": "UNI", "penalty": 1000.0, "held_out": "spatial_blocks",
        "remark": "the best penalty, 1000, is the largest of those tried",
    }  # fmt: skip
    result = {"resampled": None, "synthetic": False, "methods": methods, "genes_not_in_the_data": 0, "audit": []}
    results.print_notes(result | {"ridge_features": about if "ridge_features" in theirs else None})
    out = capsys.readouterr().out
    assert re.findall(r"does NOT beat a ridge regression on (.*)\.", out) == said
    assert ("features: of UNI (features/uni), penalty 1000, chosen on spatial blocks held out" in out) == (
        "ridge_features" in theirs
    )
    assert ("note: ridge on features: the best penalty" in out) == ("ridge_features" in theirs)
