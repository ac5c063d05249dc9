import numpy as np

from data_prep.section import GeneTable
from stjax.data.panel import Panel


def test_columns_are_found_by_id_and_where_one_table_lacks_it_by_symbol():
    ids, symbols = (np.array([f"{prefix}{g}" for g in range(5)]) for prefix in ("ENSG0000000000", "G"))
    panel = Panel(ids, symbols, num_main=3, num_genes=400)
    without_id = GeneTable(
        np.array([ids[1], "", "ENSG00000999999", "", ""]), np.array(["OLD", *symbols[2:4], "X", "X"])
    )
    # 0 is not there; 1 by id under another symbol; 2 by symbol; 3 has that symbol but another id; 4 is not there.
    np.testing.assert_array_equal(panel.columns(without_id), [-1, 0, 1, -1, -1])


def test_labels_are_unique_where_genes_share_a_symbol_or_have_none():
    panel = Panel(np.array(["E1", "E2", "E3", "E4"]), np.array(["A", "A", "", "B"]), num_main=3, num_genes=9)
    assert panel.names.tolist() == ["A", "A", "E3", "B"]
    assert panel.labels.tolist() == ["A (E1)", "A (E2)", "E3"]  # of the main genes
    assert (panel.num_aux, panel.main.num_aux, panel.main.symbol.tolist()) == (1, 0, ["A", "A", ""])
