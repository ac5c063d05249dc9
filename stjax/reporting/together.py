"""The runs of one row of a table as one: predictions of their held-out sections side by side."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from stjax import metrics
from stjax.evaluation import statistics
from stjax.reporting.read import RunResults
from stjax.reporting.sections import DrawnSection

SIGN_TEST_LEVEL = 0.1  # He et al. 2020


def together(runs: Sequence[RunResults], label: str, sections: Collection[str]) -> RunResults | None:
    """Runs as one, in some of their sections; a section that several predicted has the mean of their predictions.

    PCCs are then within a patient, and the median over patients; of one patient, within a section. Genes are those of
    every run.

    Returns:
        None where predictions are missing, were made in other spots, or nothing is in common.
    """
    keys = [list(zip(run.genes["gene"], run.genes["ensembl_id"], strict=True)) for run in runs]
    common = [key for key in keys[0] if all(key in set(of) for of in keys[1:])]
    by_name: dict[str, list[DrawnSection]] = {}
    for run, of in zip(runs, keys, strict=True):
        place = {key: column for column, key in reversed(list(enumerate(of)))}
        columns = np.array([place[key] for key in common], np.int64)
        for section in run.sections:
            if section.name in sections and section.truth is not None:
                cut = {"prediction": section.prediction[:, columns], "truth": section.truth[:, columns]}
                by_name.setdefault(section.name, []).append(dataclasses.replace(section, **cut, lower=None, upper=None))
    if not common or set(by_name) != set(sections):
        return None
    merged = []
    for _, several in sorted(by_name.items()):
        if any(not np.array_equal(each.spots.id, several[0].spots.id) for each in several):
            return None
        merged.append(
            dataclasses.replace(several[0], prediction=np.mean([each.prediction for each in several], axis=0))
        )
    pooling = "patient_median" if len({each.patient for each in merged}) > 1 else "section_median"
    pcc = metrics.pooled_pcc(*_values(merged), pooling=pooling)
    genes = pd.DataFrame(common, columns=pd.Index(["gene", "ensembl_id"])).assign(pcc=pcc)
    about = {"sections": [each.name for each in merged], "pcc_pooling": pooling}
    return dataclasses.replace(
        runs[0], label=label, metrics=runs[0].metrics | about, genes=genes, sections=tuple(merged)
    )


def mean_pcc(run: RunResults) -> tuple[float, float, float]:
    """The mean PCC over genes of `together`'s, and the ends of its interval; NaN where there is none."""
    predictions, truths, patients = _values(run.sections)
    units = statistics.Units.of([each.spots.xy for each in run.sections], patients)
    group = metrics.group_of_section(patients, run.metrics["pcc_pooling"])
    bootstrap = statistics.Bootstrap(units, np.repeat(group, [len(truth) for truth in truths]))
    estimate = metrics.mean_of_known(run.genes["pcc"].to_numpy())
    drawn = bootstrap.draw(np.concatenate(predictions), np.concatenate(truths))
    low, high = statistics.intervals(
        estimate, [metrics.mean_of_known(each.pcc) for each in drawn], units, scale="correlation"
    )
    return float(estimate), float(low), float(high)


def of_patients(run: RunResults, key: str) -> float:
    """A metric of `together`'s, as ST-Net gives them.

    Args:
        key: "pcc_of_best" or "pcc_of_fifth", of genes by their PCC; "genes_pcc_above_0"; or "genes_sign_test", those
            whose PCC is positive in more patients than chance gives, at 10 % after Holm's correction.
    """
    if key == "genes_sign_test":
        pcc = metrics.of_groups(metrics.pearson_per_gene, *_values(run.sections), pooling="patient_median")
        return float(np.sum(statistics.holm(statistics.sign_test(pcc)) < SIGN_TEST_LEVEL))
    pcc = run.genes["pcc"].to_numpy(float)
    pcc = np.sort(pcc[~np.isnan(pcc)])[::-1]
    if key == "genes_pcc_above_0":
        return float(np.sum(pcc > 0))
    place = {"pcc_of_best": 0, "pcc_of_fifth": 4}[key]
    return float(pcc[place]) if len(pcc) > place else float("nan")


def _values(sections: Sequence[DrawnSection]) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """[S, G] predictions and truths of each section, and its patient."""
    truths = [each.truth for each in sections if each.truth is not None]
    return [each.prediction for each in sections], truths, [each.patient for each in sections]
