"""her2st: legacy Spatial Transcriptomics of HER2+ breast tumours (Andersson et al. 2021, Zenodo 3957257).

    ST-cnts/C2.tsv.gz                    rows `10x16`, one column per gene symbol
    ST-imgs/C/C2/*.jpg                   the slide; one folder per patient letter
    ST-spotfiles/C2_selection.tsv        x, y, new_x, new_y, pixel_x, pixel_y, selected

A count table with genes as rows, and spots named as R or others rename them (`X10x16`, `10_16`), are read and noted.
Spots are discs 100 um wide on a 200 um grid, which gives the scale. The letter of a section is its patient.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import InputError
from data_prep.readers import _legacy, _packed, _sections
from data_prep.section import Section

_COUNTS = re.compile(r"^(.+?)\.tsv(\.gz)?$")
_SPOTS = re.compile(r"^(.+?)_selection\.tsv(\.gz)?$")


def detect(path: Path) -> str | None:
    """Why `path` is in the her2st layout, or None."""
    root = _root(Path(path))
    return None if root is None else f"{root.name or root}/ holds ST-cnts and ST-spotfiles"


def find_sections(path: Path, **_: Any) -> dict[str, str]:
    """Every section with a count or a spot file -> what it lacks, "" when complete."""
    root = _need_root(Path(path))
    counts, spots = _files(root / "ST-cnts", _COUNTS), _files(root / "ST-spotfiles", _SPOTS)
    if not counts and not spots:
        raise InputError(f"{root}: no ST-cnts/*.tsv.gz and no ST-spotfiles/*_selection.tsv; add the sections' files")
    found = {}
    for name in sorted(counts.keys() | spots.keys(), key=_sections.natural):
        folder = _image_folder(root, name).relative_to(root)
        lacks = [f"count file not found (expected ST-cnts/{name}.tsv.gz)"] if name not in counts else []
        lacks += [f"spot file not found (expected ST-spotfiles/{name}_selection.tsv)"] if name not in spots else []
        if not _sections.images_in(root / folder):
            packed = "".join(f"; {file.name} is still packed, unpack it: {_packed.remedy(file)}"
                             for file in _packed.images_in(root / folder))  # fmt: skip
            lacks += [f"image not found under {folder} (expected *.jpg|*.png|*.tif){packed}"]
        found[name] = ", ".join(lacks)
    return found


def list_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> list[str]:
    """Names of the sections to read; see `data_prep.readers._sections.choose`."""
    return _sections.choose(find_sections(path, **options), Path(path), sections, skip_incomplete)


def read_sections(
    path: Path, *, sections: Sequence[str] | None = None, skip_incomplete: bool = False, **options: Any
) -> Iterator[Section]:
    """The sections one by one; the first is read when asked for."""
    for name in list_sections(path, sections=sections, skip_incomplete=skip_incomplete, **options):
        yield read_section(path, name, **options)


def read_section(
    path: Path,
    name: str,
    *,
    um_per_px: float | None = None,
    gene_table: Path | None = None,
    resolve_aliases: bool = False,
    **_: Any,
) -> Section:
    """One section: its selected spots that were counted, in count-file order.

    Raises:
        InputError: a missing, malformed or contradictory file, with its place and what to do.
    """
    root = _need_root(Path(path))
    _sections.choose(find_sections(root), root, [name], False)
    spot_path = _files(root / "ST-spotfiles", _SPOTS)[name]
    return _legacy.read_section(
        name,
        patient=_sections.patient_of(name),
        layout="her2st",
        image_path=_sections.only_image(name, _sections.images_in(_image_folder(root, name))),
        count_path=_files(root / "ST-cnts", _COUNTS)[name],
        spot_path=spot_path,
        spots=_legacy.read_selection(spot_path),
        um_per_px=um_per_px,
        gene_table=gene_table,
        resolve_aliases=resolve_aliases,
        synthetic=_sections.is_synthetic(root),
    )


def _root(path: Path) -> Path | None:
    """The folder that holds `ST-cnts`: `path`, or `path/data` as in a clone of almaan/her2st."""
    roots = (root for root in (path, path / "data") if (root / "ST-cnts").is_dir() and (root / "ST-spotfiles").is_dir())
    return next(roots, None)


def _need_root(path: Path) -> Path:
    root = _root(path)
    if root is None:
        raise InputError(f"{path}: expected the folders ST-cnts, ST-imgs and ST-spotfiles; give the folder above them")
    return root


def _files(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    matches = ((pattern.match(file.name), file) for file in sorted(folder.iterdir()) if file.name[0] != ".")
    return {match[1]: file for match, file in matches if match}


def _image_folder(root: Path, name: str) -> Path:
    nested, flat = root / "ST-imgs" / _sections.patient_of(name) / name, root / "ST-imgs" / name
    return flat if flat.is_dir() and not nested.is_dir() else nested
