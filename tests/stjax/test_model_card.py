import json
from pathlib import Path

from stjax import model_card

METHOD = {"pcc_median": 0.25, "pcc_mean": None, "genes_pcc_above_0": 200, "amae": 0.8125, "armse": 1.0}
RESULT = {
    "part": "held-out",
    "sections": ["S1", "S2"],
    "spots": 206,
    "pcc_pooling": "pooled",
    "error_unit": "standard deviations of the training targets",
    "methods": {"model": METHOD, "total_counts": METHOD},
    "synthetic": False,
}
PATH = Path("run/evaluation/stjax/metrics.json")


def table(**changes):
    return model_card._table(RESULT | changes, PATH)


def test_a_row_a_method_with_what_is_not_known_left_open():
    assert "| model | 0.250 | - | 200 | 0.812 | 1.000 |" in table().splitlines()
    assert "intervals" not in table()
    assert "SYNTHETIC" in table(synthetic=True)
    assert "S1" not in table()  # nobody's sections are named


def test_intervals_follow_their_figures():
    method = METHOD | {"intervals": {"pcc_median": [0.2, 0.3], "amae": None}}
    found = table(methods={"model": method}, level=0.9)
    assert "| model | 0.250 [0.20, 0.30] | - | 200 | 0.812 | 1.000 |" in found
    assert "90% intervals in brackets" in found


def test_what_makes_figures_too_good_is_said():
    audit = [{"check": "patients", "verdict": "leak", "detail": "S1"}, {"check": "sections", "verdict": "ok"}]
    found = table(audit=audit, patients_also_in_training=["P"])
    assert "What `stjax audit` found: patients: leak." in found
    assert "1 of these patients are also in training" in found
    assert "| total counts * |" in found
    assert "is given measured expression" in found


def test_figures_of_other_weights_or_versions_are_left_out_and_said_to_be(tmp_path):
    written = {"a": RESULT | {"checkpoint_step": 7}, "b": RESULT | {"checkpoint_step": 5}, "c": {"checkpoint_step": 7}}
    for name, result in written.items():
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        (tmp_path / "evaluation" / name / "metrics.json").write_text(json.dumps(result))
    (tmp_path / "evaluation" / "b2").mkdir()
    (tmp_path / "evaluation" / "b2" / "metrics.json").write_text("{")
    a, b, damaged, older = model_card._tables(tmp_path, 7)
    assert "| model | 0.250 |" in a
    assert b == "Protocol `b`: evaluated at step 5, not at this one."
    assert damaged.startswith("Protocol `b2`: the results cannot be read")
    assert "KeyError('part')" in older


def test_figures_of_methods_by_their_former_names_are_left_out_and_said_to_be(tmp_path):
    (tmp_path / "evaluation" / "a").mkdir(parents=True)
    former = RESULT | {"checkpoint_step": 7, "methods": {"model": METHOD, "total counts": METHOD}}
    (tmp_path / "evaluation" / "a" / "metrics.json").write_text(json.dumps(former))
    (found,) = model_card._tables(tmp_path, 7)
    assert found.startswith("Protocol `a`: the results cannot be read (KeyError('total counts'))")
    assert found.endswith("run stjax.evaluate, and export again.")
