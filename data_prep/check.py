"""The doctor: look at a source before building from it, and say what is wrong with it.

examples:
    python -m data_prep.check --source her2st                    # a table, and a picture per section
    python -m data_prep.check --source outs --image slide.tif --json

Per section: whether it can be read, spots outside the image, flipped or transposed coordinates, pitch against
um_per_px, the image's own scale, depth. Across sections: the same image or counts twice, one patient under two names,
patients in two folds. Exit code 1 when there are errors.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.spatial

from data_prep import cli, overlay, readers, slide, tissue
from data_prep.errors import InputError
from data_prep.readers import _text
from data_prep.section import DISC, SQUARE, Section

THUMBNAIL_PX = 1400
MIN_READS = 1000  # what build asks of a spot unless told otherwise
_SAMPLE = 20_000  # spots are plenty to see how they lie
_ORIENTATIONS = {
    (False, False, False): "as they are",
    (False, True, False): "mirrored left to right",
    (False, False, True): "mirrored top to bottom",
    (False, True, True): "turned by 180 degrees",
    (True, False, False): "with x and y swapped",
    (True, True, False): "turned by 90 degrees",
    (True, False, True): "turned by 270 degrees",
    (True, True, True): "with x and y swapped and turned by 180 degrees",
}


@dataclasses.dataclass
class Finding:
    """What is found about one section; the fields are the keys of `--json`."""

    name: str
    patient: str | None = None
    spots: int = 0
    genes: int = 0
    um_per_px: float | None = None
    um_per_px_source: str | None = None
    median_reads: float | None = None
    on_tissue: float | None = None
    synthetic: bool = False
    overlay: str | None = None
    errors: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    image_sha256: str | None = dataclasses.field(default=None, repr=False)
    image_path: str | None = dataclasses.field(default=None, repr=False)
    counts_sha256: str | None = dataclasses.field(default=None, repr=False)


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
        InputError: no such source, or its layout is not recognised.
    """
    source = Path(source)
    module, reason = readers.find_layout(source, layout)
    found = module.find_sections(source, **options)
    names = list(found) if sections is None else list(sections)
    if unknown := [name for name in names if name not in found]:
        raise InputError(f"{source}: no section {', '.join(unknown)}; --sections may name {', '.join(found)}")
    if overlays is not None:
        overlays.mkdir(parents=True, exist_ok=True)
    findings = [
        _look(module, source, name, found[name], overlays, options)
        for name in cli.progress(names, description="check", unit="section")
    ]
    errors, warnings = _across(findings, folds)
    return {
        "layout": module.__name__.rpartition(".")[2],
        "reason": reason,
        "synthetic": any(finding.synthetic for finding in findings),
        "sections": [_public(finding) for finding in findings],
        "errors": errors,
        "warnings": warnings,
    }


def has_errors(report: dict[str, Any]) -> bool:
    """Whether the source or one of its sections has an error."""
    return bool(report["errors"]) or any(section["errors"] for section in report["sections"])


def _look(
    module: ModuleType, source: Path, name: str, lacks: str, overlays: Path | None, options: dict[str, Any]
) -> Finding:
    finding = Finding(name)
    if lacks:
        finding.errors.append(f"{lacks}; add it, or leave the section out with --skip-incomplete or --sections")
        return finding
    try:
        section: Section = module.read_section(source, name, **options)
        _describe(finding, section)
        with slide.open_slide(section.image_path) as image:
            _geometry(finding, section, image)
            small = image.thumbnail(THUMBNAIL_PX)
            scale = small.shape[1] / image.width
        finding.image_sha256 = slide.file_sha256(section.image_path)
        _orientation(finding, section, small, scale)
        if overlays is not None:
            path = overlays / f"{name}.png"
            overlay.draw(section, small, scale).save(path)
            finding.overlay = str(path)
    except InputError as error:
        finding.errors.append(" ".join(str(error).split()))
    return finding


def _describe(finding: Finding, section: Section) -> None:
    """Size, scale and depth."""
    total = np.asarray(section.counts.sum(axis=1))
    finding.patient, finding.spots, finding.genes = section.patient, len(section.spot_id), len(section.genes)
    finding.um_per_px, finding.um_per_px_source = section.um_per_px, section.um_per_px_source
    finding.median_reads, finding.synthetic = float(np.median(total)), section.synthetic
    finding.notes, finding.image_path = list(section.notes), str(section.image_path.resolve())
    parts = (section.counts.data, section.counts.indices, section.counts.indptr)
    finding.counts_sha256 = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    low = float(np.mean(total < MIN_READS))
    if total.max() == 0:
        finding.errors.append("every count is zero; check that this is the right count table")
    elif section.spot_kind[0] == SQUARE:
        return  # bins are as deep as they are large
    elif low == 1:
        finding.warnings.append(f"low depth: no spot has {MIN_READS} reads; a build keeps none without --min-counts")
    elif low > 0.5:
        finding.warnings.append(f"low depth: {low:.0%} of the spots have fewer than {MIN_READS} reads")


def _geometry(finding: Finding, section: Section, image: slide.Slide) -> None:
    """Spots against the image's borders, their pitch, and the image's own scale."""
    x, y = section.spot_xy.T
    outside = int(np.sum((x < 0) | (y < 0) | (x >= image.width) | (y >= image.height)))
    if outside:
        share = outside / len(x)
        text = f"{outside} of {len(x)} spots lie outside the image ({image.width} x {image.height} px)"
        if share > 0.5:
            finding.errors.append(f"{text}: it is another image, or another resolution of it")
        else:
            finding.warnings.append(text)
    pitch_um, expected = _pitch_um(section)
    if expected and not 0.85 < pitch_um / expected < 1.15:
        finding.errors.append(
            f"spots are {pitch_um:.1f} um apart at {section.um_per_px:.4g} um per px ({section.um_per_px_source}), "
            f"expected {expected:.0f} um: um_per_px or the coordinates are wrong"
        )
    if image.um_per_px and not 0.9 < image.um_per_px / section.um_per_px < 1.1:
        finding.warnings.append(
            f"the image file says {image.um_per_px:.4g} um per px, {section.um_per_px:.4g} is used "
            f"({section.um_per_px_source})"
        )


def _pitch_um(section: Section) -> tuple[float, float | None]:
    """Median distance to the nearest spot, and what it should be; (0, None) where that is not known."""
    xy = section.spot_xy
    distance = scipy.spatial.KDTree(xy).query(xy[:_SAMPLE], k=2)[0][:, 1] if len(xy) > 3 else np.zeros(1)
    nearest = float(np.median(distance)) * section.um_per_px
    size_um = float(section.spot_size_px[0]) * section.um_per_px
    if section.spot_kind[0] == SQUARE:
        return nearest, size_um if len(xy) > 100 else None
    known = {27.5: 100.0, 50.0: 200.0} if section.spot_kind[0] == DISC and len(xy) > 10 else {}
    return nearest, next((pitch for radius, pitch in known.items() if abs(size_um / radius - 1) < 0.05), None)


def _orientation(finding: Finding, section: Section, small: np.ndarray, scale: float) -> None:
    """How well spots fit the tissue as the coordinates are, and in the seven other orientations.

    The score of an orientation is the share of spots on tissue plus 0.3 times the correlation of a spot's reads (log)
    with how dark the slide is around it: the share alone cannot tell the orientations of round tissue apart.
    """
    step = -(-len(section.spot_xy) // _SAMPLE)
    xy = section.spot_xy[::step] * scale
    reads = np.log1p(np.asarray(section.counts.sum(axis=1), dtype=np.float64)[::step])
    grey = tissue.to_grey(small)
    dark = (grey <= tissue.otsu_threshold(np.bincount(grey.ravel(), minlength=256))).astype(np.float32)
    pitch = scipy.spatial.KDTree(xy).query(xy, k=2)[0][:, 1] if len(xy) > 1 else np.zeros(1)
    width = int(np.clip(np.median(pitch), 5, min(grey.shape)))
    near = scipy.ndimage.uniform_filter(dark, width) > 0.25
    mask = np.asarray(scipy.ndimage.binary_fill_holes(near), dtype=bool)  # fat is tissue too
    density = scipy.ndimage.uniform_filter(255 - grey.astype(np.float32), max(3, width // 2))
    fits = {turned: _fit(mask, density, xy, reads, turned) for turned in _ORIENTATIONS}
    share, score = fits.pop((False, False, False))
    best = max(fits, key=lambda turned: fits[turned][1])
    finding.on_tissue = round(share, 3)
    text = f"{share:.0%} of the spots lie on tissue, {fits[best][0]:.0%} {_ORIENTATIONS[best]}"
    margin = fits[best][1] - score
    if margin > 0.12 and fits[best][0] >= share:
        finding.errors.append(f"flipped or transposed coordinates? {text}, where reads follow the staining better")
    elif share < 0.3:
        finding.warnings.append(f"few spots on tissue ({text}): do image and spots belong together?")
    elif margin > 0.05:
        finding.warnings.append(f"the orientation is doubtful: {text}")


def _fit(
    mask: np.ndarray, density: np.ndarray, xy: np.ndarray, reads: np.ndarray, turned: tuple[bool, bool, bool]
) -> tuple[float, float]:
    """Share on tissue and score of points (x, y) [N, 2] once swapped and mirrored; outside is no tissue.

    Args:
        mask, density: [h, w] where tissue is, and how dark.
        xy: [N, 2] in their pixels.
        reads: [N] log reads.
        turned: swap x and y, mirror x, mirror y.
    """
    swap, mirror_x, mirror_y = turned
    x, y = (xy[:, ::-1] if swap else xy).T
    column = np.floor(mask.shape[1] - 1 - x if mirror_x else x).astype(int)
    row = np.floor(mask.shape[0] - 1 - y if mirror_y else y).astype(int)
    inside = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    share = float(mask[row[inside], column[inside]].sum() / len(xy))
    around, depth = density[row[inside], column[inside]], reads[inside]
    known = inside.sum() > 10 and np.std(around) > 0 and np.std(depth) > 0
    return share, share + 0.3 * (float(np.corrcoef(around, depth)[0, 1]) if known else 0.0)


def _across(findings: list[Finding], folds: Path | None) -> tuple[list[str], list[str]]:
    """Errors and warnings about sections taken together."""
    errors, warnings = [], []
    for what, key in (("image", "image_sha256"), ("counts", "counts_sha256")):
        groups = collections.defaultdict(list)
        for finding in findings:
            if getattr(finding, key) and finding.spots:
                groups[getattr(finding, key)].append(finding)
        for group in groups.values():
            if len(group) < 2 or (what == "image" and len({finding.image_path for finding in group}) == 1):
                continue  # several sections may share one image file: bin sizes of a sample, libraries of a slide
            names = ", ".join(finding.name for finding in group)
            if len({finding.patient for finding in group}) > 1:
                errors.append(f"sections {names} of different patients have the same {what}: leakage; keep one")
            else:
                warnings.append(f"sections {names} have the same {what}: keep one")
    patients = {finding.patient for finding in findings if finding.patient}
    spellings = collections.defaultdict(set)
    for patient in patients:
        spellings["".join(patient.casefold().split()).replace("_", "").replace("-", "")].add(patient)
    warnings += [
        f"patients {', '.join(sorted(names))}: one person under several names? Folds would not know"
        for names in spellings.values()
        if len(names) > 1
    ]
    if len(patients) == 1:
        warnings.append(f"all sections are of patient {patients.pop()}: none can be held out")
    if folds is not None:
        errors += _fold_errors(findings, folds)
    return errors, warnings


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
    hidden = ("image_path", "counts_sha256")
    return {key: value for key, value in dataclasses.asdict(finding).items() if key not in hidden}


def print_report(report: dict[str, Any]) -> None:
    """The human table."""
    print(f"layout {report['layout']}: {report['reason']}" + ("; SYNTHETIC data" if report["synthetic"] else ""))
    rows = [
        ("section", "patient", "spots", "genes", "um/px", "from", "median reads", "on tissue", "errors", "warnings")
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
            f"{section['median_reads']:.0f}" if known else "?",
            "?" if section["on_tissue"] is None else f"{section['on_tissue']:.0%}",
            str(len(section["errors"])),
            str(len(section["warnings"])),
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for kind in ("errors", "warnings", "notes"):
        for section in report["sections"]:
            for text in section[kind]:
                print(f"{kind[:-1]}: section {section['name']}: {text}")
        for text in report.get(kind, ()):
            print(f"{kind[:-1]}: {text}")
    for section in report["sections"]:
        if section["overlay"]:
            print(section["overlay"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--layout", default="auto", help=f"auto or one of {', '.join(readers.layout_names())}")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    parser.add_argument("--sections", type=_names, metavar="A,B", help="look at these only")
    parser.add_argument("--folds", type=Path, metavar="FILE", help="CSV of section,fold to look for leakage in")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the overlays (check_<source>)")
    parser.add_argument("--no-overlays", action="store_true", help="draw none")
    parser.add_argument("--image", type=Path, metavar="PATH", help="full-resolution image, where kept elsewhere")
    parser.add_argument("--source-um-per-px", type=float, metavar="X", help="slides' scale, where no file tells it")
    parser.add_argument("--gene-table", type=Path, metavar="FILE", help="HGNC complete set to name genes by")
    parser.add_argument("--resolve-aliases", action="store_true", help="replace outdated gene symbols")
    parser.add_argument("--bin-um", type=_numbers, metavar="8,16", help="Visium HD bin sizes (all)")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def main(arguments: list[str]) -> None:
    """The command line."""
    options = vars(_parser().parse_args(arguments))
    as_json, out, no_overlays = (options.pop(name) for name in ("json", "out", "no_overlays"))
    source = options.pop("source")
    overlays = None if no_overlays else out or Path(f"check_{source.resolve().name}")
    options["um_per_px"] = options.pop("source_um_per_px")
    report = check(source, overlays=overlays, **options)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report)
    if has_errors(report):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
