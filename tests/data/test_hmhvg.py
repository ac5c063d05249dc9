"""STP-Bench's panel: the same from a stream of sections as from all spots at once, in memory for one section."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from data_prep.errors import InputError
from stjax import protocols
from stjax.data import hmhvg
from stjax.splits import Split
from tests.data.test_fit import Tables, fitted

NAMES = np.array([f"G{place}" for place in range(60)])


def sections(count=3, spots=50, genes=60, seed=0):
    """Sections [S, G] made when they are asked for."""
    means = np.random.default_rng(seed).gamma(0.7, 8.0, genes) + 0.3
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield scipy.sparse.csr_array(rng.poisson(means * rng.gamma(2.0, 0.5, (spots, 1))).astype(np.int32))


def at_once(counts, candidates):
    """The published rule, on a table of all spots."""
    table = pd.DataFrame(np.concatenate([each.toarray() for each in counts]))[candidates]
    score = sum(of.rank(ascending=False, method="min") for of in (table.mean(), table.std(ddof=1)))
    return score.sort_values(kind="stable").index.to_numpy()


def test_the_panel_of_a_stream_is_that_of_all_spots_at_once():
    ranked = hmhvg.rank(sections(), NAMES)
    np.testing.assert_array_equal(ranked, at_once(list(sections()), np.arange(60)))


def test_controls_housekeeping_and_what_a_section_lacks_are_left_out():
    names = NAMES.astype("U40")
    names[:5] = "NegControlProbe_00042", "MT-CO1", "RPL5", "MTOR", "Mtor"
    first, second = sections(count=2)
    second = scipy.sparse.csr_array(second.toarray() * (np.arange(60) != 9))
    ranked = hmhvg.rank([first, second], names).tolist()
    best = [place for place in range(4, 60) if place != 9]
    assert ranked[: len(best)] == at_once([first, second], best).tolist()
    assert ranked[len(best) :] == [1, 2, 3]  # counted everywhere: AuxNet's, not the panel's


def test_genes_must_be_among_the_most_variable_of_a_section(monkeypatch):
    monkeypatch.setattr(hmhvg, "VARIABLE", 4)
    counts = list(sections())
    variable = sorted({gene for each in counts for gene in hmhvg._variable(each, np.arange(60)).tolist()})
    assert 4 <= len(variable) <= 12
    assert hmhvg.rank(counts, NAMES)[: len(variable)].tolist() == at_once(counts, variable).tolist()


def test_variability_is_of_counts_divided_by_depth_as_scanpy_has_it():
    (counts,) = sections(count=1)
    dense = counts.toarray().astype(float)
    dense *= np.median(dense.sum(axis=1)) / dense.sum(axis=1, keepdims=True)
    table = pd.DataFrame(
        {"level": np.log1p(dense.mean(axis=0)), "spread": np.log(dense.var(0, ddof=1) / dense.mean(0))}
    )
    bins = table.groupby(pd.cut(table["level"], bins=20), observed=True)["spread"]
    normalised = (table["spread"] - bins.transform("mean")) / bins.transform("std")
    normalised = normalised.where(bins.transform("size") > 1, 1.0)
    expected = normalised.sort_values(ascending=False, kind="stable").index[:20].tolist()
    assert hmhvg._variable(counts, np.arange(60))[:20].tolist() == expected


def test_memory_does_not_grow_with_the_number_of_sections():
    def peak(count):
        tracemalloc.start()
        hmhvg.rank(sections(count, spots=2000, genes=300), np.array([f"G{place}" for place in range(300)]))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12) < 1.3 * peak(2)


def test_sections_without_a_gene_in_common_are_refused():
    counts = scipy.sparse.csr_array(np.eye(2, dtype=np.int32))
    with pytest.raises(InputError, match="no gene has counts in every section"):
        hmhvg.rank([counts[[0]], counts[[1]]], NAMES[:2])


def test_as_published_genes_are_chosen_on_the_test_sections_too_and_else_on_training_alone():
    data, split = Tables(), Split(("A", "B"), ("C",), ("C",))
    tables = {name: data.table(name).counts for name in "ABC"}
    for protocol, chosen in ((protocols.stp, "ABC"), (protocols.stp_inner, "AB")):
        panel = fitted(protocol, data, split).panel
        wanted = np.sort(hmhvg.rank([tables[name] for name in chosen], data.genes.names)[:200])
        assert panel.num_main == 200
        assert panel.symbol[:200].tolist() == [f"G{place}" for place in wanted]
