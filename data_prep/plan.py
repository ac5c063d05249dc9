"""What a build will hold, decided before any pixel is cut: which spots stay, in which records, and which genes."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from data_prep import checks, counts, files, on_disk, patch_slide, patches, readers, slide, stain, tiles, tissue
from data_prep.errors import InputError
from data_prep.framed import Framed
from data_prep.genes import species_of, two_species
from data_prep.readers._space_ranger import REDUCED
from data_prep.records import IMAGE_FORMATS
from data_prep.section import GeneTable, Section
from data_prep.slide_base import ABSURD_UM_PER_PX, check_stated_scale
from data_prep.stored import StoredCounts

_SAME_SCALE = 0.01  # share that two scales may differ by and be one


@dataclasses.dataclass(frozen=True)
class Options:
    """Every choice of a build.

    Attributes:
        layout: a reader's name, or "auto".
        sections: names to build; None for all.
        skip_incomplete: leave out sections that lack a file, or have no spot left, instead of raising.
        source_um_per_px: scale of the slides, in place of what files and the spot pitch say.
        image: full-resolution image, for layouts that keep it elsewhere.
        gene_table: HGNC complete set to name genes by, in place of the shipped table.
        resolve_aliases: replace outdated gene symbols.
        bin_um: Visium HD bin sizes to read; None for all.
        areas: what is measured, where a layout offers a choice, such as "cells"; see `data_prep.readers._areas`.
        bin_blocks: Visium HD, of each size only blocks of so many bins a side, one every so many um; None for all bins.
        elements: SpatialData: which to take where there are several; see `data_prep.readers.spatialdata`.
        patch_size_px: side of a patch, in record pixels.
        tile_size_px: side of a tile; None makes patches.
        context_px: margin of a tile that owns no spot, record pixels; None chooses (see `data_prep.tiles`).
        um_per_px: scale to resample to; None keeps each slide's own.
        stain, stain_target: stain normalisation, and the section or image file to normalise to.
        stain_standardise: whose luminosity is standardised first: "both", "target" (as BrST-Net's code does) or "none".
        min_counts: spots with fewer counts, over all genes, are removed.
        min_spot_fraction: genes found in a smaller share of the kept spots are removed; never-found ones always are.
        max_white_fraction: records brighter than this are removed. 1 removes none: the fraction is recorded, and the
            training protocol decides, because published protocols filter training patches only.
        image_format, jpeg_quality: how records store pixels.
        shard_mb: decoded size of a shard, at most.
    """

    layout: str = "auto"
    sections: tuple[str, ...] | None = None
    skip_incomplete: bool = False
    source_um_per_px: float | None = None
    image: Path | None = None
    gene_table: Path | None = None
    resolve_aliases: bool = False
    bin_um: tuple[int, ...] | None = None
    areas: str | None = None
    bin_blocks: tuple[int, float] | None = None
    elements: str | None = None
    patch_size_px: int = 224
    tile_size_px: int | None = None
    context_px: int | None = None
    um_per_px: float | None = None
    stain: str = "none"
    stain_target: str | None = None
    stain_standardise: str = "both"
    min_counts: int = 1000
    min_spot_fraction: float = 0.0
    max_white_fraction: float = 1.0
    image_format: str = "jpeg"
    jpeg_quality: int = 95
    shard_mb: int = 256

    def __post_init__(self) -> None:
        limits = {"patch_size_px": 8, "tile_size_px": 32, "shard_mb": 1, "min_counts": 0, "context_px": 0}
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")
        if self.source_um_per_px is not None:
            check_stated_scale(self.source_um_per_px, "--source-um-per-px")
        # Of patches, what is wrong with a scale too large is compared with the slide's own size.
        if self.um_per_px is not None and (self.kind == "tiles" or not self.um_per_px > ABSURD_UM_PER_PX):
            check_stated_scale(self.um_per_px, "--target-um-per-px")
        for name in ("min_spot_fraction", "max_white_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected a share from 0 to 1")
        if self.image_format not in IMAGE_FORMATS:
            raise InputError(f"--image-format is {self.image_format!r}, expected one of {', '.join(IMAGE_FORMATS)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"--jpeg-quality is {self.jpeg_quality}, expected 1 to 100")
        if self.stain != "none" and self.stain not in stain.METHODS:
            raise InputError(f"--stain is {self.stain!r}, expected none or one of {', '.join(stain.METHODS)}")
        if self.stain != "none" and self.stain_target is None:
            raise InputError(f"--stain {self.stain} needs a slide to normalise to; give --stain-target SECTION or FILE")
        if self.context_px is not None and self.tile_size_px is None:
            raise InputError("--context-px is for tiles; give --tile-size-px too")

    @property
    def kind(self) -> str:
        """What the records are: "patches" or "tiles"."""
        return "patches" if self.tile_size_px is None else "tiles"

    @property
    def size_px(self) -> int:
        """Side of a record's image."""
        return self.tile_size_px or self.patch_size_px

    @property
    def reading(self) -> dict[str, Any]:
        """What readers need to know."""
        names = ("image", "gene_table", "resolve_aliases", "bin_um", "areas", "bin_blocks", "elements")
        return {name: getattr(self, name) for name in names} | {"um_per_px": self.source_um_per_px}

    def parameters(self) -> dict[str, Any]:
        """What the manifest keeps: all that the records follow from, and no place on this machine."""
        values = dataclasses.asdict(self)
        del values["sections"], values["skip_incomplete"]
        values["image"] = _image_identity(self.image)
        values["gene_table"] = files.sha256(self.gene_table) if self.gene_table else None
        if self.stain_target and Path(self.stain_target).is_file():
            values["stain_target"] = f"sha256:{files.sha256(self.stain_target)}"
        of_bins = {name: list(values[name]) if values[name] else None for name in ("bin_um", "bin_blocks")}
        return {"kind": self.kind, **values, **of_bins}


def _image_identity(image: Path | None) -> str | None:
    """What tells one --image from another: a file's SHA-256, a folder's names and sizes, a reduced image's name.

    Raises:
        InputError: no such file or folder.
    """
    if image is None or str(image) in REDUCED:
        return None if image is None else str(image)
    if not image.exists():
        raise InputError(f"--image {image}: no such file or folder; give the full-resolution image")
    return f"folder:{fingerprint(image, times=False)}" if image.is_dir() else f"sha256:{files.sha256(image)}"


def fingerprint(path: Path, *, times: bool, but: Path | None = None) -> str:
    """SHA-256 of the names and sizes of a file, or of a folder's files, of their dates too if `times`.

    Args:
        but: a folder to leave out.
    """
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else files.below(path):
        if file.is_file() and (but is None or but.resolve() not in file.resolve().parents):
            status = file.stat()
            digest.update(f"{file.relative_to(path)}\0{status.st_size}\0".encode())
            digest.update(f"{status.st_mtime_ns}\0".encode() if times else b"")
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class SectionPlan:
    """What a section brings to the data set.

    Attributes:
        genes: [G] gene table of the section.
        gene_sums, gene_spots: [G] int64, counts over the kept spots, and how many of those have any.
        spots, records: how many are kept.
        read: spots before any filter.
        removed: by reason.
        found: what checks found.
    """

    name: str
    genes: GeneTable
    gene_sums: np.ndarray
    gene_spots: np.ndarray
    spots: int
    records: int
    read: int
    removed: dict[str, int]
    found: checks.Found = dataclasses.field(default_factory=checks.Found)


def frame_section(
    section: Section, image: slide.Slide, options: Options, *, transform: tissue.Transform | None
) -> Framed:
    """Choose the spots of a section, lay out its records, and keep of it what they hold.

    Args:
        transform: stain normalisation; used only when white records are to be removed.
    """
    px_scale = _px_scale(section, image, options)
    xy = section.spots.xy
    centre_inside = np.all((xy >= 0) & (xy < [image.width, image.height]), axis=1)
    window_inside = centre_inside
    if options.kind == "patches":
        window_inside = patches.inside_mask(image, xy, patch_size_px=options.patch_size_px, px_scale=px_scale)
    on_disk.release(xy)
    reasons = {"outside_image": ~centre_inside, "window_outside_image": centre_inside & ~window_inside}
    totals = counts.row_totals(section.counts)
    reasons["low_counts"] = ~np.any(list(reasons.values()), axis=0) & (totals < options.min_counts)
    removed = {reason: int(mask.sum()) for reason, mask in reasons.items()}
    rows = np.flatnonzero(~np.any(list(reasons.values()), axis=0))
    del reasons, centre_inside, window_inside, totals  # of millions of spots, as below

    if options.kind == "patches":
        origin_xy = patches.patch_origins(xy[rows], patch_size_px=options.patch_size_px, px_scale=px_scale)
        members, context_px = [rows[index : index + 1] for index in range(len(rows))], 0
    else:
        parts = (section.spots[rows[part]] for part in on_disk.blocks(len(rows)))
        reach = max((float(part.reach_px().max(initial=0)) for part in parts), default=0.0) / px_scale
        context_px = tiles.context_px(section.name, options.size_px, reach, options.context_px)
        origin_xy, members = tiles.lay_out(xy, rows, size_px=options.size_px, context_px=context_px, px_scale=px_scale)
    keep = np.ones(len(members), bool)
    if options.max_white_fraction < 1:
        threshold = tissue.otsu_threshold(tissue.grey_histogram(image, transform=transform))
        cut = {"size_px": options.size_px, "px_scale": px_scale, "transform": transform}
        for record, origin in enumerate(origin_xy):
            if image.patch_px:
                region = patches.stored_window(image, str(section.spots.id[members[record][0]]))[1]
            else:
                region = patches.cut_window(image, origin, **cut)[1]
            keep[record] = tissue.white_fraction(region, threshold) <= options.max_white_fraction
    kept = [rows for rows, stays in zip(members, keep, strict=True) if stays]
    removed["white"] = sum(map(len, members)) - sum(map(len, kept))
    record_start = np.cumsum([0, *map(len, kept)])
    rows = np.concatenate([*kept, np.zeros(0, np.int64)])
    del members, kept
    return Framed(
        section=dataclasses.replace(section, spots=section.spots[rows], counts=_in_order(section, rows)),
        origin_xy=origin_xy[keep],
        record_start=record_start,
        px_scale=float(px_scale),
        context_px=context_px,
        removed=removed,
    )


def _in_order(section: Section, rows: np.ndarray) -> counts.Counts:
    """Some rows of a section's counts, in memory or on disk as they are; sorted columns, no stored zero."""
    if isinstance(section.counts, StoredCounts):
        return section.counts.chosen(rows)
    genes = len(section.genes)
    return counts.select(section.counts, rows, column_of=np.arange(genes, dtype=np.int32), columns=genes)


def _px_scale(section: Section, image: slide.Slide, options: Options) -> float:
    """Full-resolution pixels per record pixel.

    Raises:
        InputError: patches are stored in place of an image, and something else is asked for than these as they are.
    """
    if not image.patch_px:
        return 1.0 if options.um_per_px is None else options.um_per_px / section.um_per_px
    patch_um, stored = section.um_per_px * image.patch_scale, f"patches of {image.patch_px} px"
    fault = ""
    if options.kind == "tiles":
        fault = "no tiles can be cut from them; leave --tile-size-px out"
    elif options.patch_size_px != image.patch_px:
        fault = f"they are not cut anew to {options.patch_size_px}; give --patch-size-px={image.patch_px}"
    elif options.um_per_px is not None and abs(options.um_per_px / patch_um - 1) > _SAME_SCALE:
        fault = f"they have {patch_um:.4g} um per px and are not resampled; leave --target-um-per-px out"
    elif options.stain != "none":
        fault = "stains are normalised slide by slide; leave --stain out"
    if fault:
        raise InputError(
            f"Section {section.name!r}: {image.path.name} has {stored} and no slide, {fault} (or read slides, with "
            "--layout=hest)"
        )
    return image.patch_scale


def plan_section(
    source: Path,
    layout: str,
    name: str,
    options: Options,
    *,
    target: stain.Profile | None = None,
    scratch: Path | None = None,
) -> tuple[SectionPlan, Framed]:
    """Read a section, check it, lay out its records, and count what is kept of it.

    Args:
        target: the slide to normalise stains to, fitted.
        scratch: a folder to keep counts in that are too many for memory, until the section is written.
    """
    reader, _ = readers.find_layout(source, layout)
    section = reader.read_section(source, name, **options.reading, scratch=scratch)
    check_section(section)
    with patch_slide.open_image(section) as image:
        transform = stain_transform(options, image, target) if options.max_white_fraction < 1 else None
        framed = frame_section(section, image, options, transform=transform)
        found = checks.examine(section, image, image.preview(checks.THUMBNAIL_PX))
    if options.um_per_px is not None:
        resampled = checks.resampled(section.um_per_px, options.um_per_px)
        found = dataclasses.replace(found, problems=(*found.problems, *resampled))
    gene_sums, gene_spots = counts.column_totals(framed.section.counts)
    made = SectionPlan(
        name=name,
        genes=section.genes,
        gene_sums=gene_sums,
        gene_spots=gene_spots,
        spots=len(framed.section.spots),
        records=len(framed),
        read=len(section.spots),
        removed=framed.removed,
        found=found,
    )
    return made, framed


def check_section(section: Section) -> None:
    """Raise `InputError` when a section names a gene twice: its counts would have no single column to go to."""
    keys, times = np.unique(section.genes.keys, return_counts=True)
    if np.any(times > 1):
        raise InputError(
            f"Section {section.name!r}: gene {files.shown(str(keys[times > 1][0]))} has {times.max()} columns, "
            "expected one; add their counts up or drop all but one"
        )


def fit_stain_target(source: Path, reader: readers.Reader, options: Options) -> stain.Profile:
    """Fit the slide that `--stain-target` names, a section of the source or an image file."""
    name, found = str(options.stain_target), reader.find_sections(source, **options.reading)
    if found.get(name) == "":
        path = reader.read_section(source, name, **options.reading).image_path
    else:
        path = Path(name)
        if not path.is_file():
            complete = ", ".join(sorted(name for name, lack in found.items() if not lack))
            raise InputError(f"stain target {name!r} is neither a section nor an image file; sections here: {complete}")
    return stain.fit_profile(path, options.stain, standardise=options.stain_standardise != "none")


def stain_transform(options: Options, image: slide.Slide, target: stain.Profile | None) -> stain.Normaliser | None:
    """Stain normalisation of one slide; None for "none"."""
    return stain.fit_transform_for(options.stain, image, target, standardise=options.stain_standardise)


def choose_genes(plans: Sequence[SectionPlan], *, min_spot_fraction: float) -> tuple[GeneTable, dict[str, int]]:
    """The data set's genes: the union over sections, sorted by key, less those found in too few of the kept spots.

    A gene that a section does not list was not found in it: legacy count files leave out genes without any count.

    Returns:
        The gene table, and how many genes were removed by reason.

    Raises:
        InputError: no gene is left, or the sections are of two species.
    """
    if two := two_species({plan.name: species_of(plan.genes)[0] for plan in plans}):
        raise InputError(two)
    keys = np.concatenate([plan.genes.keys for plan in plans])
    union, first, column = np.unique(keys, return_index=True, return_inverse=True)
    spots = np.bincount(column, weights=np.concatenate([plan.gene_spots for plan in plans]), minlength=len(union))
    ensembl_id = np.concatenate([plan.genes.ensembl_id for plan in plans])[first]
    symbols = np.concatenate([plan.genes.symbol for plan in plans])
    symbol = symbols[first]
    named = np.flatnonzero(symbols != "")[::-1]
    symbol[column[named]] = symbols[named]  # where one section lacks the symbol, the first that has it gives it
    found = spots > 0
    frequent = spots >= min_spot_fraction * sum(plan.spots for plan in plans)
    removed = {"never_expressed": int(np.sum(~found)), "in_too_few_spots": int(np.sum(found & ~frequent))}
    keep = found & frequent
    if not keep.any():
        raise InputError(
            f"No gene is left: {removed['never_expressed']} have no counts in the kept spots and "
            f"{removed['in_too_few_spots']} are in fewer than {min_spot_fraction:.0%} of them; "
            "lower --min-spot-fraction"
        )
    return GeneTable(ensembl_id[keep], symbol[keep]), removed


def counts_over(section: Section, genes: GeneTable, rows: np.ndarray) -> scipy.sparse.csr_array:
    """[rows, G] int32: some of a section's counts over the data set's genes, CSR with sorted columns and no stored
    zero."""
    place = {key: index for index, key in enumerate(genes.keys)}
    column_of = np.array([place.get(key, -1) for key in section.genes.keys], np.int32)
    return counts.select(section.counts, rows, column_of=column_of, columns=len(genes))


def split_names(names: Sequence[str]) -> dict[str, str]:
    """Section name -> TFDS split and file name: letters, digits and underscores, distinct in lower case too."""
    splits: dict[str, str] = {}
    taken = {"all"}  # TFDS's word for every split
    for name in names:
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name) or "_"
        split, number = plain, 2
        while split.lower() in taken:
            split, number = f"{plain}_{number}", number + 1
        taken.add(split.lower())
        splits[name] = split
    return splits
