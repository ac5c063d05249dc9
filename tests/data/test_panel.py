import dataclasses
import json
import types

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.section import GeneTable
from stjax import protocols
from stjax.data import panel as panels


class Tables:
    """A data set of three sections in memory: as much of `PatchDataset` as a panel needs."""

    kind = "patches"

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


def test_panel_ranks_by_training_mean_and_keeps_column_order():
    data, split = Tables(), protocols.Split(("A", "B"), (), ("C",))
    panel = panels.fit_panel(protocols.stjax, data, split)
    counts = np.concatenate([data.table(name).counts.toarray() for name in "AB"])
    expected = np.sort(np.argsort(-counts.mean(axis=0), kind="stable")[:250])
    np.testing.assert_array_equal(panel.symbol[:250], [f"G{g}" for g in expected])
    assert "G7" not in panel.symbol  # never expressed
    assert panel.num_main + panel.num_aux == np.sum((counts > 0).mean(axis=0) > 0.1)


def test_panel_of_the_honest_protocol_does_not_see_the_test_patient():
    data, split = Tables(), protocols.Split(("A", "B"), (), ("C",))
    honest = panels.fit_panel(protocols.stjax, data, split).to_json()
    published = panels.fit_panel(protocols.brstnet_code, data, split).to_json()
    data.tables["C"].counts = data.tables["C"].counts[:, ::-1].tocsr()
    assert panels.fit_panel(protocols.stjax, data, split).to_json() == honest
    assert panels.fit_panel(protocols.brstnet_code, data, split).to_json() != published


def test_targets_of_the_training_spots_have_zero_mean_and_unit_deviation():
    data, split = Tables(), protocols.Split(("A", "B"), (), ("C",))
    panel = panels.fit_panel(protocols.stjax, data, split)
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
        assert panels.usable_spots(protocol, table, train=train).sum() == expected


def test_sections_without_a_spot_to_validate_or_score_on_are_refused_with_the_cause():
    data = Tables()
    panels.require_spots(protocols.stjax, data, ("A", "B"), "val")
    panels.require_spots(protocols.stjax, data, (), "val")
    data.tables["A"].total_counts = np.full(40, 999)
    panels.require_spots(protocols.stjax, data, ("A", "B"), "val")  # B has some
    with pytest.raises(InputError, match="none of the 40 spots of A, the val sections: 40 have fewer than 1000"):
        panels.require_spots(protocols.stjax, data, ("A",), "val")
    data.tables["A"].total_counts = np.r_[np.full(10, 999), np.full(30, 5000)]
    data.tables["A"].white_fraction = np.full(40, 0.9)
    with pytest.raises(InputError, match=r"10 have fewer than 1000 reads, 30 a patch that is white; choose others"):
        panels.require_spots(protocols.brstnet_paper, data, ("A",), "test")


def test_image_deviation_follows_the_protocol():
    data, split = Tables(), protocols.Split(("A",), (), ("C",))
    table = data.table("A")
    pooled = panels.fit_panel(protocols.stjax, data, split)
    expected = np.sqrt(table.channel_mean_square.mean(axis=0) - table.channel_mean.mean(axis=0) ** 2)
    np.testing.assert_allclose(pooled.image_std, expected)
    images = panels.fit_panel(dataclasses.replace(protocols.stjax, image_std="mean_of_images"), data, split)
    expected = np.sqrt(table.channel_mean_square - table.channel_mean**2).mean(axis=0)
    np.testing.assert_allclose(images.image_std, expected)


def test_panel_survives_json_exactly():
    panel = panels.fit_panel(protocols.stjax, Tables(), protocols.Split(("A", "B"), (), ("C",)))
    again = panels.Panel.from_json(json.loads(json.dumps(panel.to_json())))
    for field in dataclasses.fields(panel):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(panel, field.name))


def test_columns_are_found_by_id_and_where_one_table_lacks_it_by_symbol():
    panel = panels.fit_panel(protocols.stjax, Tables(), protocols.Split(("A", "B"), (), ("C",)))
    ids, symbols = panel.ensembl_id[:5], panel.symbol[:5]
    several = dataclasses.replace(panel, ensembl_id=ids, symbol=symbols)
    without_id = GeneTable(
        np.array([ids[1], "", "ENSG00000999999", "", ""]), np.array(["OLD", *symbols[2:4], "X", "X"])
    )
    # 0 is not there; 1 by id under another symbol; 2 by symbol; 3 has that symbol but another id; 4 is not there.
    np.testing.assert_array_equal(several.columns(without_id), [-1, 0, 1, -1, -1])


def test_too_few_reads_or_genes_are_named():
    split = protocols.Split(("A",), (), ("C",))
    with pytest.raises(InputError, match="needs 250"):
        panels.fit_panel(protocols.stjax, Tables(genes=200), split)
    strict = dataclasses.replace(protocols.stjax, min_counts=10**9)
    with pytest.raises(InputError, match="at least 1000000000 reads"):
        panels.fit_panel(strict, Tables(), split)
