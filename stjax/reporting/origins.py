"""What a run's results come from, as HTML: its data, the leakage audit, and everything that pins them down."""

import json
from collections.abc import Sequence
from typing import Any

from stjax.features.store import RANDOM
from stjax.findings import CHOSEN, LEAK, OK, UNKNOWN, VERDICTS, check_title
from stjax.reporting.markup import MINUS, escape, listed, notice, number, table
from stjax.reporting.read import RunResults

_YES_OR_NO: dict[Any, str] = {True: "yes", False: "no"}
_REASONS = {
    "outside_image": "outside the image",
    "window_outside_image": "window crosses the border",
    "low_counts": "too few counts",
    "white": "too white",
}


def audit(run: RunResults) -> str:
    """The leakage audit."""
    entries = run.metrics["audit"]
    warnings = "".join(f"<li>{escape(text)}</li>" for text in run.data.get("split", {}).get("warnings", []))
    said = f'<p>Notes on the split when training began:</p><ul class="plain">{warnings}</ul>' if warnings else ""
    count = {kind: sum(entry["verdict"] == kind for entry in entries) for kind in VERDICTS}
    if count[LEAK]:
        head = notice("danger", "LEAKAGE FOUND.", f"{count[LEAK]} of {len(entries)} checks found a leak.")
    elif count[CHOSEN]:
        text = "Sections of one patient are in training and scored or validated on, as you named them: the results are "
        text += "on a patient seen in training, not on new patients."
        text += f" {count[UNKNOWN]} of {len(entries)} checks could not be made." * bool(count[UNKNOWN])
        head = notice("warning", "Same patient, by your choice.", text)
    elif count[UNKNOWN]:
        text = f"No leak found, but {count[UNKNOWN]} of {len(entries)} checks could not be made."
        head = notice("warning", "Not everything could be checked.", text)
    else:
        text = (
            f"All {len(entries)} checks passed. They cannot see one patient under two unlike names, or two under one."
        )
        head = notice("good", "No leak found.", text)
    rows = [
        [
            escape(check_title(entry["check"])),
            f'<span class="chip {entry["verdict"] if entry["verdict"] in (OK, LEAK) else "cannot"}">'
            f"{VERDICTS[entry['verdict']]}</span>",
            escape(entry["detail"]),
        ]
        for entry in entries
    ]
    return head + table(["check", "verdict", "detail"], rows, caption="Checks", text=(1, 2)) + said


def data(run: RunResults) -> str:
    """The split, and what preparation kept and removed."""
    split = run.data.get("split", {})
    parts = [
        f"<dt>{title}</dt><dd>{listed(split.get(key, []), most=40)}</dd>"
        for key, title in (("train", "Training"), ("val", "Validation"), ("test", "Held out"))
    ]
    text = f'<dl class="facts">{"".join(parts)}</dl>'
    manifest = run.manifest
    if manifest is None:
        return text + notice("note", "Preparation unknown.", escape(run.manifest_note))
    reasons = [reason for reason, count in manifest.get("removed", {}).items() if count] or ["low_counts"]
    rows = [_removed(entry["name"], entry.get("spots_read"), entry, reasons) for entry in manifest["sections"]]
    if len(rows) > 1:
        read = sum(entry.get("spots_read", 0) for entry in manifest["sections"])
        kept = sum(entry["spots"] for entry in manifest["sections"])
        rows.append(_removed("all", read, {"removed": manifest["removed"], "spots": kept}, reasons))
    head = [
        "section",
        "spots read",
        *(f"{MINUS} {escape(_REASONS.get(reason, reason))}" for reason in reasons),
        "spots kept",
    ]
    text += table(head, rows, caption="Spots removed in preparation")
    genes = manifest.get("genes_removed", {})
    text += (
        f"<p>{number(len(manifest['genes']['symbol']), 0)} genes are kept; removed: "
        f"{number(genes.get('never_expressed', 0), 0)} without counts in the kept spots, "
        f"{number(genes.get('in_too_few_spots', 0), 0)} in too few of them. "
        f"Species: {escape(manifest.get('species') or 'not known')}.</p>"
    )
    left_out = [f"section {escape(name)} left out: {escape(why)}" for name, why in manifest.get("skipped", {}).items()]
    left_out += [escape(warning) for warning in manifest.get("warnings", [])]
    notes = [
        f"{escape(entry['name'])}: {escape(each)}" for entry in manifest["sections"] for each in entry.get("notes", [])
    ]
    if left_out:
        text += '<ul class="plain">' + "".join(f"<li>{each}</li>" for each in left_out) + "</ul>"
    if notes:
        items = "".join(f"<li>{each}</li>" for each in notes)
        text += (
            f'<details><summary>Notes of preparation ({len(notes)})</summary><ul class="plain">{items}</ul></details>'
        )
    return text + (f'<p class="fine">{escape(manifest["citation"])}</p>' if manifest.get("citation") else "")


def _removed(name: str, read: Any, entry: dict[str, Any], reasons: Sequence[str]) -> list[str]:
    counts = [number(entry.get("removed", {}).get(reason, 0), 0) for reason in reasons]
    return [escape(name), number(read, 0), *counts, number(entry["spots"], 0)]


def _encoder(encoder: dict[str, str]) -> str:
    """Which it is, how it was trained here, what tells its weights, and what their licence asks for."""
    weights, pooling = encoder["weights_sha256"], encoder["pooling"]
    said = [encoder["title"], encoder["trained"], *([f"pooling {pooling}"] if pooling else [])]
    if weights:
        said.append(f"weights {weights}" if weights.startswith(RANDOM) else f"weights SHA-256 {weights[:12]}")
    terms = f": {encoder['terms']}" if encoder["terms"] else ""
    return f"{', '.join(said)}. Licence: {encoder['licence']}{terms}"


def provenance(run: RunResults, versions: dict[str, str]) -> str:
    """Where everything comes from: hashes, checkpoint, hardware, versions, config."""
    metrics = run.metrics
    facts = {
        "Run": run.label,
        "Model": metrics["model"],
        "Model SHA-256": metrics.get("model_sha256"),
        "Encoder": _encoder(metrics["encoder"]) if "encoder" in metrics else None,
        "Checkpoint step": metrics.get("checkpoint_step"),
        "Trained for": metrics["trained"],
        "Protocol": metrics["protocol"],
        "Protocol SHA-256": metrics.get("protocol_sha256"),
        "Units": metrics["units"],
        "Data set": run.data.get("data_dir"),
        "Data SHA-256": metrics.get("data_sha256"),
        "Trained on SHA-256": metrics.get("trained_on_sha256", run.data.get("content_hash")),
        "Mean over symmetries": _YES_OR_NO.get(metrics.get("mean_over_symmetries")),
        "Hardware of the scoring": metrics.get("hardware"),
        **{
            f"Versions, {stage}": ", ".join(f"{name} {value}" for name, value in found.items())
            for stage, found in (
                ("preparation", (run.manifest or {}).get("versions")),
                ("scoring", metrics["versions"]),
                ("this page", versions),
            )
            if found
        },
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>"
        for name, value in facts.items()
        if value is not None
    )
    shown = {"config.json": run.config, "preparation (data.json)": run.data.get("parameters", {})}
    blocks = "".join(
        f'<details><summary>{escape(name)}</summary><pre tabindex="0">{escape(json.dumps(values, indent=1))}</pre>'
        "</details>"
        for name, values in shown.items()
    )
    return f'<dl class="facts hashes">{rows}</dl>{blocks}'
