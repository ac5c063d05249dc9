"""What the Visium and Visium HD readers share: samples in folders or flat, their files, and the slide."""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_prep import files, json_files, slide, unpack
from data_prep.errors import InputError
from data_prep.readers import _matrix, _positions, _sections, _text
from data_prep.slide_base import decoding

BIN_FOLDER = re.compile(r"^square_(\d+)um$")
CELLS_FOLDER = "segmented_outputs"  # of Visium HD, which has a `spatial` of its own and is no sample
REDUCED = ("hires", "lowres")  # Space Ranger's own small images, as `image` may name them
FACTORS = "scalefactors_json.json"

_BETWEEN = "_.-"  # what stands between a prefix and the name Space Ranger gives
_MATRIX = re.compile(
    r"^(?P<prefix>|.*?[_.-])(?:(?P<kind>filtered|raw)_)?"
    r"(?P<form>(?:(?:feature|gene)_bc_)?matri(?:x|ces)(?:_h5)?\.h5(?:\.gz)?|(?:feature|gene)_bc_matri(?:x|ces)"
    r"|(?:(?:feature|gene)_bc_matri(?:x|ces)[_.-])?matrix\.mtx(?:\.gz)?)$"
)
_AGGREGATED = ("aggregation.csv", "aggr_tissue_positions.csv")
_PACKED_PART = re.compile(r"(spatial|matrix|matrices|outs|outputs)\.(tar|tgz|zip)", re.IGNORECASE)
_MTX = re.compile(r"matrix\.mtx(?:\.gz)?$")
_FLAT = re.compile(  # what makes files next to a matrix a sample
    rf"^(?P<prefix>|.*?[_.-])(?:(?:spatial[_.-])?(?:{'|'.join(map(re.escape, (*_positions.FILES, FACTORS)))})(?:\.gz)?"
    r"|spatial|(?:spatial|outs)\.(?:tar(?:\.gz)?|tgz|zip))$"
)
# Images Space Ranger writes next to the slide, and labels of nuclei, none of them the slide
_NOT_SLIDES = re.compile(
    r"cytassist|aligned_|detected_tissue|tissue_(hires|lowres)|registered|qc|nuclei\.", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where one sample's files lie: in folders as Space Ranger writes them, or flat in one folder, as GEO keeps them.

    Attributes:
        name: the sample's.
        folder: the output folder.
        prefix: what the names of all its files begin with, such as "GSM1_A1_"; others' files may lie next to them.
    """

    name: str
    folder: Path
    prefix: str = ""

    def find(self, *names: str) -> Path | None:
        """The first of `names` in `spatial/` or, with the prefix, flat; gzipped or not."""
        places = [(self.folder / f"{self.prefix}spatial", ""), (self.folder, self.prefix)]
        if self.prefix:
            places += [(self.folder, f"{self.prefix}spatial_"), (self.folder / self.name / "spatial", "")]
        paths = (
            folder / f"{prefix}{name}{suffix}" for folder, prefix in places for name in names for suffix in ("", ".gz")
        )
        return next(filter(files.is_there, paths), None)

    def need(self, *names: str) -> Path:
        """The same, or `InputError` where there is none."""
        path = self.find(*names)
        if path is None:
            raise InputError(f"{self.folder}: {self.lacks(names)}")
        return path

    def lacks(self, names: Sequence[str]) -> str:
        """What is said of a file that `find` does not find."""
        where = "" if self.prefix else " in spatial/"
        return f"{' or '.join(f'{self.prefix}{name}' for name in names)} not found{where}"


class _Matrix(NamedTuple):
    """A matrix: "filtered", "raw" or "" (not said); its file or folder; what the names of its .mtx files begin with."""

    kind: str
    path: Path
    prefix: str


def outputs(path: Path, marker: str) -> dict[str, Path]:
    """Sample name -> its Space Ranger output folder, one that holds `marker`.

    `path` is such a folder, holds it as `outs`, or holds several samples, each with or without `outs`.
    """
    path = path.resolve()
    single = next((folder for folder in (path, path / "outs") if (folder / marker).exists()), None)
    if single is not None:
        return {sample_name(single): single}
    return {
        folder.name: out for folder in folders(path) for out in (folder, folder / "outs")
        if out.is_dir() and (out / marker).exists()
    }  # fmt: skip


def samples(path: Path) -> dict[str, Outputs]:
    """Sample name -> its files: in folders as Space Ranger writes them, or flat in `path` or in the folders in it."""
    path = path.resolve()
    folders_of = outputs(path, "spatial").items()
    found = {name: Outputs(name, folder) for name, folder in folders_of if folder.name != CELLS_FOLDER}
    if any(out.folder in (path, path / "outs") for out in found.values()):
        return found
    loose = [Outputs(match["prefix"].rstrip(_BETWEEN), path, match["prefix"]) for match, _ in _matrix_entries(path)]
    flat = [out for out in loose if out.name in found]  # its spatial folder was unpacked next to the matrix
    below = [folder for folder in folders(path) if not _FLAT.match(folder.name)]
    for folder in (path, path / "outs", *(out for sample in below for out in (sample, sample / "outs"))):
        flat += _flat(folder)
    return found | {out.name: out for out in flat if out.name not in found or not matrices(found[out.name])}


def _flat(folder: Path) -> list[Outputs]:
    """Samples whose positions, scale factors, `spatial` or packed folders lie in `folder`, each under its prefix."""
    entries = sorted(folder.iterdir()) if folder.is_dir() and not (folder / "spatial").is_dir() else []
    prefixes = sorted({match["prefix"] for entry in entries if (match := _FLAT.match(entry.name))})
    return [Outputs(prefix.rstrip(_BETWEEN) or sample_name(folder), folder, prefix) for prefix in prefixes]


def folders(path: Path) -> list[Path]:
    """The folders in `path`, in name order."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []


def sample_name(folder: Path) -> str:
    """The name of a sample by its output folder: `outs` is no name."""
    return (folder.parent if folder.name == "outs" else folder).name


def bin_um(out: Outputs) -> float | None:
    """The side of a Visium HD sample's bins by its scale factors; None of anything else."""
    try:
        path = out.find(FACTORS)
        return read_scale_factors(path, "bin_size_um")["bin_size_um"] if path else None
    except InputError:
        return None


def lacking(sample: Outputs, out: Outputs, image: Path | None) -> str:
    """What a section lacks, "" when complete, and how to unpack what is packed.

    Args:
        sample: the files the image lies next to.
        out: the other files.
        image: see `find_image`.
    """
    return ", ".join(filter(None, [*_missing_files(out), missing_image(sample, image)]))


def _missing_files(out: Outputs) -> list[str]:
    lacks = []
    for names in (_positions.FILES, (FACTORS,)):
        try:
            lacks += [] if out.find(*names) else [out.lacks(names)]
        except InputError as error:
            lacks.append(str(error).split(";")[0])
    found = matrices(out)
    if not found:
        lacks.append(f"matrix not found (expected {out.prefix}filtered_feature_bc_matrix.h5)")
    elif found[0].path.is_dir():
        try:
            _matrix.mtx_files(found[0].path, found[0].prefix)
        except InputError as error:
            lacks.append(str(error).split(": ", 1)[-1].split(";")[0])
    if not lacks:
        return []
    if any((out.folder / name).is_file() for name in _AGGREGATED):
        lacks.append("this is spaceranger aggr's output of several samples, give each sample's own outputs")
    packed = [file for file in unpack.archives(out.folder)
              if file.name.startswith(out.prefix) and _PACKED_PART.search(file.name)]  # fmt: skip
    into = out.name if out.prefix else ""
    return [*lacks, *(f"{file.name} is still packed, unpack it: {unpack.remedy(file, into)}" for file in packed)]


def read_scale_factors(path: Path, *needed: str) -> dict[str, float]:
    """`scalefactors_json.json`.

    Raises:
        InputError: missing, not JSON, or without a `needed` positive number.
    """
    values = json_files.parse(_text.read_text(path), str(path), remedy="copy or download it again", nan=True)
    for name in needed:
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
            raise InputError(f"{path}: {name} is {value}, expected a positive number; copy or download the file again")
    return values


def _matrix_entries(folder: Path) -> list[tuple[re.Match[str], Path]]:
    """What is called a matrix in a folder: HDF5 and Matrix Market files, and folders of the latter."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    matches = ((_MATRIX.match(entry.name), entry) for entry in entries)
    return [
        (match, entry) for match, entry in matches if match and entry.is_dir() == ("." not in match["form"])
    ]  # fmt: skip


def matrices(out: Outputs) -> list[_Matrix]:
    """A sample's matrices, the one to read first: filtered before raw, HDF5 before Matrix Market.

    Raises:
        InputError: matrices of several samples side by side.
    """
    matches = [(match, entry) for match, entry in _matrix_entries(out.folder) if out.prefix in ("", match["prefix"])]
    prefixes = sorted({match["prefix"].rstrip(_BETWEEN) or "no prefix" for match, _ in matches})
    if len(prefixes) > 1:
        raise InputError(
            f"{out.folder}: matrices of several samples ({', '.join(prefixes)}); give each a folder of its own"
        )
    found = []
    for match, entry in matches:
        loose = _MTX.search(entry.name)
        form = 0 if ".h5" in match["form"] else 2 if loose else 1
        matrix = _Matrix(
            match["kind"] or "", entry.parent if loose else entry, entry.name[: loose.start()] if loose else ""
        )
        found.append((("filtered", "", "raw").index(matrix.kind), form, matrix))
    return [matrix for *_, matrix in sorted(found)]


def read_matrix(out: Outputs, scratch: Path | None = None) -> _matrix.CountMatrix:
    """The best matrix of a sample; what was passed over for it is noted.

    Args:
        scratch: a folder to keep counts in that are too many for memory.
    """
    best, *others = matrices(out)
    matrix = _matrix.read_mtx(best.path, best.prefix) if best.path.is_dir() else _matrix.read_h5(best.path, scratch)
    kinds = sorted({other.kind for other in others} - {best.kind})
    notes = [f"{matrix.path.name} is read, the {kind or 'other'} matrix next to it is not" for kind in kinds]
    return dataclasses.replace(matrix, kind=best.kind, notes=(*notes, *matrix.notes))


def places(out: Outputs) -> list[Path]:
    """Folders in which what belongs to a sample may lie beside its files, such as its slide."""
    above = [out.folder.parent] if out.folder.name == "outs" else []
    return [place for folder in (out.folder, *above) for place in (folder, folder / "image", folder / "images")]


def find_image(out: Outputs, image: Path | None, *, packed: bool = False) -> list[Path]:
    """The full-resolution image: the `image` given, else image files next to the outputs.

    Looked for in the output folder and, where that is named `outs`, in the sample's folder above it; among flat files
    by the sample's prefix. What Space Ranger itself writes there (CytAssist image, alignment and tissue
    pictures) is passed over.

    Args:
        out: the sample's files.
        image: a file, or a folder of <sample>.<extension>.
        packed: look for gzipped ones, which cannot be read.
    """
    if image is not None:
        return _sections.given_image(image, out.name)
    images = [file for place in places(out) for file in _sections.images_in(place, packed=packed)]
    others = [other.prefix for other in _flat(out.folder) if len(other.prefix) > len(out.prefix)] if out.prefix else []
    return [
        file for file in images
        if (file.name.startswith(out.prefix) or file.name.startswith(f"{out.name}."))
        and not file.name.startswith(tuple(others))
        and not _NOT_SLIDES.search(file.name.removeprefix(out.prefix))
    ]  # fmt: skip


def place_image(
    out: Outputs, small: Outputs, image: Path | None, factors: Mapping[str, float]
) -> tuple[Path, float, tuple[str, ...]]:
    """The image to read, its pixels per full-resolution pixel, and notes.

    Args:
        out: the files the image lies next to.
        small: those Space Ranger's small images are of.
        image: a file, a folder of <sample>.<extension>, or "hires" or "lowres" for Space Ranger's reduced image.
        factors: scale factors.

    Raises:
        InputError: several images, or one of another size than declared.
    """
    if image is None or str(image) not in REDUCED:
        found = _sections.only_image(out.name, find_image(out, image))
        check_image(out.name, found, small, factors)
        return found, 1.0, ()
    key = f"tissue_{image}_scalef"
    scale = read_scale_factors(small.need(FACTORS), key)[key]
    path = small.find(*_small_names(str(image)))
    if path is None:
        raise InputError(f"{small.folder}: {small.lacks(_small_names(str(image))[:1])}; give the slide with --image")
    if path.suffix == ".gz":
        raise InputError(f"{path}: a gzipped image is not read; unpack it: {unpack.remedy(path)}")
    return path, scale, (f"Space Ranger's reduced {image} image is used, {scale:.4g} of full resolution",)


def check_image(name: str, image: Path, small: Outputs, factors: Mapping[str, Any]) -> None:
    """Compare the image with the size its reduced copy and scale factor declare.

    Raises:
        InputError: another size, so that positions would not fit it.
    """
    for which in REDUCED:
        scale, path = factors.get(f"tissue_{which}_scalef"), small.find(*_small_names(which))
        if not isinstance(scale, int | float) or not scale > 0 or path is None:
            continue
        with slide.open_slide(image) as full:
            found = (full.width, full.height)
        declared = tuple(side / scale for side in _size(path))
        _sections.check_size(name, image, found, declared, f"{path.name} and its scale factor", 1.5 / scale + 2)
        return


def _small_names(which: str) -> list[str]:
    return [f"tissue_{which}_image{suffix}" for suffix in (".png", ".jpg", ".tiff", ".tif")]


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a small image, gzipped or not."""
    if path.suffix != ".gz":
        with slide.open_slide(path) as small:
            return small.width, small.height
    data = unpack.read_bytes(path)
    with decoding(path), Image.open(io.BytesIO(data)) as picture:
        return picture.size


def missing_image(out: Outputs, image: Path | None) -> str:
    """What is said of a sample without its full-resolution image, "" where there is one."""
    if (image is not None and str(image) in REDUCED) or find_image(out, image):
        return ""
    if image is not None:
        return f"image not found as {image}/{out.name}.<extension>"
    if packed := find_image(out, None, packed=True):
        return f"full-resolution image {packed[0].name} is still packed, unpack it: {unpack.remedy(packed[0])}"
    return (
        f"full-resolution image not found in {out.folder.name}/ (expected {out.prefix}*.tif|*.jpg|*.png, or --image "
        "FILE_OR_FOLDER; --image hires takes Space Ranger's reduced one)"
    )
