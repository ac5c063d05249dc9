import dataclasses

import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import workdir
from stjax.data.panel import Panel
from stjax.evaluation import ensemble
from stjax.inference import prepared


def make_panel(genes, num_main):
    names = np.array(genes)
    return Panel(names, names, num_main, num_genes=len(genes))


def test_values_are_put_in_the_order_of_another_runs_genes():
    values = np.arange(6.0).reshape(2, 3)
    ours, theirs = make_panel(["c", "a", "x", "b"], 3), make_panel(["a", "b", "c", "x"], 3)
    np.testing.assert_array_equal(ensemble.in_genes_of(ours, theirs, values), [[2, 0, np.nan], [5, 3, np.nan]])


def test_members_that_do_not_know_a_gene_leave_it_to_the_others(trained, monkeypatch):
    run = workdir.Run.load(f"{trained[0]}")  # a path as text, as users give it
    dataset = run.open_dataset()
    single = prepared.predict_sections(run, dataset, ("C1",), sizes_um=(), max_spots=0)
    panel = run.fold.panel
    order = np.r_[np.arange(1, panel.num_main), panel.num_main, 0, panel.num_main + 1 : len(panel.symbol)]
    other_panel = dataclasses.replace(panel, ensembl_id=panel.ensembl_id[order], symbol=panel.symbol[order])
    other = dataclasses.replace(run, fold=dataclasses.replace(run.fold, panel=other_panel))
    shifted = single[0]._replace(
        prediction=dataclasses.replace(
            single[0].prediction, expression=single[0].prediction.expression[:, np.r_[1 : panel.num_main, 0]] + 2
        )
    )
    answers = iter([single, [shifted]])
    monkeypatch.setattr(prepared, "predict_sections", lambda *_, **__: next(answers))
    found = ensemble.predict_sections([run, other], dataset, ("C1",), sizes_um=(), max_spots=0)[0].prediction
    expected = single[0].prediction.expression.astype(float)
    np.testing.assert_allclose(found.expression[:, 0], expected[:, 0])  # the other run has it among its aux genes
    np.testing.assert_allclose(found.expression[:, 1:], expected[:, 1:] + 1, rtol=1e-6)
    np.testing.assert_allclose(found.layers["std"][:, 1:], 1, rtol=1e-5)
    assert not found.layers["std"][:, 0].any()


def test_runs_of_another_protocol_are_no_ensemble(trained, monkeypatch):
    run = workdir.Run.load(trained[0])
    other = dataclasses.replace(run, fold=dataclasses.replace(run.fold, protocol="pixnet"))
    monkeypatch.setattr(workdir.Run, "load", lambda _: other)
    with pytest.raises(InputError, match="another protocol"):
        ensemble.load([trained[0]], run)
