import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.gene_reference import full_names
from stjax.data.gene_vectors import WIDTH, gene_vectors, hashed
from stjax.data.panel import Panel

SYMBOLS = ["KRT5", "KRT8", "COL1A1", "COL3A1", "IGHG1", "ACTB"]


def panel(symbols, num_main):
    return Panel(np.full(len(symbols), ""), np.array(symbols), num_main, 100)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_full_names_are_of_the_shipped_table():
    assert full_names()["ERBB2"] == "erb-b2 receptor tyrosine kinase 2"


def test_genes_of_a_family_are_alike_and_of_others_are_not():
    vectors = dict(zip(SYMBOLS, hashed(SYMBOLS), strict=True))
    within = [cosine(vectors[a], vectors[b]) for a, b in (("KRT5", "KRT8"), ("COL1A1", "COL3A1"))]
    across = [cosine(vectors[a], vectors[b]) for a, b in (("KRT5", "COL1A1"), ("IGHG1", "ACTB"), ("KRT8", "IGHG1"))]
    assert min(within) > 0.3 > 0.15 > max(across)
    np.testing.assert_allclose(np.mean(hashed(SYMBOLS) ** 2, axis=1), 1, rtol=1e-5)


def test_a_name_brings_genes_together_whose_symbols_share_nothing():
    one, other, third = hashed(["CDH1", "PCDH8", "ACTB"])
    assert cosine(one, other) > 2 * abs(cosine(one, third))


def test_a_mouse_gene_has_the_vector_of_the_human_one_of_its_letters():
    np.testing.assert_array_equal(hashed(["Erbb2", "Actb"]), hashed(["ERBB2", "ACTB"]))


def test_without_a_file_each_gene_is_one_hashed_vector():
    vectors = gene_vectors(panel(SYMBOLS, 2))
    assert vectors.shape == (6, 1, WIDTH)
    np.testing.assert_array_equal(vectors[:, 0], hashed(SYMBOLS))


def test_vectors_of_a_file_are_found_by_symbol(tmp_path):
    rng = np.random.default_rng(0)
    rows, tokens = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(7, 3, 4)).astype(np.float16)
    symbol = np.array([*reversed(SYMBOLS[:5]), "ESR1", "PGR"])
    np.savez(tmp_path / "vectors.npz", symbol=symbol, vectors=rows)
    np.savez(tmp_path / "tokens.npz", symbol=symbol, tokens=tokens)
    found = gene_vectors(panel(SYMBOLS, 3), str(tmp_path / "vectors.npz"))
    np.testing.assert_array_equal(found[:5, 0], rows[4::-1])
    assert not found[5].any()  # AuxNet's ACTB has none, and is left out of training
    found = gene_vectors(panel(SYMBOLS, 3), str(tmp_path / "tokens.npz"))
    assert found.shape == (6, 3, 4)
    np.testing.assert_array_equal(found[:5], tokens[4::-1].astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"symbol": np.array(["KRT5"]), "vectors": np.ones((1, 4))}, r"1 of 2 main genes .*\(KRT8\); add them"),
        ({"symbol": np.array(["KRT5", "KRT8"]), "vectors": np.ones((3, 4))}, "a row for each of the 2"),
        ({"symbol": np.array(["KRT5", "KRT8"])}, 'expected one of the arrays "vectors" and "tokens"'),
        ({"symbol": np.array(["KRT5", "KRT8"]), "vectors": np.full((2, 4), np.nan)}, "not finite"),
        ({"vectors": np.ones((2, 4))}, "it has no array symbol"),
        ({"symbol": np.array(["KRT5", "KRT8"]), "vectors": np.ones((2, 4, 4))}, "3-dimensional array"),
    ],
)
def test_other_files_are_refused(arrays, says, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(InputError, match=says) as error:
        gene_vectors(panel(SYMBOLS, 2), str(tmp_path / "mine.npz"))
    assert str(error.value).startswith(str(tmp_path / "mine.npz"))
