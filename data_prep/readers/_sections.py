"""What readers share about sections: which to read, and how; their image, and their scale."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep import files, genes
from data_prep.counts import Counts
from data_prep.errors import InputError
from data_prep.gene_reference import own_reference
from data_prep.section import GeneTable
from data_prep.slide_base import DEFAULT_SCALE_DOUBT, SLIDE_SUFFIXES, check_stated_scale, is_default_scale, is_slide

SYNTHETIC_MARK = "SYNTHETIC.txt"  # data_prep.demo writes it next to everything it generates


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the user wants a source read; a layout leaves alone what does not concern it.

    Attributes:
        um_per_px: the slides' scale as the user states it, which wins over what files and the spot pitch say.
        image: full-resolution image, for layouts that keep it elsewhere: a file, or a folder of <section>.<extension>.
        gene_table: HGNC complete set to name genes by, in place of the shipped table.
        resolve_aliases: replace outdated gene symbols by official ones.
        bin_um: Visium HD: the bin sizes to read, e.g. (8, 16); all present by default.
        areas: what is measured, where a layout offers a choice, see `_areas.FORMS`.
        bin_blocks: Visium HD: of each size, only blocks of so many bins a side, one every so many um of the array; all
            bins by default.
        elements: SpatialData: which to take where there are several, such as "table=square_008um,image=he".
        scratch: a folder that is removed once the section has been used: counts that are too many for memory are kept
            there. Without one, all are read into memory.
    """

    um_per_px: float | None = None
    image: Path | None = None
    gene_table: Path | None = None
    resolve_aliases: bool = False
    bin_um: Sequence[int] | None = None
    areas: str | None = None
    bin_blocks: tuple[int, float] | None = None
    elements: str | None = None
    scratch: Path | None = None

    def name_genes(
        self, names: Sequence[str], counts: Counts, symbols: Sequence[str] | None = None
    ) -> tuple[GeneTable, Counts, tuple[str, ...]]:
        """Gene table, counts [S, G] with one column a gene, and notes, from the names of a file's columns.

        Args:
            names: [columns] Ensembl ids or symbols; symbols: [columns], where the file has both.
            counts: [S, columns].
        """
        reference = None if self.gene_table is None else own_reference(self.gene_table)
        options = {"reference": reference, "resolve_aliases": self.resolve_aliases}
        named, notes = genes.gene_table(names, symbols=symbols, **options)
        named, counts, merge_notes = genes.merge_duplicates(named, counts)
        return named, counts, notes + merge_notes


def choose(found: Mapping[str, str], path: Path, sections: Sequence[str] | None, skip_incomplete: bool) -> list[str]:
    """Names of the sections to read.

    Args:
        found: section name -> what it lacks, "" when complete.
        path: the source, for messages.
        sections: the names asked for; all by default.
        skip_incomplete: leave incomplete sections out instead of raising.

    Raises:
        InputError: a name that is not there, an incomplete section, or nothing left; every such section is named.
    """
    unknown = [name for name in sections or () if name not in found]
    if unknown:
        raise InputError(f"{path}: no section {', '.join(unknown)}; --sections may name {', '.join(sorted(found))}")
    asked = {name: lack for name, lack in found.items() if sections is None or name in sections}
    complete = [name for name, lack in asked.items() if not lack]
    lacking = "; ".join(f"section {name!r}: {lack}" for name, lack in asked.items() if lack)
    if lacking and not skip_incomplete:
        rest = f"name only the complete ones with --sections {','.join(complete)}" if complete else "none is complete"
        raise InputError(f"{path}: {lacking}. Add what is missing, drop these with --skip-incomplete, or {rest}")
    if not complete:
        raise InputError(f"{path}: no complete section to read{': ' + lacking if lacking else ''}")
    return complete


def images_in(folder: Path, stem: str | None = None, *, packed: bool = False) -> list[Path]:
    """Image files directly in `folder`, those named `stem` + extension when given, in name order; or gzipped ones."""
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if file.name[0] != "." and (file.suffix == ".gz") == packed)
    named = ((file, Path(file.stem) if packed else file) for file in files)
    images = [(file, name) for file, name in named if name.suffix.lower() in SLIDE_SUFFIXES or is_slide(file)]
    return [file for file, name in images if stem is None or name.stem.removesuffix(".ome") == stem]


def find(folder: Path, pattern: re.Pattern[str], depth: int, *, strict: bool = False) -> list[Path]:
    """Files in `folder`, or up to `depth - 1` folders below it, whose name matches; hidden ones are left alone.

    Args:
        strict: refuse what has such a name and is no file, which else counts as absent.
    """
    if not folder.is_dir():
        return []
    entries = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")
    there = files.is_there if strict else Path.is_file
    found = [entry for entry in entries if pattern.match(entry.name) and there(entry)]
    below = [entry for entry in entries if entry.is_dir()] if depth > 1 else []
    return found + [file for entry in below for file in find(entry, pattern, depth - 1, strict=strict)]


def only_image(name: str, images: Sequence[Path]) -> Path:
    """The one image of a section.

    Raises:
        InputError: several, as which of them the spots belong to cannot be told.
    """
    if len(images) != 1:
        names = ", ".join(image.name for image in images)
        raise InputError(f"Section {name!r}: several images in {images[0].parent} ({names}); keep the slide only")
    return images[0]


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts `A2` before `A10`."""
    parts = [part.lstrip("0") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
    return [(len(part), part) if isinstance(part, str) else part for part in parts]  # numbers of any length


def given_image(image: Path, name: str) -> list[Path]:
    """The image the user gives: a file, or <name>.<extension> in a folder.

    Raises:
        InputError: no such file or folder.
    """
    if image.is_dir() and not is_slide(image):
        return images_in(image, name)
    if not image.exists():
        raise InputError(f"--image {image}: no such file or folder; give the full-resolution image")
    return [image]


def check_one_image(path: Path, names: Sequence[str], reading: Reading) -> None:
    """Refuse one image file for several samples; `check` of the layouts that take `--image`."""
    del path
    if reading.image is not None and (reading.image.is_file() or is_slide(reading.image)) and len(set(names)) > 1:
        raise InputError(
            f"--image {reading.image} is one image, but there are several sections ({', '.join(names)}); give a folder "
            "of <section>.<extension>, or one section with --sections"
        )


def check_size(
    name: str, image: Path | str, found: Sequence[float], declared: Sequence[float], by: str, tolerance: float
) -> None:
    """Compare the (width, height) of an image with what `by` declares.

    Raises:
        InputError: another size, so that positions would not fit the image.
    """
    if any(abs(size - other) > tolerance for size, other in zip(found, declared, strict=True)):
        raise InputError(
            f"Section {name!r}: {image} is {found[0]:.0f} x {found[1]:.0f} px, but {by} declares {declared[0]:.0f} x "
            f"{declared[1]:.0f} px; give the full-resolution image the spots were placed on"
        )


def is_synthetic(root: Path) -> bool:
    """Whether `root`, a file or folder, lies in a folder the demo generator wrote (three levels up at most)."""
    root = root.resolve()
    return any((folder / SYNTHETIC_MARK).is_file() for folder in (root, *root.parents[:3]))


def scale(
    name: str,
    *,
    user_um: float | None,
    file_um: float | None = None,
    pitch_um: float | None = None,
    image_um: float | None = None,
    remedy: str,
) -> tuple[float, str, tuple[str, ...]]:
    """`um_per_px`, its source and notes: the first that is known, in this order, and what contradicts it.

    Args:
        user_um: what the user states; it wins over all that is inferred.
        file_um: what a file of the layout states.
        pitch_um: the spots' known pitch over the measured one.
        image_um: what the image file states.
        remedy: what to do when nothing is known.

    Returns:
        The scale; "user", "file", "spot pitch" or "image file"; notes.
    """
    if user_um is not None:
        check_stated_scale(user_um, "--source-um-per-px")
    ranked = ((user_um, "user"), (file_um, "file"), (pitch_um, "spot pitch"), (image_um, "image file"))
    known = [(value, source) for value, source in ranked if value is not None]
    if not known:
        raise InputError(f"Section {name!r}: um_per_px is not known; {remedy}")
    value, source = known[0]
    if isinstance(value, bool | str) or not (np.isreal(value) and np.isfinite(value) and value > 0):
        raise InputError(f"Section {name!r}: um_per_px from the {source} is {value}, expected a positive number")
    notes = [
        f"um_per_px is {value:.4g} from the {source}; the {other_source} says {other:.4g}"
        for other, other_source in known[1:]
        if abs(other / value - 1) > 0.02
    ]
    if source == "image file" and is_default_scale(value):
        notes.append(f"um_per_px is doubtful: {DEFAULT_SCALE_DOUBT.format(value)}; state it with --source-um-per-px")
    return value, source, tuple(notes)
