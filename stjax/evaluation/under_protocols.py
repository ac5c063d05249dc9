"""One prediction scored under every protocol that fits.

A protocol fits when its target can be computed from the counts of genes that the model predicts: that is so for every
target, so what decides is whether at least half of the protocol's genes are among the model's. Where the model was
trained for another target its prediction stays in its own units, because to convert it would take each test spot's
measured total: then correlations are compared, and errors are not. (A model of rates predicts totals, and is converted
by those.) What else of the protocol cannot be followed after training is said in `why`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep import cli
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import protocols
from stjax.config import spot_sizes
from stjax.data.fit import fit
from stjax.evaluation import comparison, results
from stjax.evaluation.comparison import Task
from stjax.evaluation.methods import METHODS, MODEL
from stjax.inference.prepared import Found, Training, narrowed
from stjax.protocols import Protocol
from stjax.workdir import Run

MIN_SHARE = 0.5  # of a protocol's genes, that the model must predict
_TITLES = {"pcc_median": "median PCC", "pcc_mean": "mean PCC", "amae": "aMAE"}


def loosest(run: Run) -> Run:
    """The model, predicting the spots of every protocol."""
    fewest = min(protocols.get_protocol(name).min_counts for name in protocols.names())
    rules = dataclasses.replace(run.protocol, min_counts=fewest, max_white_fraction=1.0)
    return dataclasses.replace(run, protocol=rules)


def spots_of(protocol: Protocol, found: Found) -> np.ndarray:
    """[S] bool: the spots that a protocol scores."""
    return protocol.uses(found.prediction.total, found.white, train=False)


def own_spots(run: Run, found: Sequence[Found]) -> list[Found]:
    """What the run's protocol scores of the spots of every protocol; sections without any are left out."""
    genes = np.arange(run.fold.panel.num_main)
    own = [narrowed(each, spots_of(run.protocol, each), genes) for each in found]
    return [each for each in own if len(each.depth)]


def score(
    run: Run, trained_on: PatchDataset | None, found: Sequence[Found], training: Training | None
) -> dict[str, dict[str, Any]]:
    """{protocol: what protocols.json says of it}.

    Args:
        trained_on: the run's data set, on whose training sections the protocols' genes are ranked.
        found: the spots of every protocol.
    """
    return {name: _under(protocols.get_protocol(name), run, trained_on, found, training) for name in protocols.names()}


def _under(
    protocol: Protocol, run: Run, trained_on: PatchDataset | None, found: Sequence[Found], training: Training | None
) -> dict[str, Any]:
    head = {"protocol_sha256": protocol.hash, "target": protocol.target, "pcc_pooling": protocol.pooling}
    if trained_on is None or training is None:
        return {"fits": False, "why": "the training data is gone, on which its genes are ranked", **head, "methods": {}}
    own = protocol.name == run.fold.protocol
    panel = run.fold.panel
    try:
        sizes = spot_sizes(run.config)
        ranked = panel if own else fit(run.view, protocol, trained_on, run.fold.split, sizes_um=sizes).panel
    except InputError as error:
        return {"fits": False, "why": str(error), **head, "methods": {}}
    wanted = set(zip(ranked.ensembl_id[: ranked.num_main], ranked.symbol[: ranked.num_main], strict=True))
    ours = list(zip(panel.ensembl_id[: panel.num_main], panel.symbol[: panel.num_main], strict=True))
    genes = np.array([place for place, gene in enumerate(ours) if gene in wanted], np.int64)
    known = f"{len(genes)} of its {len(wanted)} genes are among the model's {len(ours)}"
    head |= {"genes": len(genes), "genes_of_protocol": len(wanted)}
    if len(genes) < MIN_SHARE * len(wanted):
        return {"fits": False, "why": known, **head, "methods": {}}
    used = [narrowed(each, spots_of(protocol, each), genes) for each in found]
    used = [each for each in used if len(each.depth)]
    if not used:
        return {"fits": False, "why": f"no spot has its {protocol.min_counts} counts", **head, "methods": {}}
    narrow = training._replace(counts=training.counts[:, genes])
    task = Task.own(run, training) if own else Task.of(protocol, run, narrow)
    scores = comparison.score(run, task, used, pooling=protocol.pooling)
    why = ["what the model was trained under"] if own else _deviations(protocol, run, used, known)
    spots = sum(len(each.depth) for each in used)
    return {"fits": True, "why": "; ".join(why), **head, "spots": spots, "methods": scores.summaries}


def _deviations(protocol: Protocol, run: Run, found: Sequence[Found], genes: str) -> list[str]:
    """What of a protocol is not as it says."""
    result = [genes]
    if protocol.target != run.protocol.target:
        if found[0].prediction.predicted_total is None:
            result.append(f"correlations only: the model predicts {run.protocol.target}, not {protocol.target}")
        else:
            result.append(f"converted from {run.protocol.target} by the counts that the model expects")
    stain = run.fold.parameters["stain"]
    if protocol.stain != stain:
        result.append(f"stains: {stain}, not {protocol.stain}")
    if protocol.test_symmetries != run.protocol.test_symmetries:
        result.append(("no " if protocol.test_symmetries else "") + "mean over symmetries")
    if protocol.panel_scope == "all":
        result.append("genes ranked on test patients too, as published")
    in_data = run.fold.parameters["min_counts"]
    if in_data > protocol.min_counts:
        result.append(f"spots with fewer than {in_data} counts are not in the data")
    return result


def print_table(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Every protocol, with the model and the ridge."""
    content: list[list[str] | str] = [["", "spots", "genes", *_TITLES.values(), "PCC"]]  # rows, and lines between them
    for name, entry in entries.items():
        if not entry["fits"]:
            content.append(f"{name}: does not fit: {entry['why']}")
            continue
        for method in (each for each in (MODEL, "ridge_colour", "ridge_features") if each in entry["methods"]):
            summary = entry["methods"][method]
            cells = [results.with_interval(summary[key], summary["intervals"][key]) for key in _TITLES]
            label = f"{name} ({entry['target']})" if method == MODEL else f"  {METHODS[method].label}"
            content.append([label, str(entry["spots"]), str(entry["genes"]), *cells, entry["pcc_pooling"]])
        content.append(f"  {entry['why']}")
    rows = [line for line in content if not isinstance(line, str)]
    lines = iter(cli.table(rows, align="<>>>>><", least=(42, 5, 5, 19, 19, 19, 0)))
    print("\none prediction under every protocol")
    for line in content:
        print(line if isinstance(line, str) else next(lines))
