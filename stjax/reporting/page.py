"""The page: text and tables made here, charts and maps drawn by its script, all in one file that asks for nothing else.

A content security policy inside the page allows its own style and script, by their hashes, and no connection at all.
"""

import base64
import datetime
import hashlib
import importlib.metadata
import json
import math
import platform
import string
from collections.abc import Sequence
from importlib import resources
from typing import Any

import pandas as pd

from data_prep.gene_lookup import other_names
from stjax.evaluation import statistics
from stjax.evaluation.methods import METHODS, column
from stjax.reporting import compare, fragments, maps, origins, overview
from stjax.reporting.markup import DASH, escape, interval, listed, notice, number, table, with_ends
from stjax.reporting.read import RunResults
from stjax.targets import FORMULAS
from stjax.trust import FLOOR

SCRIPTS = ("core.js", "charts.js", "table.js", "scales.js", "maps.js", "main.js")
LOG_POINTS = 600
_EPOCH_FIGURES = ("loss", "val_loss", "val_pcc_median")
_METHODS = {  # as the script knows them
    name: {"label": each.label, "column": column("pcc", name), "uses_test_expression": each.uses_test_expression}
    for name, each in METHODS.items()
}
_CHART = (
    '<figure class="chart" id="runs"><figcaption><span class="figure-title">The models</span><span class="controls">'
    '<label>Metric <select id="runs-figure" autocomplete="off"></select></label></span></figcaption>'
    '<div class="plot"></div></figure>'
)
_DIGITS = 7  # of metrics in the page; per_gene.csv has them all


def build(runs: Sequence[RunResults], *, limit: int) -> str:
    """The page of runs as HTML.

    Args:
        limit: bytes the page may have; maps give way to keep it.
    """
    style = _asset("report.css")
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();\n"
    template = string.Template(_asset("report.html"))
    several = len(runs) > 1
    values = {
        "title": escape(_title(runs)),
        "heading": _heading(runs),
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "policy": escape(
            f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data: blob:; "
            "base-uri 'none'; form-action 'none'"
        ),
        "banners": fragments.banners(runs),
        "runs": _switcher(runs) if several else "",
        "comparison": _section("comparison", "Comparison", comparison(runs)) if several else "",
        "nav_comparison": '<li><a href="#comparison">Comparison</a></li>' if several else "",
        "style": style,
        "script": script,
    }
    versions = _versions()
    for name, make in (
        ("overview", overview.overview),
        ("summary", fragments.summary),
        ("methods", fragments.methods),
        ("significance", fragments.significance),
        ("audit", origins.audit),
        ("data_section", origins.data),
        ("provenance", lambda run: origins.provenance(run, versions)),
        ("map_notes", lambda run: "".join(notice("note", "Map.", escape(note)) for note in run.notes)),
    ):
        values[name] = "".join(
            f'<div class="for-run" data-run="{place}"{" hidden" if place else ""}>{_named(run, several)}{content}</div>'
            for place, run in enumerate(runs)
            if (content := make(run))
        )
    payload = [_payload(run) for run in runs]
    rest = sum(map(len, values.values())) + len(_json(payload))
    packed = maps.pack(runs, limit=max(0, limit - rest - _spot_bytes(runs)))
    for entry, sections, genes in zip(payload, packed.runs, packed.genes, strict=True):
        entry["sections"], entry["mapped"] = sections, genes
    values["quantised"] = _quantised(runs, packed)
    values["data"] = _json({"runs": payload, "bits": packed.bits, "methods": _METHODS, "floor": FLOOR})
    values["blobs"] = "\n".join(
        f'<script type="application/octet-stream" id="blob-{key}">{text}</script>'
        for key, text in packed.store.texts.items()
    )
    return template.substitute(values)


def comparison(runs: Sequence[RunResults]) -> str:
    """Several runs side by side, and the tests between them."""
    shown = [key for key in fragments.FIGURES if any(_model(run).get(key) is not None for run in runs)]
    rows = []
    for run in runs:
        ends = _model(run).get("intervals") or {}
        cells = [with_ends(_model(run).get(key), ends.get(key), fragments.FIGURES[key][1]) for key in shown]
        rows.append([escape(run.label), escape(run.metrics["model"]), escape(run.metrics["protocol"]), *cells])
    head = ["run", "model", "protocol", *(escape(fragments.FIGURES[key][0]) for key in shown)]
    text = _CHART + table(head, rows, caption="The runs", text=(1, 2))
    head = ["paired over", "difference of PCC", f"{statistics.LEVEL:.0%} interval", "p (Holm)", ""]
    for pair in compare.compare(runs):
        tests = [
            [unit, number(level.difference), interval([level.low, level.high]) or DASH, _p(level.p), _outcome(level)]
            for unit, level in pair.levels.items()
        ]
        text += table(head, tests, caption=f"Paired tests: {pair.first} minus {pair.second}", text=(4,))
    return text + (
        '<p class="fine"><b>Over genes</b> (Wilcoxon&rsquo;s signed-rank test): is one model better for most genes of '
        "this tissue? Genes are measured in the same spots and vary together, so this p-value is too small to speak of "
        "other tissue. <b>Over spots</b> (patients, or where they are few blocks of neighbouring spots within each "
        f"section, drawn anew {compare.RESAMPLES:,} times, the same for both runs): would it be, on such spots? Blocks "
        "speak of these sections alone. <b>Over patients</b> (exact sign test): would it be on other patients? That "
        f"needs at least {compare.FEWEST_PATIENTS} scored "
        "patients. p-values of each kind are Holm-corrected over the pairs of runs.</p>"
    )


def _section(key: str, title: str, content: str) -> str:
    return f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{content}</section>'


def _model(run: RunResults) -> dict[str, Any]:
    return run.metrics["methods"]["model"]


def _outcome(level: compare.Level) -> str:
    if level.why:
        return escape(level.why)
    if level.wins is None:
        return f"{number(level.n, 0)} {escape(level.unit)} drawn anew"
    return f"the first is better for {number(level.wins, 0)} of {number(level.n, 0)} {escape(level.unit)}"


def _p(value: float | None) -> str:
    if value is None:
        return DASH
    return "&lt; 0.0001" if value < 1e-4 else number(value, 4 if value < 0.01 else 3)


def _title(runs: Sequence[RunResults]) -> str:
    return f"{', '.join(run.label for run in runs)} | stjax report"


def _heading(runs: Sequence[RunResults]) -> str:
    return escape(runs[0].label) if len(runs) == 1 else f"{len(runs)} runs compared"


def _named(run: RunResults, several: bool) -> str:
    return f'<p class="run-name">{escape(run.label)}</p>' if several else ""


def _switcher(runs: Sequence[RunResults]) -> str:
    """The choice of the run that the rest of the page is about."""
    options = "".join(f'<option value="{place}">{escape(run.label)}</option>' for place, run in enumerate(runs))
    return f'<label class="switcher">Run <select id="run" autocomplete="off">{options}</select></label>'


def _payload(run: RunResults) -> dict[str, Any]:
    """What the script draws, without maps."""
    metrics = run.metrics
    genes = {
        name: [_rounded(value) for value in column] if pd.api.types.is_numeric_dtype(column) else column.tolist()
        for name, column in run.genes.items()
    }

    def names_of(column: str) -> list[str]:
        return run.genes[column].fillna("").astype(str).tolist() if column in run.genes else []

    return {
        "label": run.label,
        "model": metrics["model"],
        "target": metrics["target"],
        "unit": FORMULAS.get(metrics["target"], metrics["target"]),
        "methods": metrics["methods"],
        "targets": {name: entry["methods"] for name, entry in (metrics.get("targets") or {}).items()},
        "level": metrics.get("level"),
        "genes": genes,
        # Found where they are typed whole: HER2 is ERBB2, and "er" is not every gene that some alias has it in.
        "aliases": [f" {' '.join(names)} " for names in other_names(names_of("ensembl_id"), names_of("gene"))],
        "log": _log(run.log),
    }


def _rounded(value: Any) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, int | float) and math.isfinite(value) else None


def _log(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Training curves: steps averaged into at most `LOG_POINTS` bins, epochs as they are."""
    steps = [entry for entry in entries if entry.get("kind") == "train"]
    size = max(1, math.ceil(len(steps) / LOG_POINTS))
    bins = [steps[start : start + size] for start in range(0, len(steps), size)]

    def mean(entries: Sequence[dict[str, Any]], key: str) -> float | None:
        values = [
            entry[key] for entry in entries if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
        ]
        return _rounded(sum(values) / len(values)) if values else None

    train = {key: [mean(part, key) for part in bins] for key in ("step", "loss", "learning_rate")}
    epochs = [entry for entry in entries if entry.get("kind") == "epoch"]
    epoch = {key: [_rounded(entry.get(key)) for entry in epochs] for key in ("step", *_EPOCH_FIGURES)}
    return {"train": train, "epoch": epoch, "steps_per_point": size, "best": [bool(e.get("best")) for e in epochs]}


def _spot_bytes(runs: Sequence[RunResults]) -> int:
    """About what names and places of the mapped spots, and the ends of genes' values, take in the page."""
    per_section = [
        min(len(section.spots), maps.MAX_SPOTS) * (len(str(section.spots.id[0])) + 20) + len(run.genes) * 90
        for run in runs
        for section in run.sections
        if len(section.spots)
    ]
    return sum(per_section)


def _quantised(runs: Sequence[RunResults], packed: maps.Packed) -> str:
    """What the maps show is not quite the data, and how it differs."""
    levels = 2**packed.bits - 2
    text = (
        f"Map values are stored with {packed.bits} bits: each gene&rsquo;s range in a section is divided into "
        f"{levels:,} steps, so a value shown is off by at most 1/{2 * levels:,} of that range. "
        "Metrics per gene are those of <code>per_gene.csv</code>; values per spot are exact in "
        "<code>predictions/*.h5ad</code>."
    )
    lacking = [
        f"{len(run.genes) - len(genes)} of {len(run.genes)} genes of {escape(run.label)}"
        for run, genes in zip(runs, packed.genes, strict=True)
        if len(genes) < len(run.genes)
    ]
    if lacking:
        text += f" To keep the file small, the genes of lowest PCC have no map: {listed(lacking)}."
    if packed.spots_left_out:
        text += (
            f" Of sections with more than {maps.MAX_SPOTS:,} spots, that many, drawn at random, are shown: "
            f"{packed.spots_left_out:,} spots are not. Results are of all spots."
        )
    return text


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in ("stjax", "numpy", "anndata", "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a copy that is not installed
    return found


def _json(values: Any) -> str:
    """JSON that no text inside can end: `<`, `>` and `&` are escaped."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _asset(name: str) -> str:
    return resources.files("stjax.reporting").joinpath("assets", name).read_text(encoding="utf-8")
