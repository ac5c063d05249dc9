"""her2st: legacy Spatial Transcriptomics of HER2+ breast tumours (Andersson et al. 2021, Zenodo 3957257).

    ST-cnts/C2.tsv.gz                    rows `10x16`, one column per gene symbol
    ST-imgs/C/C2/*.jpg                   the slide; one folder per patient letter
    ST-spotfiles/C2_selection.tsv        x, y, new_x, new_y, pixel_x, pixel_y, selected

Zenodo's own folders, `count-matrices`, `spot-selections` and `images/HE/C2.jpg`, are read too. A count table with genes
as rows, and spots named as R or others rename them (`X10x16`, `10_16`), are read and noted. Spots are discs 100 um wide
on a 200 um grid, which gives the scale. The letter of a section is its patient, as published, unless patients.csv
(section,patient) next to the folders says otherwise.
"""

import re
from pathlib import Path

from data_prep import unpack
from data_prep.errors import InputError
from data_prep.readers import _legacy, _patients, _sections
from data_prep.readers._sections import Reading
from data_prep.section import Section

_FOLDERS = {  # as in almaan/her2st, or as Zenodo's archives unpack
    "counts": ("ST-cnts", "count-matrices"),
    "spots": ("ST-spotfiles", "spot-selections", "spot-selection"),
    "images": ("ST-imgs", "images/HE"),
}
_COUNTS = re.compile(r"^(.+?)\.tsv(\.gz)?$")
_PUBLISHED = re.compile(r"^([A-Z])\d{1,2}$")  # patients A to H, sections numbered; other names tell no patient
_SPOTS = re.compile(r"^(.+?)_selection\.tsv(\.gz)?$")


def detect(path: Path) -> str | None:
    """Why `path` is in the her2st layout, or None."""
    root = _root(path)
    if root is None:
        return None
    return f"{root.name or root}/ holds {_folder(root, 'counts').name} and {_folder(root, 'spots').name}"


def find_sections(path: Path, _: Reading) -> dict[str, str]:
    """Every section with a count or a spot file -> what it lacks, "" when complete."""
    root = _need_root(path)
    counts, spots = _files(_folder(root, "counts"), _COUNTS), _files(_folder(root, "spots"), _SPOTS)
    if not counts and not spots:
        raise InputError(f"{root}: no ST-cnts/*.tsv.gz and no ST-spotfiles/*_selection.tsv; add the sections' files")
    counts_in, spots_in = _folder(root, "counts").name, _folder(root, "spots").name
    found = {}
    for name in sorted(counts.keys() | spots.keys(), key=_sections.natural):
        folder = _image_folder(root, name).relative_to(root)
        lacks = [f"count file not found (expected {counts_in}/{name}.tsv.gz)"] if name not in counts else []
        lacks += [f"spot file not found (expected {spots_in}/{name}_selection.tsv)"] if name not in spots else []
        if not _images(root, name):
            packed = [f"; {file.name} is still packed, unpack it: {unpack.remedy(file)}"
                      for file in _images(root, name, packed=True)]  # fmt: skip
            lacks += [f"image not found under {folder} (expected *.jpg|*.png|*.tif){''.join(packed)}"]
        found[name] = ", ".join(lacks)
    return found


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One section: its selected spots that were counted, in count-file order."""
    root = _need_root(path)
    files = _legacy.Files(
        counts=_files(_folder(root, "counts"), _COUNTS)[name],
        spots=_files(_folder(root, "spots"), _SPOTS)[name],
        image=_sections.only_image(name, _images(root, name)),
    )
    published = _PUBLISHED.match(name)
    patient = _patients.find(path, name, convention=published[1] if published else "", guess=_letters(name))
    spots = _legacy.read_selection(files.spots)
    return _legacy.read_section(name, files, spots, patient, reading, layout="her2st", root=root)


def _root(path: Path) -> Path | None:
    """The folder that holds counts and spots: `path`, or `path/data` as in a clone of almaan/her2st."""
    roots = (
        root for root in (path, path / "data") if all(_folder(root, kind).is_dir() for kind in ("counts", "spots"))
    )
    return next(roots, None)


def _folder(root: Path, kind: str) -> Path:
    """The folder of a kind of files, by the first of its names that is there, else by the first."""
    names = _FOLDERS[kind]
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _need_root(path: Path) -> Path:
    root = _root(path)
    if root is None:
        raise InputError(f"{path}: expected the folders ST-cnts, ST-imgs and ST-spotfiles; give the folder above them")
    return root


def _files(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    matches = ((pattern.match(file.name), file) for file in sorted(folder.iterdir()) if file.name[0] != ".")
    return {match[1]: file for match, file in matches if match}


def _letters(name: str) -> str:
    """What a section's name starts with: `C2` is in the folder `C`."""
    match = re.match(r"[A-Za-z]+", name)
    return match[0] if match else name


def _image_folder(root: Path, name: str) -> Path:
    images = _folder(root, "images")
    nested, flat = images / _letters(name) / name, images / name
    if images.name == "HE" and not (nested.is_dir() or flat.is_dir()):
        return images
    return flat if flat.is_dir() and not nested.is_dir() else nested


def _images(root: Path, name: str, *, packed: bool = False) -> list[Path]:
    """Images, or gzipped ones, in the section's own folder, or under its name in the folder of all."""
    folder = _image_folder(root, name)
    return _sections.images_in(folder, name if folder == _folder(root, "images") else None, packed=packed)
