"""What to predict: sections of a data set with their spots, or bare slides, on whose tissue a grid of spots is laid."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import patients, readers
from data_prep.errors import InputError
from data_prep.readers import _areas, _outlines, _slides_table
from data_prep.section import GeneTable, Section
from data_prep.slide import Slide, open_slide
from data_prep.slide_base import (
    DEFAULT_SCALE_DOUBT,
    OME_ZARR,
    SLIDE_SUFFIXES,
    check_stated_scale,
    is_default_scale,
    is_slide,
    stem,
)
from data_prep.spots import Spots
from stjax.inference import grid

SLIDES = "slides"  # the layout of bare slides, and of their sections
_SAME_SCALE = 0.01


@dataclasses.dataclass(frozen=True)
class Source:
    """Sections to predict.

    Attributes:
        names: in order.
        about: what the source was taken for, and why.
        read: gives a section by its name; of a bare slide without spots, see `place_spots`.
        array: what is laid on the tissue of bare slides, where `--areas` says so; None leaves that open.
        bare: whether they are bare slides, without spots.
    """

    names: tuple[str, ...]
    about: str
    read: Callable[[str], Section]
    bare: bool
    array: grid.Array | None = None

    def shard(self, part: tuple[int, int]) -> "Source":
        """Part i of n, from 1: every n-th section."""
        return dataclasses.replace(self, names=self.names[part[0] - 1 :: part[1]])


def open_source(
    path: Path,
    *,
    layout: str,
    sections: Sequence[str],
    um_per_px: float | None,
    resolve_aliases: bool,
    areas: str | None = None,
    elements: str | None = None,
) -> Source:
    """Finds out what there is to predict.

    Args:
        path: a slide, a folder of slides, or raw sections in a layout that data_prep reads.
        layout: of the latter; "slides" for slides in a folder that looks like something else, "auto" finds out.
        sections: names of some; default all, of a layout those whose files are complete.
        um_per_px: the scale as the user states it, which wins over what files say.
        resolve_aliases: as the model's training data was read.
        areas: of a layout that has a choice, what is measured, as `build` takes it; of slides, squares or discs to lay
            on the tissue, or a file of polygons, or a folder of <slide>.geojson.
        elements: of a SpatialData store, as `build` takes them.

    Raises:
        InputError: nothing there, neither slides nor a known layout, or a section that is not there.
    """
    if um_per_px is not None:
        check_stated_scale(um_per_px, "--source-um-per-px")
    if not path.exists():
        raise InputError(readers.missing(path, "a slide, or the folder that holds slides or a data set"))
    alone = is_slide(path)
    if alone or layout == SLIDES:
        return _slides(path, sections, um_per_px, "a slide" if alone else "given by --layout", areas)
    try:
        reader, reason = readers.find_layout(path, layout)
    except InputError as error:
        if layout != "auto" or not path.is_dir():
            raise
        if not _images(path):
            raise InputError(f"{error}; {_no_slides(path)}") from None
        return _slides(path, sections, um_per_px, "images, and no layout with spots", areas)
    reading = {"areas": areas, "elements": elements}
    options = {"um_per_px": um_per_px, "resolve_aliases": resolve_aliases, **reading}
    names = reader.list_sections(path, sections=list(sections) or None, skip_incomplete=not sections, **options)
    for name, lack in reader.find_sections(path, **options).items():
        if lack and not sections:
            print(f"left out: section {name}: {lack}")
    about = f"{reader.name} ({reason})"
    return Source(tuple(names), about, lambda name: reader.read_section(path, name, **options), bare=False)


def place_spots(
    section: Section, slide: Slide, array: grid.Array, *, min_tissue: float, window_px: float
) -> tuple[Section, grid.Grid]:
    """A bare slide's section with spots on its tissue. See `grid.lay_grid`."""
    um_per_px = section.um_per_px
    spots = grid.lay_grid(slide, array, um_per_px=um_per_px, min_tissue=min_tissue, window_px=window_px)
    side = np.float32(array.spot_um / um_per_px)
    squares = array.pattern == grid.EDGE_TO_EDGE
    laid = Spots.squares(spots.xy, side, spots.id) if squares else Spots.discs(spots.xy, side / 2, spots.id)
    return _holding(section, laid), spots


def with_spots(section: Section, spots: Spots, slide: Slide) -> Section:
    """A bare slide's section with spots that are known. Raises InputError where they are all outside the image."""
    outside = ((spots.xy < 0) | (spots.xy > [slide.width, slide.height])).any(axis=1)
    if outside.all():
        raise InputError(
            f"every spot lies outside the image of {slide.width} x {slide.height} px; expected x and y in its pixels"
        )
    return _holding(section, spots)


def _holding(section: Section, spots: Spots) -> Section:
    return dataclasses.replace(section, counts=scipy.sparse.csr_array((len(spots), 0), dtype=np.int32), spots=spots)


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_slide(file))


def _no_slides(path: Path) -> str:
    """That a folder holds no slides, and which below it do."""
    below = [
        folder for folder in sorted(path.iterdir()) if folder.is_dir() and folder.name[0] != "." and _images(folder)
    ]
    if below:
        return f"its images lie deeper, give the folder with the slides: {', '.join(map(str, below[:3]))}"
    return f"nor is it a folder of slides ({', '.join((*SLIDE_SUFFIXES, OME_ZARR))})"


def _areas_of(text: str | None, slides: Sequence[str]) -> tuple[grid.Array | None, dict[str, Path]]:
    """What `--areas` says of slides: an array to lay; or the file of polygons of each. Raises InputError."""
    path = Path(text or "")
    if text is None or text.partition(":")[0] in _areas.FORMS or not path.exists():
        if text is None:
            return None, {}
        try:
            areas = _areas.parse(text, (_areas.SQUARES, _areas.DISCS))
        except InputError as error:
            raise InputError(f"{error}; or a file of polygons: GeoJSON, or an image of labels") from None
        squares = areas.kind == _areas.SQUARES
        return grid.Array(areas.size_um, areas.pitch_um, grid.EDGE_TO_EDGE if squares else grid.HEXAGONAL_GRID), {}
    if path.is_file():
        if len(slides) > 1:
            raise InputError(
                f"--areas {path} is one file, but there are {len(slides)} slides; give a folder of <slide>.geojson, or "
                "one slide with --sections"
            )
        return None, {slides[0]: path}
    endings = (*_outlines.GEOJSON, *_outlines.IMAGES)
    found = {name: [path / f"{name}{ending}" for ending in endings if (path / f"{name}{ending}").is_file()]
             for name in slides}  # fmt: skip
    if wrong := {name: files for name, files in found.items() if len(files) != 1}:
        name, several = next(iter(wrong.items()))
        there = ", ".join(file.name for file in several) or "none"
        raise InputError(f"--areas {path}: of slide {name} there is {there}, expected one file, such as {name}.geojson")
    return None, {name: file for name, (file,) in found.items()}


def _outlined(section: Section, file: Path) -> Section:
    """A bare slide's section with the polygons of a file in its pixels."""
    spots, notes = _outlines.read(file)
    with open_slide(section.image_path) as slide:
        return dataclasses.replace(with_spots(section, spots, slide), notes=(*section.notes, *notes))


def _slides(path: Path, chosen: Sequence[str], um_per_px: float | None, reason: str, areas: str | None) -> Source:
    files = [path] if is_slide(path) or not path.is_dir() else _images(path)
    if not files:
        raise InputError(f"{path} holds no slide: {_no_slides(path)}")
    paths: dict[str, Path] = {}
    for file in files:
        if (name := stem(file)) in paths:
            raise InputError(
                f"{path}: {paths[name].name} and {file.name} would both be called {name}; rename one, or give a single "
                "slide as --source"
            )
        paths[name] = file
    if unknown := [name for name in chosen if name not in paths]:
        raise InputError(f"--sections names {', '.join(unknown)}; {path} has {', '.join(paths)}")
    names = tuple(name for name in paths if not chosen or name in chosen)
    array, outlines = _areas_of(areas, names)
    listed = _slides_table.read(path)
    if strangers := [name for name in listed if name not in paths and path.is_dir()]:
        reason += f"; {_slides_table.TABLE} lists slides that are not here: {', '.join(strangers[:5])}"

    def read(name: str) -> Section:
        stated = _slides_table.of_section(listed, name)
        scale = _slides_table.one_scale(path, name, stated, um_per_px)
        section = _bare(name, paths[name], scale, stated.patient)
        return _outlined(section, outlines[name]) if outlines else section

    return Source(names, f"slides ({reason})", read, bare=not outlines, array=array)


def _bare(name: str, path: Path, um_per_px: float | None, patient: str) -> Section:
    """A slide as a section without spots. Raises InputError when its scale is not known."""
    with open_slide(path) as slide:
        stated = slide.um_per_px
    scale = um_per_px or stated
    if scale is None:
        raise InputError(
            f"{path}: the scale is not known, the file does not state it; give it with --source-um-per-px "
            "or in slides.csv (of most scanners 0.25 at 40x, 0.5 at 20x)"
        )
    notes = []
    if um_per_px and stated and abs(um_per_px / stated - 1) > _SAME_SCALE:
        notes.append(f"{um_per_px:.4g} um per px is used, as you state it; the file says {stated:.4g}")
    elif not um_per_px and is_default_scale(scale):
        notes.append(f"the scale is doubtful: {DEFAULT_SCALE_DOUBT.format(scale)}; state it with --source-um-per-px")
    return Section(
        name=name,
        patient=patient,
        patient_source=patients.USER if patient else patients.GUESSED,
        image_path=path,
        genes=GeneTable(np.zeros(0, str), np.zeros(0, str)),
        counts=scipy.sparse.csr_array((0, 0), dtype=np.int32),
        spots=Spots.discs(np.zeros((0, 2)), np.float32(0)),
        um_per_px=scale,
        um_per_px_source="user" if um_per_px else "image file",
        layout=SLIDES,
        notes=tuple(notes),
    )
