import numpy as np
import pytest

from stjax.evaluation import credibility
from tests.evaluation.test_scoring import make_sections


def test_permutation_counts_the_genes_beyond_chance():
    sections = make_sections(genes=5)
    for section in sections:
        section.predictions["model"][:, 3] = np.random.default_rng(5).normal(size=81)
        section.predictions["model"][:, 4] = 1.0
    result, columns = credibility.permutation(sections)
    assert result["genes_below_0.05"] == 3
    assert result["genes_tested"] == 4
    assert columns["p_value"][3] > 0.02
    assert np.isnan(columns["p_holm"][4])


def test_sign_test_says_how_many_patients_it_needs():
    found, why = credibility.sign_test(make_sections())
    assert found is None
    assert "fewer than 7" in why  # 4 genes / 2**7 < 0.05


def test_sign_test_over_enough_patients():
    sections = [
        type(section)(f"patient {place}", section.xy, section.truth, section.predictions)
        for place, section in enumerate(make_sections(sections=9))
    ]
    for section in sections:
        section.predictions["model"][:, 2] *= -1
    assert credibility.sign_test(sections)[0] == {"patients": 9, "genes_below_0.05": 3, "correction": "Holm"}


@pytest.mark.parametrize("patients", [1, 2])
def test_sign_test_pools_the_sections_of_a_patient(patients):
    found, why = credibility.sign_test(make_sections(sections=2)[:patients])
    assert found is None
    assert why.startswith(f"{patients} patient")
