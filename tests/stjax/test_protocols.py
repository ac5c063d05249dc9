import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import protocols, splits, targets, views
from stjax.data.fit import fit

PATIENTS = {"A1": "A", "A2": "A", "B1": "B", "C1": "C", "D1": "D"}


def test_split_holds_out_the_last_patient_and_deals_folds_by_patient():
    split = splits.split_sections(protocols.stjax, PATIENTS, fold=0)
    assert split == splits.Split(("B1", "C1"), ("A1", "A2"), ("D1",))


def test_split_of_stnet_trains_on_every_other_patient_without_validation():
    split = splits.split_sections(protocols.stnet, PATIENTS)
    assert (split.train, split.val, split.test) == (("A1", "A2", "B1", "C1"), (), ("D1",))


def test_split_uses_the_patients_a_protocol_holds_out_when_present():
    patients = PATIENTS | {"X1": "BC23903"}
    split = splits.split_sections(protocols.brstnet_paper, patients)
    assert split.test == ("X1",)


def test_split_by_section_warns_that_a_patient_is_on_both_sides():
    split = splits.split_sections(protocols.stjax, dict.fromkeys(("C2", "C3", "C5"), "C"), test_sections=("C5",))
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
        splits.split_sections(protocols.stjax, PATIENTS, **options)


def test_split_validates_on_the_test_sections_where_that_is_published():
    split = splits.split_sections(protocols.stp, PATIENTS, test_sections=("B1",))
    assert (split.train, split.val, split.test) == (("A1", "A2", "C1", "D1"), ("B1",), ("B1",))
    assert split.warnings == (
        "the checkpoint is chosen on the sections that are scored, as published: results are too good",
    )
    with pytest.raises(InputError, match="leave val_sections out"):
        splits.split_sections(protocols.stp, PATIENTS, test_sections=("B1",), val_sections=("A1",))


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
    with pytest.raises(InputError, match="brstnet_code, brstnet_paper, hest, pixnet, stjax, stnet"):
        protocols.get_protocol("hestt")


def test_hash_changes_with_any_field():
    assert protocols.stjax.hash != dataclasses.replace(protocols.stjax, min_counts=999).hash


def test_rules_that_older_runs_were_trained_under_keep_their_hash():
    hashes = {
        "stjax": "6395212917c7ff17",
        "brstnet_paper": "2ce79b0233534c2f",
        "brstnet_code": "66b4fb2dbdd5a82a",
        "stnet": "1f8af95c9be805f9",
        "pixnet": "87db084805bb0194",
    }
    for name, start in hashes.items():
        assert protocols.get_protocol(name).hash.startswith(start)
    assert dataclasses.replace(protocols.stjax, gene_ranking="variability").hash != protocols.stjax.hash


@pytest.mark.parametrize("name", protocols.names())
def test_inverses_give_the_counts_back(name):
    protocol = protocols.get_protocol(name)
    counts, total = np.array([[0.0, 3.0, 10.0]]), np.array([[1000.0]])
    values = protocol.transform(counts, total, 700)
    np.testing.assert_allclose(targets.INVERSES[protocol.target](values, total, 700), counts, atol=1e-9)


def test_variability_ranks_as_scanpy_does():
    """Against the steps of scanpy 1.11's "seurat" flavour, in pandas as there."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(0.5, 1.5, 300)
    counts = rng.poisson(mean * rng.gamma(4, 0.25, (200, 300))).astype(float)
    counts[:, 7] = 0
    eligible = np.flatnonzero((counts > 0).mean(axis=0) >= 0.1)
    level, variance = counts[:, eligible].mean(axis=0), counts[:, eligible].var(axis=0, ddof=1)
    table = pd.DataFrame({"mean": np.log1p(level), "dispersion": np.log(variance / level)})
    groups = table.groupby(pd.cut(table["mean"], bins=20), observed=True)["dispersion"]
    middle, spread = groups.transform("mean"), groups.transform(lambda each: each.std(ddof=1))
    alone = spread.isna()
    middle[alone], spread[alone] = 0, table["dispersion"][alone]
    expected = ((table["dispersion"] - middle) / spread).to_numpy()
    ranked = targets.by_variability(targets.Moments.of([scipy.sparse.csr_array(counts)], len(counts)), eligible)
    assert list(ranked[:50]) == list(eligible[np.argsort(-expected, kind="stable")][:50])
    assert sorted(ranked) == sorted(eligible)


def test_white_patches_are_left_out_of_training_only_or_of_everything_as_the_protocol_says():
    total, white = np.full(40, 5000), np.linspace(0, 1, 40)
    for protocol, train, expected in (
        (protocols.brstnet_code, True, 20),
        (protocols.brstnet_code, False, 40),
        (protocols.brstnet_paper, False, 20),
        (protocols.stjax, True, 40),
    ):
        assert protocol.uses(total, white, train=train).sum() == expected
        assert protocol.uses(total, train=train).all()  # of tiles, whose whiteness says nothing of a spot
    total[:3] = 999
    assert protocols.stjax.uses(total, train=False).tolist() == [False] * 3 + [True] * 37


def test_hest_panel_is_fifty_of_the_variable_genes(dataset):
    data = PatchDataset.open(dataset)
    split = splits.Split(("B1", "B2"), (), ("C1",))
    panel = fit(views.get("patches"), protocols.hest, data, split).panel
    assert panel.num_main == 50
    mean_ranked = fit(views.get("patches"), protocols.stjax, data, split).panel
    assert 5 < len(set(panel.ensembl_id[:50]) & set(mean_ranked.ensembl_id[:250])) < 50


def test_a_split_says_that_patients_are_guessed_or_spelt_twice():
    patients = {"S1": "S1", "S2": "S2", "S3": "S3"}
    split = splits.split_sections(protocols.stnet, patients, origin_of=dict.fromkeys(patients, "guessed"))
    assert any(text.startswith("nothing states whose tissue S1, S2, S3 is") for text in split.warnings)
    split = splits.split_sections(protocols.stnet, patients, origin_of=dict.fromkeys(patients, "user"))
    assert not any("tissue S1" in text for text in split.warnings)
    split = splits.split_sections(protocols.stnet, {"S1": "P1", "S2": "p-01"}, test_patients=("p-01",))
    assert any(text.startswith("patients P1, p-01 are in training and test: one person") for text in split.warnings)
