import dataclasses
import pathlib
import types

import numpy as np
import pytest
import scipy.sparse

from data_prep.errors import InputError
from data_prep.section import GeneTable
from stjax import protocols, splits, views
from stjax.data.fit import fit


class Tables:
    """A data set of three sections in memory: as much of `PatchDataset` as a fold needs."""

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

        self.path, self.content_hash, self.size_px = pathlib.Path("tables"), "c" * 64, 64
        self.sections = [
            {"name": name, "um_per_px": 0.5 + 0.1 * place, "px_scale": 1.0} for place, name in enumerate(self.tables)
        ]
        self.manifest = {"parameters": {"stain": "none"}, "stain_target": None, "synthetic": False}

    def table(self, name):
        return self.tables[name]

    def patients(self, names):
        return {name: (f"patient {name}", "file" if name == "A" else "guessed") for name in names}


def fitted(protocol, data, split):
    return fit(views.get("patches"), protocol, data, split)


def test_panel_ranks_by_training_mean_and_keeps_column_order():
    data, split = Tables(), splits.Split(("A", "B"), (), ("C",))
    panel = fitted(protocols.stjax, data, split).panel
    counts = np.concatenate([data.table(name).counts.toarray() for name in "AB"])
    expected = np.sort(np.argsort(-counts.mean(axis=0), kind="stable")[:250])
    np.testing.assert_array_equal(panel.symbol[:250], [f"G{g}" for g in expected])
    assert "G7" not in panel.symbol  # never expressed
    assert panel.num_main + panel.num_aux == np.sum((counts > 0).mean(axis=0) > 0.1)


def test_panel_of_the_honest_protocol_does_not_see_the_test_patient():
    data, split = Tables(), splits.Split(("A", "B"), (), ("C",))
    honest = fitted(protocols.stjax, data, split).learned()
    published = fitted(protocols.brstnet_code, data, split).learned()
    data.tables["C"].counts = data.tables["C"].counts[:, ::-1].tocsr()
    assert fitted(protocols.stjax, data, split).learned() == honest
    assert fitted(protocols.brstnet_code, data, split).learned() != published


def test_targets_of_the_training_spots_have_zero_mean_and_unit_deviation():
    data, split = Tables(), splits.Split(("A", "B"), (), ("C",))
    fold = fitted(protocols.stjax, data, split)
    main, columns = slice(fold.panel.num_main), fold.panel.columns(data.genes)
    counts = np.concatenate([data.table(name).counts.toarray() for name in "AB"]).astype(float)
    expression = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, columns]
    standardised = ((expression - fold.target_mean) / fold.target_std)[:, main]
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(standardised.std(axis=0), 1, atol=1e-12)
    np.testing.assert_array_equal(fold.train_mean, fold.target_mean[main])
    np.testing.assert_array_equal(fold.target_mean[fold.panel.num_main :], 0)  # aux targets are not z-scored
    np.testing.assert_array_equal(fold.target_std[fold.panel.num_main :], 1)


def test_a_fold_says_whose_tissue_it_is_of_which_scale_and_how_patients_are_known():
    fold = fitted(protocols.stjax, Tables(), splits.Split(("A", "B"), (), ("C",)))
    assert fold.train_patients == ("patient A", "patient B")
    assert fold.train_patient_origins == {"patient A": "file", "patient B": "guessed"}
    assert fold.um_per_px == pytest.approx(0.55)  # the median of the training sections'
    assert (fold.view, fold.facts, fold.image_size_px) == ("patches", {}, 64)
    stated = Tables()
    stated.manifest["parameters"]["um_per_px"] = 0.7
    assert fitted(protocols.stjax, stated, splits.Split(("A", "B"), (), ("C",))).um_per_px == 0.7


def test_image_deviation_follows_the_protocol():
    data, split = Tables(), splits.Split(("A",), (), ("C",))
    table = data.table("A")
    pooled = fitted(protocols.stjax, data, split)
    expected = np.sqrt(table.channel_mean_square.mean(axis=0) - table.channel_mean.mean(axis=0) ** 2)
    np.testing.assert_allclose(pooled.image_std, expected)
    images = fitted(dataclasses.replace(protocols.stjax, image_std="mean_of_images"), data, split)
    expected = np.sqrt(table.channel_mean_square - table.channel_mean**2).mean(axis=0)
    np.testing.assert_allclose(images.image_std, expected)


def test_too_few_counts_or_genes_are_named():
    split = splits.Split(("A",), (), ("C",))
    with pytest.raises(InputError, match="needs 250"):
        fitted(protocols.stjax, Tables(genes=200), split)
    strict = dataclasses.replace(protocols.stjax, min_counts=10**9)
    with pytest.raises(InputError, match="at least 1000000000 counts"):
        fitted(strict, Tables(), split)
