import dataclasses
import json
import types

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.section import GeneTable
from stjax import protocols


class Tables:
    """A data set of three sections in memory: as much of `PatchDataset` as a panel needs."""

    def __init__(self, spots=40, genes=400, seed=0):
        rng = np.random.default_rng(seed)
        self.genes = GeneTable(
            np.array([f"ENSG{g:011d}" for g in range(genes)]), np.array([f"G{g}" for g in range(genes)])
        )
        self.tables = {}
        for number, name in enumerate("ABC"):
            counts = rng.poisson(rng.gamma(0.5, 10.0, genes) * (1 + number), (spots, genes))
            counts[:, 7] = 0
            self.tables[name] = types.SimpleNamespace(
                counts=scipy.sparse.csr_array(counts.astype(np.int32)),
                total_counts=counts.sum(axis=1),
                record_of_spot=np.arange(spots),
                white_fraction=np.linspace(0, 1, spots, dtype=np.float32),
                channel_mean=rng.uniform(100, 200, (spots, 3)),
                channel_mean_square=rng.uniform(41000, 42000, (spots, 3)),
            )

    def table(self, name):
        return self.tables[name]


PATIENTS = {"A1": "A", "A2": "A", "B1": "B", "C1": "C", "D1": "D"}


def test_split_holds_out_the_last_patient_and_deals_folds_by_patient():
    split = protocols.split_sections(protocols.stjax, PATIENTS, fold=0)
    assert split == protocols.Split(("B1", "C1"), ("A1", "A2"), ("D1",))


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


def test_panel_ranks_by_training_mean_and_keeps_column_order():
    data, split = Tables(), protocols.Split(("A", "B"), (), ("C",))
    panel = protocols.fit_panel(protocols.stjax, data, split)
    counts = np.concatenate([data.table(name).counts.toarray() for name in "AB"])
    expected = np.sort(np.argsort(-counts.mean(axis=0), kind="stable")[:250])
    np.testing.assert_array_equal(panel.symbol[:250], [f"G{g}" for g in expected])
    assert "G7" not in panel.symbol  # never expressed
    assert panel.num_main + panel.num_aux == np.sum((counts > 0).mean(axis=0) > 0.1)


def test_panel_of_the_honest_protocol_does_not_see_the_test_patient():
    data, split = Tables(), protocols.Split(("A", "B"), (), ("C",))
    honest = protocols.fit_panel(protocols.stjax, data, split).to_json()
    published = protocols.fit_panel(protocols.brstnet_code, data, split).to_json()
    data.tables["C"].counts = data.tables["C"].counts[:, ::-1].tocsr()
    assert protocols.fit_panel(protocols.stjax, data, split).to_json() == honest
    assert protocols.fit_panel(protocols.brstnet_code, data, split).to_json() != published


def test_targets_of_the_training_spots_have_zero_mean_and_unit_deviation():
    data, split = Tables(), protocols.Split(("A", "B"), (), ("C",))
    panel = protocols.fit_panel(protocols.stjax, data, split)
    columns = panel.columns(data.genes)
    counts = np.concatenate([data.table(name).counts.toarray() for name in "AB"]).astype(float)
    expression = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, columns]
    standardised = ((expression - panel.target_mean) / panel.target_std)[:, : panel.num_main]
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(standardised.std(axis=0), 1, atol=1e-12)
    np.testing.assert_array_equal(panel.target_std[panel.num_main :], 1)  # aux targets are not z-scored


def test_white_patches_are_left_out_of_training_only_or_of_everything_as_the_protocol_says():
    table = Tables().table("A")
    for protocol, train, expected in (
        (protocols.brstnet_code, True, 20),
        (protocols.brstnet_code, False, 40),
        (protocols.brstnet_paper, False, 20),
        (protocols.stjax, True, 40),
    ):
        assert protocols.usable_spots(protocol, table, train=train).sum() == expected


def test_image_deviation_follows_the_protocol():
    data, split = Tables(), protocols.Split(("A",), (), ("C",))
    table = data.table("A")
    pooled = protocols.fit_panel(protocols.stjax, data, split)
    expected = np.sqrt(table.channel_mean_square.mean(axis=0) - table.channel_mean.mean(axis=0) ** 2)
    np.testing.assert_allclose(pooled.image_std, expected)
    images = protocols.fit_panel(dataclasses.replace(protocols.stjax, image_std="mean_of_images"), data, split)
    expected = np.sqrt(table.channel_mean_square - table.channel_mean**2).mean(axis=0)
    np.testing.assert_allclose(images.image_std, expected)


def test_panel_survives_json_exactly():
    panel = protocols.fit_panel(protocols.stjax, Tables(), protocols.Split(("A", "B"), (), ("C",)))
    again = protocols.Panel.from_json(json.loads(json.dumps(panel.to_json())))
    for field in dataclasses.fields(panel):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(panel, field.name))


def test_too_few_reads_or_genes_are_named():
    split = protocols.Split(("A",), (), ("C",))
    with pytest.raises(InputError, match="needs 250"):
        protocols.fit_panel(protocols.stjax, Tables(genes=200), split)
    strict = dataclasses.replace(protocols.stjax, min_counts=10**9)
    with pytest.raises(InputError, match="at least 1000000000 reads"):
        protocols.fit_panel(strict, Tables(), split)


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
    with pytest.raises(InputError, match="brstnet_code, brstnet_paper, stjax, stnet"):
        protocols.get_protocol("hestt")


def test_hash_changes_with_any_field():
    assert protocols.stjax.hash != dataclasses.replace(protocols.stjax, min_counts=999).hash
