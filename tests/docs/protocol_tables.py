"""Writes the tables of docs/protocols.md off stjax/protocols.py: `python -m tests.docs.protocol_tables`."""

import dataclasses
from pathlib import Path

from stjax import protocols, targets

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocols.md"
BEGIN, END = "<!-- made by tests/docs/protocol_tables.py: begin -->", "<!-- end -->"
RULES = {  # field of Protocol: how the page calls it
    "target": "target",
    "standardise_main": "targets of the main genes as z-scores",
    "standardise_aux": "targets of the aux genes as z-scores",
    "num_main_genes": "main genes",
    "gene_ranking": "ranked by",
    "panel_scope": "ranked on",
    "min_spot_fraction": "a gene is in at least this share of the spots",
    "min_counts": "counts a spot has at least",
    "stain": "stain normalisation in the publication",
    "max_white_fraction": "patches are left out if so much of them is white",
    "white_filter_scope": "white patches are left out of",
    "image_std": "standard deviation of the images",
    "test_symmetries": "predictions averaged over eight symmetries",
    "pooling": "PCC pooled",
    "head_at_mean": "the head starts at the mean",
    "validation": "the checkpoint is chosen on sections",
    "num_folds": "folds",
    "test_patients": "patients held out",
}
SCOPES = {"train": "training", "all": "training and test"}


def render() -> str:
    """The rules of every protocol side by side, then each one's source and recipe."""
    every = [protocols.get_protocol(name) for name in protocols.names()]
    head = ["| | " + " | ".join(f"`{each.name}`" for each in every) + " |", "|---|" + "---|" * len(every)]
    table = [
        f"| {label} | " + " | ".join(_cell(each, field) for each in every) + " |" for field, label in RULES.items()
    ]
    recipes = [
        f"| {key.replace('_', ' ')} | " + " | ".join(f"{each.recipe[key]}" for each in every) + " |"
        for key in every[0].recipe
    ]
    sources = [f"**`{each.name}`**: {each.source}\n" for each in every]
    return "\n".join(
        [
            "## Rules", "", *head, *table, "",
            "## Optimisation", "",
            "Used where the config leaves a field at None; any can be set with `--config.KEY=VALUE`.", "",
            *head, *recipes, "",
            "## Sources, and what differs", "", *sources,
        ]
    ).rstrip()  # fmt: skip


def _cell(protocol: protocols.Protocol, field: str) -> str:
    value = getattr(protocol, field)
    if field == "white_filter_scope" and protocol.max_white_fraction == 1:
        return ""  # no patch is left out
    if field == "target":
        return targets.FORMULAS[str(value)]
    if field.endswith("_scope"):
        return SCOPES[str(value)]
    if field == "max_white_fraction" and value == 1.0:
        return "none"
    if field == "validation":
        return "of the test set" if value == "test" else "of validation patients"
    if field == "num_folds" and protocol.validation == "test":
        return ""
    if field in ("num_folds", "min_counts", "min_spot_fraction") and not value:
        return "no validation" if field == "num_folds" else "none"
    if field == "min_spot_fraction":
        return f"{value:.0%}"
    if field == "test_patients":
        return ", ".join(value) or "the last"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value}".replace("_", " ")


def fields_shown() -> set[str]:
    """Fields of `Protocol` that the page shows; a test holds it to all of them."""
    return {*RULES, "name", "source", "recipe"} & {field.name for field in dataclasses.fields(protocols.Protocol)}


def written(page: str) -> str:
    """The page with the tables made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
