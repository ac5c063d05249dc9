"""The page of a suite: who is ahead, by how much, and whether that means anything, on one screen; a file that asks for
nothing else."""

import math
from importlib import resources
from typing import Any

from stjax.reporting.markup import escape, notice, table

_STYLE = """
main { max-width: 1240px; margin: 0 auto; padding: 24px clamp(16px, 4vw, 48px) 64px; }
.chart { width: 100%; max-width: 900px; height: auto; display: block; margin: 18px 0 6px; }
.chart text { font-size: 13px; fill: var(--ink); }
.chart .axis { fill: var(--muted); font-size: 12px; }
.chart line { stroke: var(--line); }
.chart .ends { stroke: var(--accent); stroke-width: 3; }
.chart circle { fill: var(--accent); }
.chart .quoted { fill: var(--muted); }
"""
_ROW, _LEFT, _WIDTH, _TOP = 28, 330, 900, 8


def build(tables: Any) -> str:
    """The page of `stjax.suites._table.Tables` as HTML."""
    css = resources.files("stjax.reporting").joinpath("assets", "report.css").read_text(encoding="utf-8")
    title = escape(tables.suite.title)
    lost = sum(run["status"] != "done" for run in tables.runs)
    text = (
        notice("danger", "Synthetic tissue.", "These results say nothing about any model.") if tables.synthetic else ""
    )
    if lost:
        text += notice("warning", "Not complete.", f"{lost} of {len(tables.runs)} runs are not finished.")
    for part in tables.parts:
        for place, block in enumerate(part.blocks()):
            text += f"<h2>{escape(block.title)}</h2>"
            text += f'<p class="lead">{escape(block.verdict)}</p>' if block.verdict else ""
            text += "" if place else _chart(part)
            shown = [[_cell(*cell) for cell in zip(block.head, row, strict=True)] for row in block.rows]
            text += table([escape(name) for name in block.head], shown, caption=block.title)
            text += '<ul class="plain">' + "".join(f"<li>{escape(note)}</li>" for note in block.notes) + "</ul>"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{css}{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{text}</main></body></html>\n"
    )


def _cell(column: str, text: str) -> str:
    shown = escape(text) or "&ndash;"
    return f'<span style="color:var(--muted)">{shown}</span>' if column.startswith("published") else shown


def _chart(part: Any) -> str:
    """The mean PCC of each row with its interval, and what was published of it in grey; "" where there is none."""
    measured = {row.name: row.mean_pcc for row in part.rows if row.mean_pcc and math.isfinite(row.mean_pcc[0])}
    known = [row for row in part.rows if row.name in measured or "pcc_mean" in row.quoted]
    if not known:
        return ""
    ends = [end for of in measured.values() for end in of if math.isfinite(end)]
    ends += [row.quoted["pcc_mean"] for row in known if "pcc_mean" in row.quoted]
    low, high = min([0.0, *ends]), max([0.1, *ends])

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 20), 1)

    bottom = _TOP + _ROW * len(known)
    text = ""
    for step in range(5):
        at = low + (high - low) * step / 4
        text += f'<line x1="{x(at)}" x2="{x(at)}" y1="{_TOP}" y2="{bottom}"/>'
        text += f'<text class="axis" x="{x(at)}" y="{bottom + 16}" text-anchor="middle">{at:.2f}</text>'
    for place, row in enumerate(known):
        y = _TOP + _ROW * (place + 0.5)
        text += f'<text x="{_LEFT - 14}" y="{y + 4}" text-anchor="end">{escape(row.name[:48])}</text>'
        if row.name in measured:
            value, first, last = measured[row.name]
            if math.isfinite(first):
                text += f'<line class="ends" x1="{x(first)}" x2="{x(last)}" y1="{y}" y2="{y}"/>'
            text += f'<circle cx="{x(value)}" cy="{y}" r="6"/>'
        if "pcc_mean" in row.quoted:
            text += f'<circle class="quoted" cx="{x(row.quoted["pcc_mean"])}" cy="{y}" r="4"/>'
    label = escape(f"Mean PCC and interval of each row: {part.name}")
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {bottom + 24}" role="img" aria-label="{label}">{text}</svg>'
        '<p class="fine">Mean PCC over genes with its interval; grey: as published.</p>'
    )
