import dataclasses

import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import protocols

PATIENTS = {"A1": "A", "A2": "A", "B1": "B", "C1": "C", "D1": "D"}


def test_split_holds_out_the_last_patient_and_deals_folds_by_patient():
    split = protocols.split_sections(protocols.stjax, PATIENTS, fold=0)
    assert split == protocols.Split(("B1", "C1"), ("A1", "A2"), ("D1",))


def test_split_of_stnet_trains_on_every_other_patient_without_validation():
    split = protocols.split_sections(protocols.stnet, PATIENTS)
    assert (split.train, split.val, split.test) == (("A1", "A2", "B1", "C1"), (), ("D1",))


def test_split_uses_the_patients_a_protocol_holds_out_when_present():
    patients = PATIENTS | {"X1": "BC23903"}
    split = protocols.split_sections(protocols.brstnet_paper, patients)
    assert split.test == ("X1",)


def test_split_by_section_warns_that_a_patient_is_on_both_sides():
    split = protocols.split_sections(protocols.stjax, dict.fromkeys(("C2", "C3", "C5"), "C"), test_sections=("C5",))
    assert (split.train, split.val, split.test) == (("C2", "C3"), (), ("C5",))
    assert "patient C is in both training and test" in split.warnings[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_sections": ("Z9",)}, "test_sections names Z9"),
        ({"test_patients": ("Z",)}, "test_patients names Z"),
        ({"val_sections": ("A1",)}, "without test_sections"),
        ({"test_sections": ("A1",), "val_sections": ("A1",)}, "A1 is in both"),
        ({"fold": 3}, "folds 0 to 2"),
        ({"test_sections": tuple(PATIENTS)}, "no section is left to train on"),
    ],
)
def test_split_refuses_what_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        protocols.split_sections(protocols.stjax, PATIENTS, **options)


def test_jax_and_numpy_transforms_agree():
    import jax.numpy as jnp

    counts, total = np.array([[0.0, 3.0, 10.0]]), np.array([[1000.0]])
    for protocol in (protocols.stjax, protocols.brstnet_code, protocols.stnet):
        np.testing.assert_allclose(
            protocol.transform(jnp.array(counts), jnp.array(total), 3), protocol.transform(counts, total, 3), rtol=1e-6
        )


def test_stnet_target_is_the_log_of_the_smoothed_share():
    counts, total = np.array([[0.0, 9.0]]), np.array([[90.0]])
    np.testing.assert_allclose(protocols.stnet.transform(counts, total, 10), np.log([[0.01, 0.1]]))


def test_unknown_protocol_lists_the_known():
    with pytest.raises(InputError, match="brstnet_code, brstnet_paper, pixnet, stjax, stnet"):
        protocols.get_protocol("hestt")


def test_hash_changes_with_any_field():
    assert protocols.stjax.hash != dataclasses.replace(protocols.stjax, min_counts=999).hash
