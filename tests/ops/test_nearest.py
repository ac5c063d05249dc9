import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from stjax.ops import nearest as module
from stjax.ops.nearest import nearest

RNG = np.random.default_rng(0)
QUERIES, BANK = RNG.normal(1, 1, (7, 5)).astype(np.float32), RNG.normal(1, 1, (23, 5)).astype(np.float32)
DISTANCES = {
    "l1": lambda q, b: np.abs(q - b).sum(),
    "l2": lambda q, b: np.sqrt(((q - b) ** 2).sum()),
    "cosine": lambda q, b: 1 - q @ b / np.linalg.norm(q) / np.linalg.norm(b),
}


def by_loops(metric, hidden, k):
    """Rows and distances, a pair of a query and a row at a time."""
    rows, distances = [], []
    for q, query in enumerate(QUERIES.astype(np.float64)):
        each = [(DISTANCES[metric](query, row), r) for r, row in enumerate(BANK) if not hidden[q, r]]
        best = (sorted(each) + [(np.inf, -1)] * k)[:k]
        rows.append([row for _, row in best])
        distances.append([distance for distance, _ in best])
    return np.array(rows), np.array(distances)


@pytest.mark.parametrize("block", [4, 23, 4096])
@pytest.mark.parametrize("metric", DISTANCES)
def test_it_finds_what_a_loop_over_all_pairs_finds(metric, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    query_group, bank_group = RNG.integers(-1, 3, 7), RNG.integers(-1, 3, 23)
    hidden = ((query_group[:, None] == bank_group[None]) & (query_group >= 0)[:, None]) | (bank_group < 0)[None]
    index, distance = jax.jit(lambda q, b: nearest(
        q, b, 6, metric=metric, query_group=jnp.asarray(query_group), bank_group=jnp.asarray(bank_group)
    ))(QUERIES, BANK)  # fmt: skip
    rows, distances = by_loops(metric, hidden, 6)
    np.testing.assert_array_equal(index, rows)
    np.testing.assert_allclose(distance, distances, rtol=1e-5, atol=1e-5)


def test_without_groups_it_looks_at_every_row():
    index, _ = nearest(QUERIES, BANK, 3)
    np.testing.assert_array_equal(index, by_loops("l2", np.zeros((7, 23), bool), 3)[0])


def test_of_equally_near_rows_it_takes_the_lower(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 4)
    bank = np.tile(QUERIES[:1], (11, 1))
    for metric in DISTANCES:
        np.testing.assert_array_equal(nearest(QUERIES[:1], bank, 6, metric=metric)[0], [np.arange(6)])


def test_what_there_is_too_little_of_is_infinitely_far():
    _, distance = nearest(QUERIES, BANK[:4], 6)
    np.testing.assert_array_equal(np.isfinite(distance), np.tile([True] * 4 + [False] * 2, (7, 1)))
    alone = jnp.zeros(7, jnp.int32)
    _, distance = nearest(QUERIES, BANK, 2, query_group=alone, bank_group=jnp.zeros(23, jnp.int32))
    assert not np.isfinite(distance).any()


def test_no_gradient_flows_through_it():
    gradient = jax.grad(lambda q: jnp.sum(nearest(q, BANK, 3)[1]))(jnp.asarray(QUERIES))
    assert not np.asarray(gradient).any()


def test_any_number_of_queries_is_exported():
    queries = jax.ShapeDtypeStruct(export.symbolic_shape("Q, 3"), jnp.float32)
    bank = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    exported = export.export(jax.jit(lambda q: nearest(q, bank, 2)))(queries)
    for count in (1, 4):
        given = bank[:count] + 0.01
        np.testing.assert_array_equal(exported.call(given)[0], nearest(given, bank, 2)[0])
