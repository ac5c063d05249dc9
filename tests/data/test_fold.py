"""A fold as a file: exact, read as earlier versions wrote it, and refused when it is none."""

import dataclasses
import json

import numpy as np
import pytest

from data_prep import json_files
from data_prep.errors import InputError
from stjax import workdir
from stjax.data.fold import Fold
from stjax.splits import Split
from tests.inference.fake_predictor import made_fold

FACTS = {
    "layout": {"spots": 9, "cells": 64, "by_spot": ((4, 8), (12, 1)), "by_cell": ((2, 64),)},
    "pixels_per_spot": 50.1,
    "base_rates": [0.1, 0.2, 1 / 3, 7.0],
    "sizes_um": [2.0, 16.0],
}
OF = {
    "patches": {},
    "tiles": {"view": "tiles", "facts": FACTS, "target_std": np.array([0.1, 1 / 3, 2e-17])},
}


def fold_of(view):
    split = Split(("A1", "A2"), ("B1",), ("C1",), ("one of each",))
    origins = {"train_patients": ("A",), "train_patient_origins": {"A": "guessed"}}
    return made_fold(data_dir="data", split=split, **origins, **OF[view])


def as_file(values):
    return json.loads(json.dumps(values, allow_nan=False))


def lists(value):
    if isinstance(value, dict):
        return {name: lists(each) for name, each in value.items()}
    return [lists(each) for each in value] if isinstance(value, list | tuple) else value


def assert_same(again, fold):
    for field in dataclasses.fields(Fold):
        found, expected = getattr(again, field.name), getattr(fold, field.name)
        if field.name == "panel":
            for gene in dataclasses.fields(expected):
                np.testing.assert_array_equal(getattr(found, gene.name), getattr(expected, gene.name))
        elif isinstance(expected, np.ndarray):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
        else:
            assert lists(found) == lists(expected), field.name
    assert type(again.split.train) is type(again.train_patients) is tuple


@pytest.mark.parametrize("view", OF)
def test_a_fold_survives_json_exactly(view):
    fold = fold_of(view)
    fold = dataclasses.replace(fold, parameters=fold.parameters | {"context_px": 40, "min_counts": 0})
    again = Fold.from_json(as_file(fold.to_json()), "data.json")
    assert_same(again, fold)
    assert as_file(again.to_json()) == as_file(fold.to_json())


@pytest.mark.parametrize("view", OF)
def test_a_fold_of_before_views_is_read(view):
    fold = fold_of(view)
    before = as_file(fold.to_json())
    del before["view"], before["train_patient_origins"], before["parameters"]["resolve_aliases"]
    facts = before.pop("facts")
    again = Fold.from_json(before | {"tiles": facts or None}, "data.json")
    said = fold.parameters | {"context_px": None, "min_counts": 0}
    assert_same(again, dataclasses.replace(fold, train_patient_origins={}, parameters=said))


@pytest.mark.parametrize(
    ("of", "changes", "said"),
    [
        (
            "patches",
            {"view": "cells"},
            "there is no view 'cells'; this version of stjax knows features, patches, sections, tiles",
        ),
        ("patches", {"view": "tiles"}, "facts of tiles"),
        ("tiles", {"view": "patches"}, "facts of patches are none that this version of stjax knows"),
        ("tiles", {"facts": FACTS | {"sizes_um": "all"}}, "sizes_um"),
        ("patches", {"facts": {"sizes_um": ["large"]}}, "facts of patches: sizes_um"),
        ("patches", {"facts": {"arrays": [{"pitch_um": 0, "hexagonal": False}]}}, "facts of patches: arrays"),
        ("tiles", {"facts": FACTS | {"layout": FACTS["layout"] | {"by_spot": [[1, 2, 3]]}}}, "by_spot"),
        ("tiles", {"facts": {k: v for k, v in FACTS.items() if k != "layout"}}, "layout"),
        ("tiles", {"facts": FACTS | {"base_rates": [1.0, 2.0]}}, "2 base rates for 3 main genes, expected one more"),
        ("tiles", {"facts": None}, "facts"),
        ("patches", {"view": ["patches"]}, "view"),
    ],
)
def test_a_fold_of_another_view_or_with_other_facts_is_refused_in_one_line(tmp_path, of, changes, said):
    values = as_file(fold_of(of).to_json()) | as_file(changes)
    json_files.write(tmp_path / workdir.DATA, json_files.sealed(values))
    with pytest.raises(InputError, match=said) as caught:
        workdir.load_fold(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_a_panel_whose_lists_do_not_agree_is_refused():
    values = as_file(fold_of("patches").to_json())
    for name, wrong in (("symbol", ["RED"]), ("target_std", [1.0]), ("train_mean", [0.0] * 4), ("num_main", 4)):
        with pytest.raises(InputError, match=r"data\.json: gene panel of \d main genes .* which do not agree"):
            Fold.from_json(values | {"panel": values["panel"] | {name: wrong}}, "data.json")


def test_the_main_genes_alone_keep_their_statistics():
    fold = fold_of("tiles")
    panel = dataclasses.replace(fold.panel, num_main=2)
    main = dataclasses.replace(fold, panel=panel, train_mean=np.zeros(2)).main
    assert main.panel.symbol.tolist() == ["RED", "GREEN"]
    np.testing.assert_array_equal(main.target_std, fold.target_std[:2])
    assert len(main.target_mean) == len(main.train_mean) == 2
