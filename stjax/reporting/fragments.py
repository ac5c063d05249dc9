"""A run's results in words and tables, as HTML."""

from collections.abc import Iterable, Sequence
from typing import Any

from stjax.evaluation.methods import METHODS, MODEL, label
from stjax.findings import LEAK, check_title
from stjax.reporting.markup import escape, interval, listed, notice, number, table, with_ends
from stjax.reporting.read import RunResults

# key of a method's summary -> title, decimals; in the order of the table.
FIGURES: dict[str, tuple[str, int]] = {
    "pcc_median": ("median PCC", 3),
    "pcc_mean": ("mean PCC", 3),
    "pcc_first_quartile": ("lower quartile PCC", 3),
    "genes_pcc_above_0.5": ("genes >\u00a0.5", 0),
    "genes_pcc_0.3_to_0.5": ("genes .3\u00a0to\u00a0.5", 0),
    "genes_pcc_0.1_to_0.3": ("genes .1\u00a0to\u00a0.3", 0),
    "genes_pcc_above_0": ("genes >\u00a00", 0),
    "genes_without_pcc": ("genes without PCC", 0),
    "genes_constant_prediction": ("genes predicted constant", 0),
    "amae": ("aMAE", 3),
    "armse": ("aRMSE", 3),
    "mse": ("MSE", 3),
    "spearman_median": ("median Spearman", 3),
    "pcc_section_median": ("median PCC by section", 3),
    "pcc_patient_median": ("median PCC by patient", 3),
    "pcc_smoothed_median": ("median PCC, smoothed", 3),
    "ssim_median": ("median SSIM", 3),
}
_FIRST = (
    "pcc_median",
    "pcc_mean",
    "genes_pcc_above_0.5",
    "amae",
    "armse",
)  # columns that fit a screen; others are folded
_SIZE_FIGURES = ("pcc_first_quartile", "pcc_median", "pcc_mean", "mse", "amae")
_FACTS = {
    "what": "permuted",
    "genes_below_0.05": "genes with p &lt; 0.05",
    "genes_below_0.05_uncorrected": "before the correction",
    "pcc_median": "median PCC",
    "model_fraction_median": "the model&rsquo;s share of it, median over genes",
    "splits": "splits of the counts",
    "coverage_of_genes": "coverage of genes (5 %, 50 % and 95 % of them)",
    "guaranteed": "enough patients to promise the level",
    "half_width_median": "median half width",
}
_STAR = '<p class="fine">* uses expression measured on the scored sections: a reference, not a competitor.</p>'
_TARGETS = {"raw": "raw counts, log(1 + x)", "library": "library-normalised, log"}


def banners(runs: Sequence[RunResults]) -> str:
    """What nobody may miss, above everything else."""
    boxes = []
    if synthetic := [run for run in runs if run.synthetic]:
        who = "This run's tissue is" if len(runs) == 1 else f"The tissue of {listed(run.label for run in synthetic)} is"
        boxes.append(
            '<div class="banner synthetic" role="note"><strong>SYNTHETIC DATA</strong> '
            f"<span>{who} made by stjax's demo. These results say nothing about real tissue.</span></div>"
        )
    said: dict[tuple[str, str, str], list[str]] = {}  # runs by what must be said of them
    for run in runs:
        if run.metrics.get("training_finished") is False:
            text = f"the model is trained for <b>{escape(run.metrics['trained'])}</b>, then its training was stopped."
            said.setdefault(("danger", "NOT FINISHED.", text), []).append(run.label)
        if constant := run.metrics["methods"][MODEL]["genes_constant_prediction"]:
            which = "every gene" if constant == len(run.genes) else f"{number(constant, 0)} of {len(run.genes)} genes"
            text = f"the prediction of <b>{which}</b> is the same at every spot, so they have no correlation."
            said.setdefault(("warning", "Constant predictions.", text), []).append(run.label)
        leaks = [entry for entry in run.metrics["audit"] if entry["verdict"] == LEAK]
        if leaks:
            text = "; ".join(f"{escape(check_title(entry['check']))} ({escape(entry['detail'])})" for entry in leaks)
            text += ". These results are not on unseen tissue."
            said.setdefault(("danger", "LEAKAGE FOUND.", text), []).append(run.label)
        if (part := run.metrics["part"]) not in ("held-out", "other"):
            key = ("danger", f"{part} sections.", "the model has seen some of this tissue.")
            said.setdefault(key, []).append(run.label)
        if caveat := run.metrics.get("caveat"):
            said.setdefault(("warning", "Spatial blocks.", f"{escape(caveat)}."), []).append(run.label)
        if (patients := run.metrics["patients_also_in_training"]) and not leaks:
            text = (
                f"patient {listed(patients)} is also in training: the results are on a patient "
                "seen in training, not on new patients."
            )
            said.setdefault(("warning", "Known patient.", text), []).append(run.label)
    for (kind, title, text), labels in said.items():
        boxes.append(notice(kind, title, text if len(runs) == 1 else f"{listed(labels)}: {text}"))
    return "".join(boxes)


def best_baseline(methods: dict[str, Any]) -> str | None:
    """The baseline of highest median PCC among those that see no test expression."""
    known = {
        name: summary["pcc_median"]
        for name, summary in methods.items()
        if name != MODEL and not METHODS[name].uses_test_expression and summary.get("pcc_median") is not None
    }
    return max(known, key=lambda name: known[name]) if known else None


def verdict(run: RunResults) -> str:
    """The finding in two sentences, no kinder than the results."""
    metrics, methods = run.metrics, run.metrics["methods"]
    model = methods["model"]
    ours, ends = model.get("pcc_median"), (model.get("intervals") or {}).get("pcc_median")
    if ours is None:
        predicted, measured = (model[f"genes_constant_{of}"] for of in ("prediction", "truth"))
        return (
            f"No gene has a correlation: of {model['genes']} genes, {predicted} are predicted the same at every spot, "
            f"and {measured} were measured the same."
        )
    spread = f" ({interval(ends)})" if interval(ends) else ""
    text = f"The model&rsquo;s median PCC over genes is <b>{number(ours)}</b>{spread}. "
    rival = best_baseline(methods)
    if rival is None:
        return text + "No baseline has a correlation to compare it with."
    theirs, their_ends = methods[rival]["pcc_median"], (methods[rival].get("intervals") or {}).get("pcc_median")
    text += f"The best baseline, {escape(METHODS[rival].label)}, reaches <b>{number(theirs)}</b>"
    text += f" ({interval(their_ends)})" if interval(their_ends) else ""
    if ours <= theirs:
        return text + ": the model does <b>not</b> beat it."
    paired = metrics.get("model_minus", {}).get(rival, {}).get("pcc_median", {}).get("interval")
    gain = f", {number(ours - theirs)} less"
    if interval(paired):
        sure = "" if paired[0] > 0 else ": the difference is not significant"
        return f"{text}{gain} ({interval(paired)}, paired){sure}."
    if not (ends and their_ends and interval(ends) and interval(their_ends)):
        return f"{text}{gain}. Without intervals, chance cannot be told from skill."
    if ends[0] > their_ends[1]:
        return f"{text}{gain}, and the intervals do not overlap."
    return f"{text}{gain}, but the intervals overlap: the difference is not significant."


def headline(run: RunResults) -> str:
    """The verdict in one line."""
    methods = run.metrics["methods"]
    ours, rival = methods[MODEL].get("pcc_median"), best_baseline(methods)
    if ours is None:
        return "The model predicts no gene."
    if rival is None:
        return "There is no baseline to compare the model with."
    name = escape(METHODS[rival].label)
    if ours <= methods[rival]["pcc_median"]:
        return f"The model is not better than the best baseline ({name})."
    paired = run.metrics.get("model_minus", {}).get(rival, {}).get("pcc_median", {}).get("interval")
    if interval(paired):
        sure = paired[0] > 0
    else:
        ends, theirs = ((methods[each].get("intervals") or {}).get("pcc_median") for each in (MODEL, rival))
        sure = bool(ends and theirs and interval(ends) and interval(theirs) and ends[0] > theirs[1])
    better = "significantly better" if sure else "better, but not significantly,"
    return f"The model is {better} than the best baseline ({name})."


def summary(run: RunResults) -> str:
    """What was scored, and the tiles."""
    metrics, model = run.metrics, run.metrics["methods"]["model"]
    sections = metrics["sections"]
    patients = sorted({section.patient for section in run.sections if section.patient})
    of = f" of patient{'s' if len(patients) > 1 else ''} {listed(patients)}" if patients else ""
    lead = (
        f"{escape(metrics['model'])} on <b>{number(metrics['spots'], 0)}</b> spots of "
        f"{escape(metrics['part'])} section{'s' if len(sections) > 1 else ''} {listed(sections)}{of}, "
        f"{len(run.genes)} genes, under protocol {escape(metrics['protocol'])}."
    )
    ends = model.get("intervals") or {}
    level = metrics.get("level")
    tiles = [
        ("median PCC", number(model.get("pcc_median")), interval(ends.get("pcc_median")), "over genes"),
        (
            "genes above 0.5",
            number(model.get("genes_pcc_above_0.5"), 0),
            interval(ends.get("genes_pcc_above_0.5"), 0),
            f"of {model.get('genes', len(run.genes))}",
        ),
        ("aMAE", number(model.get("amae")), interval(ends.get("amae")), metrics["error_unit"]),
    ]
    ceiling, permutation, conformal = (metrics.get(key) or {} for key in ("noise_ceiling", "permutation", "conformal"))
    if ceiling.get("model_fraction_median") is not None:
        share = f"{ceiling['model_fraction_median']:.0%}"
        tiles.append(("of the noise ceiling", share, "", f"median over genes; ceiling {number(ceiling['pcc_median'])}"))
    if permutation.get("genes_below_0.05") is not None:
        count = number(permutation["genes_below_0.05"], 0)
        tiles.append(("genes beyond chance", count, "", f"Holm, {permutation.get('permutations', '')} permutations"))
    if conformal.get("coverage") is not None:
        aim = conformal.get("level")
        tiles.append(("interval coverage", f"{conformal['coverage']:.1%}", "", f"aimed at {aim:.0%}" if aim else ""))
    boxes = "".join(
        f'<div class="tile"><dt>{escape(title)}</dt><dd class="value">{value}</dd>'
        + (f'<dd class="ends">{ends_}</dd>' if ends_ else "")
        + f'<dd class="aside">{escape(aside)}</dd></div>'
        for title, value, ends_, aside in tiles
    )
    rule = ""
    if level and (resampled := metrics.get("resampled")):
        rule = (
            f'<p class="fine">Intervals are {level:.0%} bootstrap intervals over '
            f"{escape(resampled.replace('_', ' '))}, {number(metrics.get('bootstraps'), 0)} resamples. "
        ) + (
            "They show how the results vary within these sections, not between patients.</p>"
            if resampled == "spatial_blocks"
            else "They show how the results vary between patients like these.</p>"
        )
    return f'<p>{lead}</p><dl class="tiles">{boxes}</dl>{rule}'


def methods_table(methods: dict[str, Any], caption: str, minus: dict[str, Any] | None = None) -> str:
    """Model and baselines, a row each, with intervals where there are.

    Args:
        minus: {method: {metric: {"difference", "interval"}}}, how far the model is above each.
    """
    shown = [key for key in FIGURES if any(summary.get(key) is not None for summary in methods.values())]
    first, more = [key for key in shown if key in _FIRST], [key for key in shown if key not in _FIRST]
    starred = any(METHODS[method].uses_test_expression for method in methods)
    text = _columns(methods, first, caption, minus or {}) + (_STAR if starred else "")
    if more:
        folded = _columns(methods, more, f"{caption}: more columns", {})
        text += f"<details><summary>More columns</summary>{folded}</details>"
    return text


def _columns(methods: dict[str, Any], shown: Sequence[str], caption: str, minus: dict[str, Any]) -> str:
    rows = []
    for method, figures in methods.items():
        ends = figures.get("intervals") or {}
        cells = [with_ends(figures.get(key), ends.get(key), FIGURES[key][1]) for key in shown]
        if minus:
            gain = minus.get(method, {}).get("pcc_median", {})
            cells.insert(1, with_ends(gain.get("difference"), gain.get("interval"), 3))
        rows.append([label(method, star="&thinsp;*"), *cells])
    head = ["", *(escape(FIGURES[key][0]) for key in shown)]
    if minus:
        head.insert(2, "model above it")
    return table(head, rows, caption=caption)


def methods(run: RunResults) -> str:
    """All tables of model and baselines: under the protocol, other targets, other protocols, other sizes."""
    metrics = run.metrics
    caption = f"{metrics['protocol']} ({metrics['target']}), PCC {metrics['pcc_pooling']}"
    caption += f"; errors in {metrics['error_unit']}"
    parts = [methods_table(metrics["methods"], caption, metrics.get("model_minus")), _explained(metrics["methods"])]
    if targets := metrics.get("targets"):
        parts.append(targets_table({name: entry["methods"] for name, entry in targets.items()}))
    parts += [sizes_table(metrics["sizes_um"])] if metrics.get("sizes_um") else []
    parts += [protocols_table(run)] if run.protocols else []
    return "".join(parts)


def _explained(methods: Iterable[str]) -> str:
    """What each method predicts."""
    items = "".join(f"<dt>{METHODS[each].label}</dt><dd>{escape(METHODS[each].about)}</dd>" for each in methods)
    return f'<details><summary>What each predicts</summary><dl class="facts">{items}</dl></details>'


def targets_table(targets: dict[str, dict[str, Any]]) -> str:
    """Median PCC of every method under each target, and all metrics below, folded."""
    names = list(dict.fromkeys(method for of in targets.values() for method in of))
    rows = []
    for method in names:
        cells = []
        for of in targets.values():
            figures = of.get(method) or {}
            cells.append(with_ends(figures.get("pcc_median"), (figures.get("intervals") or {}).get("pcc_median"), 3))
        rows.append([METHODS[method].label, *cells])
    titles = {name: _TARGETS.get(name, name) for name in targets}
    text = table(["", *map(escape, titles.values())], rows, caption="Median PCC for other targets")
    folded = "".join(methods_table(of, f"Target: {titles[name]}") for name, of in targets.items())
    return f"{text}<details><summary>All metrics under these targets</summary>{folded}</details>"


def sizes_table(sizes: dict[str, Any]) -> str:
    """Metrics by size of spot, of models of tiles."""
    rows = [
        [
            f"{escape(size)} µm{'' if entry.get('trained_on') else ' (not trained on)'} · {METHODS[method].label}",
            number(entry["spots"], 0),
            *(number(figures.get(key)) for key in _SIZE_FIGURES),
        ]
        for size, entry in sizes.items()
        for method, figures in entry["methods"].items()
    ]
    return table(["", "spots", *(escape(FIGURES[key][0]) for key in _SIZE_FIGURES)], rows, caption="By size of spot")


def protocols_table(run: RunResults) -> str:
    """The same prediction under every protocol that fits, compared with the best baseline."""
    rows = []
    for name, entry in run.protocols.items():
        methods = entry.get("methods") or {}
        model, rival = methods.get("model") or {}, best_baseline(methods)
        figures = [model.get("pcc_median"), model.get("pcc_mean"), model.get("amae")]
        best = methods[rival]["pcc_median"] if rival else None
        why = "" if entry.get("fits") else f"does not fit: {escape(entry.get('why', ''))}"
        rows.append([escape(name), *map(number, figures), number(best), why or (METHODS[rival].label if rival else "")])
    head = ["", "median PCC", "mean PCC", "aMAE", "best baseline&rsquo;s median PCC", ""]
    return table(head, rows, caption="One prediction under every protocol", text=(5,))


def significance(run: RunResults) -> str:
    """What the tests within the run say: permutations, sign test, ceiling, conformal intervals."""
    items = []
    for key, title in (
        ("permutation", "Permutation test"),
        ("sign_test", "Sign test over patients"),
        ("noise_ceiling", "Noise ceiling"),
        ("conformal", "Conformal intervals"),
    ):
        if key not in run.metrics:
            continue
        found = run.metrics[key]
        if isinstance(found, dict):
            facts = "; ".join(
                f"{_FACTS.get(name) or escape(name.replace('_', ' '))}: {_fact(value)}"
                for name, value in found.items()
                if value is not None
            )
        else:
            facts = escape(found or run.metrics.get(f"{key}_reason", "not available"))
        items.append(f"<dt>{title}</dt><dd>{facts}</dd>")
    return f'<dl class="facts">{"".join(items)}</dl>' if items else ""


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return f"<b>{'yes' if value else 'no'}</b>"
    if isinstance(value, float):
        return f"<b>{number(value)}</b>"
    if isinstance(value, list):
        return f"<b>{listed(number(each) if isinstance(each, float) else each for each in value)}</b>"
    return f"<b>{escape(value)}</b>"
