"""How well scores of gene sets are predicted on the scored sections."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stjax import metrics
from stjax.evaluation import scoring
from stjax.evaluation.comparison import Task
from stjax.evaluation.credibility import rests_on
from stjax.evaluation.methods import MODEL
from stjax.evaluation.noise_ceiling import fraction, noise_ceiling
from stjax.evaluation.scoring import ScoredSection
from stjax.gene_sets import UNITS, GeneSets
from stjax.inference.prepared import Found
from stjax.workdir import Run


def reliability(run: Run, sets: GeneSets, found: Sequence[Found], pcc: np.ndarray) -> pd.DataFrame:
    """A row a set: PCC of predicted and measured scores with its interval, what noise allows, and what it rests on.

    Args:
        pcc: [M] of single genes, whose median over a set goes with it.
    """
    task, pooling = Task.own(run, None), run.protocol.pooling
    sections = []
    for each in found:
        scores = {MODEL: sets.scores(each.prediction.expression)}
        section = ScoredSection(
            each.prediction.patient, each.prediction.spots.xy, sets.scores(task.measured(each)), scores
        )
        sections.append(section[np.isfinite(section.truth).any(axis=1)])
    scored = scoring.score(sections, std=np.ones(len(sets.names)), pooling=pooling)
    best, _ = noise_ceiling(
        [each.counts for each in found],
        [each.depth for each in found],
        [each.prediction.patient for each in found],
        transform=lambda counts, total: sets.scores(task.protocol.transform(counts, total, task.num_genes)),
        pooling=pooling,
    )
    own = scored.per_gene[MODEL]
    figures = {name: own[name] for name in ("pcc", "pcc_low", "pcc_high")}
    figures |= {"ceiling": best, "pcc_of_ceiling": fraction(own["pcc"], best)}
    figures["pcc_of_genes"] = metrics.median_of_known(np.where(sets.members.T, pcc[:, None], np.nan))
    measured = np.stack([np.isfinite(each.truth).sum(axis=0) for each in sections])
    return sets.table().assign(
        **figures,
        **rests_on(measured, np.array([each.patient for each in sections])),
        resampled="" if scored.units is None else scored.units.kind,
        units=UNITS,
        symmetries=int(run.protocol.test_symmetries),
        model_sha256=run.model_sha256,
    )
