"""What tells the model's skill from chance, and what is left to gain from noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.counted import counted
from stjax import metrics
from stjax.evaluation import statistics
from stjax.evaluation.comparison import Task
from stjax.evaluation.conformal import Calibration, report
from stjax.evaluation.noise_ceiling import fraction, noise_ceiling
from stjax.evaluation.scoring import ScoredSection, Scores
from stjax.inference.prepared import Found

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
