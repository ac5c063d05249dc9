"""How far each gene can be believed: kept with the model, never taken for another's, marked and never dropped."""

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import InputError
from stjax import trust
from stjax.trust import FIGURES, FLOOR, MARK, RESTS_ON, Trust

LOW = [0.3, FLOOR, 0.1, np.nan]


def made(**changed):
    genes = np.array(["ERBB2", "=cmd", "CD3E", "ALB"])
    table = {"gene": genes, "ensembl_id": ["ENSG1", "", "ENSG3", "ENSG4"]}
    table |= {name: np.linspace(0.1, 0.9, 4) for name in FIGURES}
    table |= {"pcc_normalised_low": LOW, **{name: [4, 4, 3, 0] for name in RESTS_ON}}
    table |= {"resampled": "patients", "units": "stjax: log1p_library", "symmetries": 0, "model_sha256": "a" * 64}
    return Trust(pd.DataFrame(table | changed))


def test_it_comes_back_as_it_was(tmp_path):
    path = made().save(tmp_path)
    assert path.name == "trust.csv"
    found = Trust.load(tmp_path)
    assert found is not None
    pd.testing.assert_frame_equal(found.table, made().table, check_dtype=False, check_exact=False)
    assert "'=cmd" in path.read_text()  # a spreadsheet takes it for text


def test_genes_not_shown_to_reach_the_floor_are_marked_and_none_is_dropped():
    columns = made().columns(FLOOR)
    assert columns[MARK].tolist() == [False, False, True, True]  # what is not known is not shown
    assert {len(values) for values in columns.values()} == {4}
    assert columns["patients"].dtype == np.int64
    assert made().columns(-1)[MARK].tolist() == [False, False, False, True]
    assert made().marked(0.25)[MARK].tolist() == [False, True, True, True]


def test_it_is_of_one_model_its_genes_and_its_way_to_predict():
    genes, found = made().table["gene"].to_numpy(), made()
    assert found.of(genes, "a" * 64, symmetries=False) is found
    assert found.of(genes, "b" * 64, symmetries=False) is None
    assert found.of(genes, "a" * 64, symmetries=True) is None
    with pytest.raises(InputError, match="has other genes than the model's 2; remove it"):
        found.of(genes[:2], "a" * 64, symmetries=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:0],
        lambda text: text.replace("coverage", "cover"),
        lambda text: text.replace("0.3,", "x,"),
        lambda text: text.replace(",4,4,4,", ",4,4,-4,", 1),
        lambda text: text.replace(",4,4,4,", ",4,4,inf,", 1),
        lambda text: '"' + text,
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, change):
    path = made().save(tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=r"trust.csv is not readable \(.*; remove it, and score the run again"):
        Trust.load(tmp_path)


def test_none_is_none(tmp_path):
    assert Trust.load(tmp_path) is None


@pytest.mark.parametrize("floor", [1.1, -2.0, float("nan")])
def test_a_floor_is_a_correlation(floor):
    with pytest.raises(InputError, match="expected a correlation from -1 to 1"):
        trust.check_floor(floor)
