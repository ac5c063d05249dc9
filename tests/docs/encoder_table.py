"""Writes the table of docs/encoders.md off stjax/encoders.py: `python -m tests.docs.encoder_table`."""

from pathlib import Path

from stjax import encoders

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
BEGIN, END = "<!-- made by tests/docs/encoder_table.py: begin -->", "<!-- end -->"


def render() -> str:
    """A row an encoder, the best on HEST-Benchmark first; then what the licences allow."""
    head = ["| Name | Encoder | D | um per px | HEST | Licence | Access |", "|---|---|---:|---|---:|---|---|"]
    ranked = sorted(encoders.ENCODERS.items(), key=lambda item: -(item[1].hest or 0))
    used = dict.fromkeys(entry.licence for _, entry in ranked)
    allowed = [f"| {licence} | {encoders.LICENCES[licence]} |" for licence in used]
    return "\n".join([*head, *(_row(*item) for item in ranked), "", "| Licence | Allows |", "|---|---|", *allowed])


def _row(name: str, entry: encoders.Encoder) -> str:
    scale = entry.um_per_px
    low_high = "photographs" if scale is None else " to ".join(f"{value:g}" for value in dict.fromkeys(scale))
    hest = "" if entry.hest is None else f"{entry.hest:.4f}"
    access = "package" if entry.package else "gated" if entry.gated else "open"
    title = f"[{entry.title}]({entry.source})"
    return f"| `{name}` | {title} | {entry.features} | {low_high} | {hest} | {entry.licence} | {access} |"


def written(page: str) -> str:
    """The page with its table as it should be."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{render()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
