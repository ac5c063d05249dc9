import re

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
