"""What evaluation prints and writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import cli, json_files
from stjax import outputs, workdir
from stjax.evaluation.methods import METHODS, MODEL, label
from stjax.findings import CHOSEN, LEAK, Finding, lines
from stjax.inference.prediction import SectionPrediction
from stjax.intervals import LEVEL
from stjax.outputs import h5ad, png
from stjax.tables import write_csv
from stjax.targets import FORMULAS

COLUMNS = {
    "pcc_median": "median PCC",
    "pcc_mean": "mean PCC",
    "genes_pcc_above_0": "> 0",
    "genes_pcc_0.1_to_0.3": ".1-.3",
    "genes_pcc_0.3_to_0.5": ".3-.5",
    "genes_pcc_above_0.5": "> .5",
    "amae": "aMAE",
    "armse": "aRMSE",
}
WITH_INTERVAL = ("pcc_median", "pcc_mean", "amae")
SIZE_COLUMNS = {  # as PixNet's tables
    "pcc_first_quartile": "PCC@F",
    "pcc_median": "PCC@S",
    "pcc_mean": "PCC@M",
    "mse": "MSE",
    "amae": "MAE",
}
LEGEND = (
    "PCC: Pearson correlation of a gene over spots; .1-.3: genes of that PCC; aMAE, aRMSE: mean over genes of MAE, RMSE"
)
_SAME = 1e-4  # of a median PCC: a model that is itself the ridge on features is not told that it does not beat it
_NAME = 24  # characters of a method's name


def write(
    target: Path,
    pictures: Path,
    result: Mapping[str, Any],
    per_gene: pd.DataFrame,
    predictions: Sequence[SectionPrediction],
    run: workdir.Run,
) -> list[Path]:
    """Writes metrics to the folder `target`, predictions and a map of the best gene of each section to `pictures`.

    Returns:
        The files.
    """
    target.mkdir(parents=True, exist_ok=True)
    json_files.write(target / "metrics.json", result)
    write_csv(target / "per_gene.csv", per_gene)
    written = [target / "metrics.json", target / "per_gene.csv"]
    panel = run.fold.panel
    best = int(per_gene["pcc"].fillna(-2).to_numpy().argmax())
    for prediction in predictions:
        names = prediction.section, f"{prediction.section}_{outputs.file_name(panel.labels[best])}"
        for name, form in zip(names, (h5ad, png), strict=True):
            written.append(pictures / f"{name}{form.SUFFIX}")
            form.write(written[-1], prediction, run, genes=np.arange(panel.num_main), shown=best)
    return written


def number(value: float | int | None) -> str:
    """A number of a table; "-" for one that does not exist."""
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def with_interval(value: float | int | None, ends: Sequence[float] | None) -> str:
    """A number of a table, and its interval where it has one."""
    return number(value) + (f" ({short(ends[0])} to {short(ends[1])})" if ends else "")


def short(value: float) -> str:
    """An end of an interval: two digits, without the leading zero."""
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def print_table(result: Mapping[str, Any]) -> None:
    """Model and baselines, a row each, and what the results do and do not show."""
    target = f"{result['target']}: {FORMULAS[result['target']]}"
    rules = f"protocol {result['protocol']} ({target}), PCC {result['pcc_pooling']}"
    sections = ", ".join(result["sections"])
    print(f"\n{result['part']} sections {sections}: {result['spots']} spots, {rules}, errors in {result['error_unit']}")
    print_methods(result["methods"])
    print_targets(result["targets"])
    others = " and ".join(f"{size:g}" for size in result["trained_sizes_um"])
    for size, figures in result["sizes_um"].items():
        trained = "trained on" if figures["trained_on"] else f"not trained on: the model was on {others} um"
        ratio = "" if figures["total_ratio"] is None else f", expected / measured counts {figures['total_ratio']:.3f}"
        print(f"spots of {size} um ({trained}): {figures['spots']}{ratio}")
        rows = [["", *SIZE_COLUMNS.values()]]
        for method, of in figures["methods"].items():
            rows.append([METHODS[method].label, *(number(of[key]) for key in SIZE_COLUMNS)])
        columns = len(SIZE_COLUMNS)
        print("\n".join(cli.table(rows, align="<" + ">" * columns, least=(_NAME, *[10] * columns))))
    print_credibility(result)
    print_notes(result)
    print()


def print_methods(methods: Mapping[str, Any]) -> None:
    """A row a method; intervals next to their metrics."""
    rows = [["", *COLUMNS.values()]]
    for method, summary in methods.items():
        ends = summary.get("intervals", {})
        cells = [with_interval(summary[key], ends.get(key) if key in WITH_INTERVAL else None) for key in COLUMNS]
        rows.append([label(method), *cells])
    least = (_NAME, *(18 if key in WITH_INTERVAL else 6 for key in COLUMNS))
    print("\n".join(cli.table(rows, align="<" + ">" * len(COLUMNS), least=least)))


def print_targets(targets: Mapping[str, Any]) -> None:
    """Median PCCs with raw and with library-normalised counts."""
    words = {"raw": "raw counts", "library": "library-normalised"}
    for name, entry in targets.items():
        known = {METHODS[m].label: s["pcc_median"] for m, s in entry["methods"].items() if s["pcc_median"] is not None}
        print(f"median PCC, {words[name]}: " + ", ".join(f"{title} {value:.3f}" for title, value in known.items()))


def print_credibility(result: Mapping[str, Any]) -> None:
    """Chance and noise, a line each."""
    permuted, ceiling, signs = result["permutation"], result["noise_ceiling"], result["sign_test"]
    corrected, before = permuted["genes_below_0.05"], permuted["genes_below_0.05_uncorrected"]
    of = f"of {permuted['genes_tested']} genes have p < 0.05 after Holm's correction, {before} before"
    print(f"beyond chance: {corrected} {of} (spatial blocks permuted)")
    if signs:
        print(f"positive over {signs['patients']} patients: {signs['genes_below_0.05']} genes (sign test, Holm)")
    if ceiling and ceiling["pcc_median"] is not None:
        share = ceiling["model_fraction_median"]
        reached = "" if share is None else f", of which the model reaches {share:.0%}"
        print(f"noise ceiling: median PCC {ceiling['pcc_median']:.3f}{reached} (medians over genes)")
    if (conformal := result["conformal"]) and conformal["coverage"] is not None:
        on = ", ".join(conformal["calibrated_on"])
        covered = f"cover {conformal['coverage']:.1%} of the measurements"
        print(f"{conformal['level']:.0%} prediction intervals, from patient {on}: {covered}")


def constant_lines(methods: Mapping[str, Any]) -> list[str]:
    """What must be said of genes without a PCC because prediction or measurement is the same at every spot."""
    lines = []
    for method, summary in methods.items():
        genes, everywhere = summary["genes"], summary["genes_constant_prediction"]
        name = METHODS[method].label
        if method == "mean":  # it says one value of each gene, as it should
            continue
        if everywhere:
            which = "ALL genes" if everywhere == genes else f"{everywhere} of {genes} genes"
            lines.append(f"{name}: {which} have the same prediction at every spot (constant): no PCC, not counted as 0")
        if inside := summary["genes_constant_in_a_section"]:
            lines.append(f"{name}: {inside} of {genes} genes do not vary within some section")
    measured = methods[MODEL]["genes_constant_truth"]
    if measured:
        lines.append(f"measurement: {measured} of {methods[MODEL]['genes']} genes do not vary: no PCC of any method")
    return lines


def print_notes(result: Mapping[str, Any]) -> None:
    """What a reader of the table must know."""
    print(LEGEND)
    if result["resampled"] is not None:
        what = "how results vary between patients" if result["resampled"] == "patients" else (
            "how results vary within these sections, not between patients"
        )  # fmt: skip
        over = result["resampled"].replace("_", " ")
        print(f"(a to b): {LEVEL:.0%} bootstrap intervals over {over}: {what}; * uses test expression")
    if result.get("training_finished") is False:
        print(f"NOT FINISHED: the model is trained for {result['trained']}; these results are of that state.")
    if caveat := result.get("caveat"):
        print(f"SPATIAL BLOCKS: {caveat}.")
    if result["synthetic"]:
        print("SYNTHETIC tissue: these results say nothing about real tissue.")
    for line in constant_lines(result["methods"]):
        print(line)
    if result["genes_not_in_the_data"]:
        print(f"note: the scored data lacks {result['genes_not_in_the_data']} of the genes; they have no results.")
    if about := result.get("ridge_features"):
        where = f"{about['encoder']} (features/{about['features']})"
        held_out = about["held_out"].replace("_", " ")
        print(f"ridge on features: of {where}, penalty {about['penalty']:g}, chosen on {held_out} held out of training")
        if about["remark"]:
            print(f"note: ridge on features: {about['remark']}")
    ours = result["methods"][MODEL]["pcc_median"]
    of_colour, of_features = ("ridge_colour", "the colour of the patch", 0.0), ("ridge_features", "its features", _SAME)
    for rival, what, within in (of_colour, of_features):
        theirs = result["methods"].get(rival, {}).get("pcc_median")
        if ours is not None and theirs is not None and ours <= theirs - within:
            print(f"The model does NOT beat a ridge regression on {what}.")
    findings = [Finding(**entry) for entry in result["audit"]]
    shown = [finding for finding in findings if finding.verdict in (LEAK, CHOSEN)]
    print("\n".join([*lines(shown)[: len(shown)], f"leakage audit: {lines(findings)[-1]}"]))
