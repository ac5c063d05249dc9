"""What may be wrong with sections, alone and together: `data_prep.check` reports it, `data_prep.build` stops on it.

A check has a name, which `--ignore-check` of a build takes, and finds errors (the data would be wrong), warnings (they
may be) and notes.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.spatial

from data_prep import counts, files, orientation, patients, slide
from data_prep.genes import species_of, two_species
from data_prep.section import Section
from data_prep.slide_base import DEFAULT_SCALE_DOUBT, is_default_scale
from data_prep.spots import DISC, SQUARE

ERROR, WARNING, NOTE = "error", "warning", "note"  # levels
NAMES = {
    "counts": "a section without any count",
    "outside": "spots outside the image",
    "pitch": "the distance between spots against um_per_px",
    "scale": "the image file's own scale against um_per_px, and whether it shows cells",
    "orientation": "flipped or transposed coordinates",
    "duplicates": "the same image or counts in two sections",
    "patients": "whose the sections are",
    "species": "sections of two species",
}
THUMBNAIL_PX = 1400  # what orientation is seen on
COARSE_UM_PER_PX, USUAL_UM_PER_PX = 2.0, 0.5  # a nucleus, about 8 um, is 4 px wide; and what models are made for
_ENLARGED = 2.0  # times that an image may be without a word
_BEYOND = 0.05  # of the spots, over the right and over the lower border, and none over the others: a smaller copy
_CORNER, _ENOUGH = 0.3, 20  # the share of an image's sides that so many spots reach at least, from the upper left
_OTHER_IMAGE = 1.5  # times that two scales of one image do not differ by
_SAMPLE, _MANY = 20_000, 200_000  # spots: plenty to see how they lie; more than a search tree is built of


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a check found.

    Attributes:
        check: one of `NAMES`.
        level: ERROR, WARNING or NOTE.
    """

    check: str
    level: str
    text: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What is found about a section, and what tells it from others.

    Attributes:
        image_path, image_sha256, counts_sha256: "" where the image could not be read.
        width, height: of the image, pixels.
        on_tissue: share of the spots.
        species: "human", "mouse", or "" where that is not known.
    """

    name: str = ""
    patient: str = ""
    patient_source: str = patients.UNKNOWN
    species: str = ""
    image_path: str = ""
    image_sha256: str = ""
    counts_sha256: str = ""
    width: int = 0
    height: int = 0
    um_per_px: float = 0.0
    on_tissue: float = 0.0
    problems: tuple[Problem, ...] = ()

    def notes(self) -> list[str]:
        """What the manifest keeps of a section that is built; its errors were passed over then."""
        return [
            f"passed over by --ignore-check {problem.check}: {problem.text}" if problem.level == ERROR else problem.text
            for problem in self.problems
        ]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Found":
        """What `dataclasses.asdict` made of one."""
        problems = tuple(Problem(**problem) for problem in values.pop("problems"))
        return dataclasses.replace(cls(**values), problems=problems)


def examine(section: Section, image: slide.Slide, small: np.ndarray) -> Found:
    """All checks of one section.

    Args:
        image: its slide, open.
        small: uint8 [h, w, 3], a thumbnail of it.
    """
    share, turned = orientation.check(section, small, small.shape[1] / image.width)
    turned = [] if image.patch_px else turned  # patches lie where they were cut
    problems = [*placed(section, image), *(Problem("orientation", *found) for found in turned)]
    if not counts.any_found(section.counts):
        problems.insert(0, Problem("counts", ERROR, "every count is zero; check that this is the right count table"))
    return Found(
        name=section.name,
        patient=section.patient,
        patient_source=section.patient_source,
        species=species_of(section.genes)[0],
        image_path=str(section.image_path.resolve()),
        image_sha256=files.sha256(section.image_path),
        counts_sha256=counts.digest(section.counts),
        width=image.width,
        height=image.height,
        um_per_px=float(section.um_per_px),
        on_tissue=round(share, 3),
        problems=tuple(problems),
    )


def placed(section: Section, image: slide.Slide) -> list[Problem]:
    """Spots against the image's borders, their pitch, and the image's own scale; no pixel is read."""
    return [*_outside(section, image), *_pitch(section), *_scale(section, image), *of_image(image, section.um_per_px)]


def _outside(section: Section, image: slide.Slide) -> list[Problem]:
    """Spots beyond the image, or all in one corner of it: signs of a copy in another resolution."""
    x, y = section.spots.xy.T
    outside = int(np.sum((x < 0) | (y < 0) | (x >= image.width) | (y >= image.height)))
    size = f"({image.width} x {image.height} px)"
    if outside:
        text = f"{outside} of {len(x)} spots lie outside the image {size}"
        beyond = min(np.mean(x >= image.width), np.mean(y >= image.height))
        if outside > len(x) / 2 or (beyond > _BEYOND and x.min() >= 0 and y.min() >= 0):
            return [Problem("outside", ERROR, f"{text}: it is another image, or another resolution of it")]
        return [Problem("outside", WARNING, text)]
    reach = max(x.max() / image.width, y.max() / image.height)
    if reach < _CORNER and len(x) >= _ENOUGH:
        text = (
            f"all spots lie in the upper left {reach:.0%} of the image's width and height {size}: were they placed on "
            "a smaller copy of it?"
        )
        return [Problem("outside", ERROR if reach < _CORNER / 2 else WARNING, text)]
    return []


def _pitch(section: Section) -> list[Problem]:
    found, expected = _pitch_um(section)
    if not expected or 0.85 < found / expected < 1.15:
        return []
    text = (
        f"spots are {found:.1f} um apart at {section.um_per_px:.4g} um per px ({section.um_per_px_source}), "
        f"expected {expected:.0f} um: um_per_px or the coordinates are wrong"
    )
    # What the user states wins over what is inferred, here from the pitch.
    return [Problem("pitch", WARNING if section.um_per_px_source == "user" else ERROR, text)]


def _pitch_um(section: Section) -> tuple[float, float | None]:
    """Median distance to the nearest spot, and what it should be; (0, None) where that is not known."""
    xy = section.spots.xy
    if len(xy) > _MANY:  # a band of rows shows the pitch as well
        xy = xy[np.argpartition(np.abs(xy[:, 1] - np.median(xy[:, 1])), _MANY)[:_MANY]]
    distance = scipy.spatial.KDTree(xy).query(xy[:_SAMPLE], k=2)[0][:, 1] if len(xy) > 3 else np.zeros(1)
    nearest = float(np.median(distance)) * section.um_per_px
    size_um = float(section.spots.size_px[0]) * section.um_per_px
    if section.spots.kind[0] == SQUARE:
        return nearest, size_um if len(xy) > 100 else None
    known = {27.5: 100.0, 50.0: 200.0, 55.0: 150.0} if section.spots.kind[0] == DISC and len(xy) > 10 else {}
    return nearest, next((pitch for radius, pitch in known.items() if abs(size_um / radius - 1) < 0.05), None)


def _scale(section: Section, image: slide.Slide) -> list[Problem]:
    """The scale used against what the image file says."""
    used, stated, source = section.um_per_px, image.um_per_px, section.um_per_px_source
    if stated is None or source == "image file" or 0.9 < stated / used < 1.1:
        return []
    if is_default_scale(stated):
        doubt = DEFAULT_SCALE_DOUBT.format(stated)
        return [Problem("scale", NOTE, f"{doubt}; {used:.4g} is used ({source})")]
    text = f"the image file says {stated:.4g} um per px, {used:.4g} is used ({source})"
    # HEST's metadata know of wrong scales in image files, and so may the user; spots were placed on this very image.
    if source in ("spot pitch", "file") and not 1 / _OTHER_IMAGE < stated / used < _OTHER_IMAGE:
        remedy = "give the image the spots were placed on, or state its scale with --source-um-per-px"
        return [Problem("scale", ERROR, f"{text}: is it another image, or a resized copy? {remedy}")]
    return [Problem("scale", WARNING, text)]


def of_image(image: slide.Slide, um_per_px: float) -> list[Problem]:
    """What is odd about an image with or without spots: its scale, turned pixels, its reader's notes."""
    found = [Problem("scale", NOTE, note) for note in image.notes]
    if image.orientation != 1:
        text = (
            f"the image file asks viewers to turn it (orientation tag {image.orientation}); pixels are taken as they "
            "are stored, so that spots placed on the picture as viewers show it do not fit"
        )
        found.append(Problem("orientation", WARNING, text))
    if um_per_px > COARSE_UM_PER_PX * 1.001:
        times = um_per_px / USUAL_UM_PER_PX
        text = (
            f"the image has {um_per_px:.3g} um per px, {times:.3g} times coarser than {USUAL_UM_PER_PX}: no nucleus "
            "can be seen; is it a reduced copy of the slide?"
        )
        found.append(Problem("scale", WARNING, text))
    return found


def resampled(um_per_px: float, target_um_per_px: float) -> list[Problem]:
    """What resampling makes of an image.

    Args:
        um_per_px: of the image.
        target_um_per_px: of the records.
    """
    text = ""
    if target_um_per_px > COARSE_UM_PER_PX:
        times = target_um_per_px / USUAL_UM_PER_PX
        text = (
            f"records have {target_um_per_px:.3g} um per px, {times:.3g} times coarser than {USUAL_UM_PER_PX}: no "
            "nucleus can be seen in them"
        )
    elif um_per_px > _ENLARGED * target_um_per_px:
        text = (
            f"records of {target_um_per_px:.3g} um per px are enlarged {um_per_px / target_um_per_px:.3g} times from "
            f"an image of {um_per_px:.3g}: they show no more than it does"
        )
    return [Problem("scale", WARNING, text)] if text else []


def across(sections: Sequence[Found]) -> list[Problem]:
    """Sections taken together: the same image or counts twice, one patient under two names, or only one patient; and
    two species."""
    problems = [*_twice("image", sections), *_twice("counts", sections)]
    names = {found.patient for found in sections if found.patient}
    texts = [
        f"patients {', '.join(alike)}: one person under several names? Folds would not know"
        for alike in patients.spelt_alike(names)
    ]
    if len(names) == 1:
        texts.append(f"all sections are of patient {names.pop()}: none can be held out")
    if guessed := patients.not_stated({found.name: found.patient_source for found in sections}):
        texts.append(guessed)
    problems += [Problem("patients", WARNING, text) for text in texts]
    two = two_species({found.name: found.species for found in sections})
    return problems + [Problem("species", ERROR, two)] * bool(two)


def _twice(what: str, sections: Sequence[Found]) -> list[Problem]:
    """Sections with the same "image" or "counts"."""
    groups = collections.defaultdict(list)
    for found in sections:
        if key := getattr(found, f"{what}_sha256"):
            groups[key].append(found)
    problems = []
    for group in groups.values():
        names, of_patients = ", ".join(found.name for found in group), {found.patient for found in group}
        one_file = what == "image" and len({found.image_path for found in group}) == 1
        if len(group) < 2 or (one_file and len(of_patients) == 1):
            continue  # several sections may lie on one image: bin sizes of a sample, libraries of a slide
        if one_file:
            text = f"sections {names} of different patients lie on one image; keep them in one fold"
            problems.append(Problem("duplicates", WARNING, text))
        elif len(of_patients) > 1:
            text = f"sections {names} of different patients have the same {what}: leakage; keep one"
            problems.append(Problem("duplicates", ERROR, text))
        else:
            problems.append(Problem("duplicates", WARNING, f"sections {names} have the same {what}: keep one"))
    return problems
