"""Checks raw data before a build, and reports what is wrong with it.

examples:
    python -m data_prep.check --source her2st                    # a table, and a picture per section
    python -m data_prep.check --source outs --image slide.tif --json

Per section: whether it can be read, spots outside the image, flipped or transposed coordinates, pitch against
um_per_px, the image's own scale and whether it shows cells, depth. Across sections: the same image or counts twice, one
patient under two names, patients in two folds. Exit code 1 when there are errors; a build stops on the same.
"""

import collections
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import checks, cli, overlay, patch_slide, patients, readers, system_errors
from data_prep.counts import row_totals
from data_prep.errors import InputError
from data_prep.genes import species_of
from data_prep.readers import _patients, _text
from data_prep.section import Section
from data_prep.spots import DISC

_MIN_COUNTS = 1000  # what build asks of a spot unless told otherwise


@dataclasses.dataclass
class Finding:
    """What is found about one section; the fields are the keys of `--json`."""

    name: str
    patient: str | None = None
    patient_source: str | None = None
    spots: int = 0
    genes: int = 0
    species: str | None = None
    um_per_px: float | None = None
    um_per_px_source: str | None = None
    median_counts: float | None = None
    on_tissue: float | None = None
    synthetic: bool = False
    overlay: str | None = None
    errors: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    image_sha256: str | None = dataclasses.field(default=None, repr=False)
    species_by: str = dataclasses.field(default="", repr=False)
    found: checks.Found = dataclasses.field(default_factory=checks.Found, repr=False)


def check(
    source: str | Path,
    *,
    layout: str = "auto",
    sections: Sequence[str] | None = None,
    folds: Path | None = None,
    overlays: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Look at every section of `source`.

    Args:
        source: the data set's folder.
        layout: a reader's name or "auto".
        sections: the names to look at; all by default.
        folds: a CSV of section,fold whose patients must not be in two folds.
        overlays: folder for a picture per section; none by default.
        options: reader options, see `data_prep.readers`.

    Raises:
        InputError: no such source, its layout is not recognised, or one image is given for several sections.
    """
    source = Path(source)
    reader, reason = readers.find_layout(source, layout)
    found = reader.find_sections(source, **options)
    names = list(found) if sections is None else list(sections)
    if unknown := [name for name in names if name not in found]:
        raise InputError(f"{source}: no section {', '.join(unknown)}; --sections may name {', '.join(found)}")
    if complete := [name for name in names if not found[name]]:
        reader.list_sections(source, sections=complete, **options)  # refuses one image for several sections
    if overlays is not None:
        overlays.mkdir(parents=True, exist_ok=True)
    findings = [
        _look(reader, source, name, found[name], overlays, options)
        for name in cli.progress(names, description="check", unit="section")
    ]
    strangers = [text] if (text := _patients.unknown_sections(source, found)) else []
    problems = checks.across([finding.found for finding in findings if finding.spots])
    errors = [problem.text for problem in problems if problem.level == checks.ERROR]
    return {
        "layout": reader.name,
        "reason": reason,
        "synthetic": any(finding.synthetic for finding in findings),
        "species": _species(findings),
        "sections": [_public(finding) for finding in findings],
        "errors": errors + (_fold_errors(findings, folds) if folds is not None else []),
        "warnings": [problem.text for problem in problems if problem.level == checks.WARNING] + strangers,
    }


def _species(findings: Sequence[Finding]) -> str:
    """The species of the sections read, and what tells it."""
    read = [finding for finding in findings if finding.species is not None]
    named = sorted({finding.species for finding in read if finding.species})
    which = [finding for finding in read if bool(finding.species) == bool(named)]
    if not which:
        return ""
    what = f"{' and '.join(named)}, by" if named else "not known:"
    return f"{what} {which[0].species_by} (section {which[0].name})"


def has_errors(report: dict[str, Any]) -> bool:
    """Whether the source or one of its sections has an error."""
    return bool(report["errors"]) or any(section["errors"] for section in report["sections"])


def _look(
    reader: readers.Reader, source: Path, name: str, lacks: str, overlays: Path | None, options: dict[str, Any]
) -> Finding:
    finding = Finding(name)
    if lacks:
        finding.errors.append(f"{lacks}; add it, or leave the section out with --skip-incomplete or --sections")
        return finding
    try:
        with tempfile.TemporaryDirectory() as scratch:
            section = reader.read_section(source, name, **options, scratch=Path(scratch))
            _describe(finding, section)
            _examine(finding, section, overlays)
    except InputError as error:
        finding.errors.append(" ".join(str(error).split()))
    return finding


def _examine(finding: Finding, section: Section, overlays: Path | None) -> None:
    """What checks find, and the overlay."""
    with patch_slide.open_image(section) as image:
        small = image.preview(checks.THUMBNAIL_PX)
        scale = small.shape[1] / image.width
        finding.found = checks.examine(section, image, small)
    finding.image_sha256, finding.on_tissue = finding.found.image_sha256, finding.found.on_tissue
    of_level = {checks.ERROR: finding.errors, checks.WARNING: finding.warnings, checks.NOTE: finding.notes}
    for problem in finding.found.problems:
        of_level[problem.level].append(problem.text)
    if overlays is not None:
        path = overlays / f"{finding.name}.png"
        overlay.draw(section, small, scale).save(path)
        finding.overlay = str(path)


def _describe(finding: Finding, section: Section) -> None:
    """Size, scale and depth."""
    total = row_totals(section.counts)
    finding.patient, finding.spots, finding.genes = section.patient, len(section.spots), len(section.genes)
    finding.species, finding.species_by = species_of(section.genes)
    finding.um_per_px, finding.um_per_px_source = section.um_per_px, section.um_per_px_source
    finding.median_counts, finding.synthetic = float(np.median(total)), section.synthetic
    finding.notes = list(section.notes)
    finding.patient_source = section.patient_source
    finding.found = checks.Found(section.name, section.patient, section.patient_source)
    low = float(np.mean(total < _MIN_COUNTS))
    if total.max() == 0 or section.spots.kind[0] != DISC:
        return  # an error of its own; and bins and cells are as deep as they are large
    if low == 1:
        finding.warnings.append(f"low depth: no spot has {_MIN_COUNTS} counts; a build keeps none without --min-counts")
    elif low > 0.5:
        finding.warnings.append(f"low depth: {low:.0%} of the spots have fewer than {_MIN_COUNTS} counts")


def _fold_errors(findings: list[Finding], folds: Path) -> list[str]:
    """Patients with sections in two folds of a CSV of section,fold."""
    header, *rows = _text.read_rows(folds, ",")
    listed = dict(zip(*_text.columns(folds, header, rows, ["section", "fold"]), strict=True))
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for finding in findings:
        if finding.patient and finding.name in listed:
            found[finding.patient][listed[finding.name]].append(finding.name)
    return [
        f"patient {patient} is in folds "
        + ", ".join(f"{fold} ({', '.join(names)})" for fold, names in sorted(by_fold.items()))
        + ": leakage; keep a patient's sections together"
        for patient, by_fold in found.items()
        if len(by_fold) > 1
    ]


def _public(finding: Finding) -> dict[str, Any]:
    """What `--json` shows."""
    hidden = ("found", "species_by")
    return {key: value for key, value in dataclasses.asdict(finding).items() if key not in hidden}


def print_report(report: dict[str, Any]) -> None:
    """The human table."""
    print(f"layout {report['layout']}: {report['reason']}" + ("; SYNTHETIC data" if report["synthetic"] else ""))
    rows = [
        ("section", "patient", "spots", "genes", "um/px", "from", "median counts", "on tissue", "errors", "warnings")
    ]
    for section in report["sections"]:
        known = section["um_per_px"] is not None
        rows.append((
            section["name"],
            section["patient"] or "?",
            str(section["spots"]),
            str(section["genes"]),
            f"{section['um_per_px']:.4f}" if known else "?",
            section["um_per_px_source"] or "?",
            f"{section['median_counts']:.0f}" if known else "?",
            "?" if section["on_tissue"] is None else f"{section['on_tissue']:.0%}",
            str(len(section["errors"])),
            str(len(section["warnings"])),
        ))  # fmt: skip
    print("\n".join(cli.table(rows, align="<<>>><>>>>")))
    origins = {each["name"]: each["patient_source"] for each in report["sections"] if each["patient_source"]}
    if origins:
        print(f"patients: {patients.summary(origins)}")
    if report["species"]:
        print(f"species: {report['species']}")
    for kind in ("errors", "warnings", "notes"):
        for section in report["sections"]:
            for text in section[kind]:
                print(f"{kind[:-1]}: section {section['name']}: {text}")
        for text in report.get(kind, ()):
            print(f"{kind[:-1]}: {text}")
    for section in report["sections"]:
        if section["overlay"]:
            print(section["overlay"])


def _parser() -> cli.Parser:
    parser = cli.Parser("python -m data_prep.check", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--layout", default="auto", help=f"auto or one of {', '.join(readers.layout_names())}")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    parser.add_argument("--sections", type=cli.names, metavar="A,B", help="look at these only")
    parser.add_argument("--folds", type=Path, metavar="FILE", help="CSV of section,fold to look for leakage in")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the overlays (check_<source>)")
    parser.add_argument("--no-overlays", action="store_true", help="draw none")
    cli.add_reading(parser)
    return parser


def main(arguments: list[str]) -> None:
    """The command line."""
    options = vars(_parser().parse_args(arguments))
    as_json, out, no_overlays = (options.pop(name) for name in ("json", "out", "no_overlays"))
    source = options.pop("source")
    overlays = None if no_overlays else out or Path(f"check_{source.resolve().name}")
    if overlays:
        system_errors.check_folder(overlays, "--out")
    options["um_per_px"] = options.pop("source_um_per_px")
    report = check(source, overlays=overlays, **options)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report)
    if has_errors(report):
        sys.exit(1)


if __name__ == "__main__":
    cli.program(main)
