"""What tells the model's skill from chance, and what is left to gain from noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_prep.counted import counted
from stjax import metrics
from stjax.evaluation import statistics
from stjax.evaluation.comparison import TARGETS, Task
from stjax.evaluation.conformal import Calibration, report
from stjax.evaluation.methods import MODEL
from stjax.evaluation.noise_ceiling import fraction, noise_ceiling
from stjax.evaluation.scoring import ScoredSection, Scores
from stjax.inference.prepared import Found
from stjax.trust import FIGURES, Trust
from stjax.workdir import Run

ALPHA = 0.05
NOISELESS = "what cells express is scored: it has no counting noise"


def figures(
    task: Task, found: Sequence[Found], scores: Scores, calibration: Calibration | None, why_not: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Everything here, for metrics.json and, [M] each, for per_gene.csv.

    Args:
        calibration: of intervals; None, and why there is none.
    """
    permuted, columns = permutation(scores.sections)
    signs, why_no_signs = sign_test(scores.sections)
    result: dict[str, Any] = {"permutation": permuted, "sign_test": signs, "sign_test_reason": why_no_signs}
    result |= {"noise_ceiling": None, "noise_ceiling_reason": NOISELESS, "conformal": None, "conformal_reason": why_not}
    if why_not != NOISELESS:
        best, more = ceiling(task, found, scores.per_gene["model"]["pcc"])
        result |= {"noise_ceiling": best, "noise_ceiling_reason": ""}
        columns |= more
    if calibration is not None:
        result["conformal"], columns["coverage"] = report(calibration, task, found)
    return result, columns


def permutation(sections: Sequence[ScoredSection]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The permutation test of the model's prediction, for metrics.json and, [M] each, for per_gene.csv."""
    p = statistics.permutation_p(
        [section.predictions["model"] for section in sections],
        [section.truth for section in sections],
        [section.xy for section in sections],
    )
    corrected = statistics.holm(p)
    result = {
        "permutations": statistics.PERMUTATIONS,
        "what": "spatial blocks of the prediction, within sections; one-sided",
        "correction": "Holm",
        f"genes_below_{ALPHA}": int(np.sum(corrected < ALPHA)),
        f"genes_below_{ALPHA}_uncorrected": int(np.sum(p < ALPHA)),
        "genes_tested": int(np.sum(~np.isnan(p))),
    }
    return result, {"p_value": p, "p_holm": corrected}


def sign_test(sections: Sequence[ScoredSection]) -> tuple[dict[str, Any] | None, str]:
    """ST-Net's test over patients, or None and why there is none."""
    patients, genes = [section.patient for section in sections], sections[0].truth.shape[1]
    count, needed = len(set(patients)), statistics.patients_needed(genes, ALPHA)
    if count < needed:
        return None, (
            f"{counted(count, 'patients')}: with fewer than {needed} the sign test over {genes} genes cannot come out "
            f"below {ALPHA} after Holm's correction"
        )
    predictions, truths = [section.predictions["model"] for section in sections], [each.truth for each in sections]
    pcc = metrics.of_groups(metrics.pearson_per_gene, predictions, truths, patients, pooling="patient_median")
    corrected = statistics.holm(statistics.sign_test(pcc))
    return {"patients": count, f"genes_below_{ALPHA}": int(np.sum(corrected < ALPHA)), "correction": "Holm"}, ""


def ceiling(task: Task, found: Sequence[Found], pcc: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The noise ceiling of measured counts, and the model's PCCs [M] as fractions of it."""
    best, splits = noise_ceiling(
        [each.counts for each in found],
        [each.depth for each in found],
        [each.prediction.patient for each in found],
        transform=lambda counts, total: task.protocol.transform(counts, total, task.num_genes),
        pooling=task.protocol.pooling,
    )
    share = fraction(pcc, best)
    result = {
        "pcc_median": metrics.known(np.nanmedian, best),
        "model_fraction_median": metrics.known(np.nanmedian, share),
        "splits": splits,
    }
    return result, {"ceiling": best, "pcc_of_ceiling": share}


def trust(run: Run, own: Scores, targets: Mapping[str, Scores], columns: Mapping[str, np.ndarray]) -> Trust:
    """What goes with the model of each gene.

    Args:
        own: under the protocol's own target; targets: as `comparison.targets` has them.
        columns: of `figures`.
    """
    main, sections = run.fold.panel.main, own.sections
    known = {name: values for name, values in columns.items() if name in FIGURES}
    for name, target in (("normalised", TARGETS["library"]), ("raw", TARGETS["raw"])):
        scores = own if run.protocol.target == target else targets.get({t: key for key, t in TARGETS.items()}[target])
        if scores is not None:
            known |= {f"pcc_{name}{end}": scores.per_gene[MODEL][f"pcc{end}"] for end in ("", "_low", "_high")}
    unknown = np.full(len(main.names), np.nan)
    measured = np.stack([np.isfinite(each.truth).sum(axis=0) for each in sections])  # [sections, M]
    patients = np.array([each.patient for each in sections])
    table = {"gene": main.names, "ensembl_id": main.ensembl_id}
    table |= {name: known.get(name, unknown) for name in FIGURES}
    table |= rests_on(measured, patients)
    table |= {"resampled": "" if own.units is None else own.units.kind, "units": run.units}
    table |= {"symmetries": int(run.protocol.test_symmetries), "model_sha256": run.model_sha256}
    return Trust(pd.DataFrame(table))


def rests_on(measured: np.ndarray, patients: np.ndarray) -> dict[str, np.ndarray]:
    """{"patients", "sections", "spots"} that have each column's measurement: [N] of how many spots it has in each of
    some sections [sections, N], whose patients [sections] are given."""
    there = measured > 0
    whose = np.stack([there[patients == patient].any(axis=0) for patient in np.unique(patients)])
    return {"patients": whose.sum(axis=0), "sections": there.sum(axis=0), "spots": measured.sum(axis=0)}
