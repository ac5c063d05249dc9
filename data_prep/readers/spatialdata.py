"""spatialdata: a SpatialData Zarr store, or a folder of them, as spatialdata-io writes Visium, Visium HD and Xenium.

    <store>.zarr/images/<image>/             OME-Zarr, RGB, of 8 bits
    <store>.zarr/shapes/<shapes>/            circles or polygons: shapes.parquet
    <store>.zarr/tables/<table>/             AnnData: raw counts of the shapes, joined by region and instance
    patients.csv                             optional: section,patient; next to the store

A section is one region of a table: shapes, with the image that shares a coordinate system with them. It has the store's
name, or where a store holds several the shapes'. Where several elements come into question, `--elements` chooses.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_prep import files, zarr_store
from data_prep.errors import InputError
from data_prep.readers import (
    _arrays,
    _h5ad,
    _h5ad_counts,
    _h5ad_geometry,
    _h5ad_samples,
    _sdata_shapes,
    _sdata_store,
    _sections,
)
from data_prep.readers._h5ad_file import as_text, table
from data_prep.readers._sections import Reading
from data_prep.section import Section
from data_prep.slide_zarr import OmeZarrSlide
from data_prep.spots import DISC, Spots

ELEMENTS = ("image", "shapes", "table", "system")  # what --elements names

_SMALL = re.compile(r"_(hires|lowres|cytassist)_image$")  # pictures that spatialdata-io writes besides the slide
_BINS = re.compile(r"square_(\d{3})um$")  # shapes of Visium HD's bins
_XENIUM_PX_UM = 0.2125  # of Xenium's own images, in which spatialdata-io's global coordinates are
_ENDING = re.compile(r"([._]?(spatialdata|sdata))?\.zarr$", re.IGNORECASE)
_SAME_PX, _MAX_PX = 0.1, 10_000_000


class _Found(NamedTuple):
    """A section: its store, table and region, the shapes taken, their image, [3, 3] from shapes to pixels of it; and
    what it lacks."""

    store: _sdata_store.Store
    table: _sdata_store.Table
    region: str
    shapes: str
    image: str = ""
    into_image: np.ndarray = np.eye(3)
    lack: str = ""


def detect(path: Path) -> str | None:
    """Why `path` is or holds SpatialData stores, or None."""
    found = _stores(path)
    if found and _sdata_store.is_store(path):
        return "it is a SpatialData store"
    return f"it holds {len(found)} SpatialData store(s)" if found else None


def find_sections(path: Path, reading: Reading) -> dict[str, str]:
    """Every region that a table annotates -> what it lacks, "" when complete."""
    return {name: found.lack for name, found in _find(path, reading).items()}


def read_section(path: Path, name: str, reading: Reading) -> Section:
    """One region, its spots in the order of the table; those flagged as off tissue are left out."""
    found = _find(path, reading)[name]
    where = found.table.folder
    group = zarr_store.open_group(where)
    obs = table(group, "obs", where)
    counts, gene_id, symbol, count_notes = _h5ad_counts.read(group, where, obs.index.to_numpy(dtype=str))
    of_region = as_text(_column(obs, found.table.region_key, where), where) == found.region
    kept, tissue_notes = _h5ad.under_tissue(obs, of_region, where)
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise InputError(f"{where}: no row of region {found.region!r} is under tissue; check its columns")
    obs, counts = obs.iloc[rows], counts[rows]
    spots, spot_notes = _spots(found, obs)
    array, array_notes = _arrays.of_table(obs, spots.xy, where)
    image_path = found.store.image_folder(found.image)
    with OmeZarrSlide(image_path, _MAX_PX) as slide:
        image_um = slide.um_per_px
    factors, factor_notes = _factors(found)
    value, source, scale_notes = _h5ad_geometry.scale(
        name, array, factors, user_um=reading.um_per_px, image_um=image_um
    )
    if array is not None and array.kind == "hexagonal" and (spots.kind == DISC).all():
        spots = Spots.discs(spots.xy, np.float32(_h5ad_geometry.VISIUM_RADIUS_UM / value), spots.id)
    patient = _h5ad_samples.patient(path, where, name, obs)
    named, counts, gene_notes = reading.name_genes(gene_id.tolist(), counts, symbol.tolist())
    taken = f"image {found.image!r} with shapes {found.shapes!r} and table {where.name!r} of {found.store.path.name}"
    notes = (*patient.notes, *spot_notes, *tissue_notes, *factor_notes, *scale_notes, *array_notes, *count_notes)
    return Section(
        name=name,
        patient=patient.name,
        patient_source=patient.source,
        image_path=image_path,
        genes=named,
        counts=counts,
        spots=spots,
        um_per_px=value,
        um_per_px_source=source,
        layout="spatialdata",
        synthetic=_sections.is_synthetic(found.store.path),
        notes=(taken, *notes, *gene_notes),
    )


def _spots(found: _Found, obs: pd.DataFrame) -> tuple[Spots, tuple[str, ...]]:
    """The shapes that rows of the table name, in their order, by the table's names; and notes."""
    where = found.table.folder
    ids, blobs, radius = _sdata_shapes.read(file := found.store.shapes_file(found.shapes))
    place = pd.Index(ids)
    if not place.is_unique:
        raise InputError(f"{file}: shape {files.shown(ids[place.duplicated()][0])} is there twice; correct the store")
    instance = as_text(_column(obs, found.table.instance_key, where), where)
    if found.shapes != found.region and "cell_id" in obs and not place.isin(instance).any():
        instance = as_text(obs["cell_id"], where)  # of shapes besides the region, which spatialdata-io numbers
    rows = place.get_indexer(pd.Index(instance))
    if (lost := rows < 0).any():
        raise InputError(
            f"{where}: it names {int(lost.sum())} shapes that {found.shapes!r} lacks, "
            f"{files.shown(instance[lost][0])} for instance; match the two to one another"
        )
    notes = (
        (f"{len(ids) - len(rows)} shapes of {found.shapes!r} are of no row that is kept",)
        if len(rows) < len(ids)
        else ()
    )
    chosen = [blobs[row] for row in rows]
    names = obs.index.to_numpy(dtype=str)
    radius = None if radius is None else radius[rows]
    return _sdata_shapes.spots(f"{found.store.path}", found.shapes, chosen, radius, found.into_image, names), notes


def _column(obs: pd.DataFrame, key: str, where: Path) -> Any:
    if key not in obs:
        raise InputError(f"{where}: obs has no column {key!r}, which should tell whose a row is; write the store again")
    return obs[key]


def _factors(found: _Found) -> tuple[dict[str, float], tuple[str, ...]]:
    """What names and maps say of the scale, as scale factors; and notes."""
    if bins := _BINS.search(found.shapes):
        return {"bin_size_um": float(bins[1])}, ()
    for affine in found.store.shapes[found.shapes].values():
        if _sdata_shapes.is_similarity(affine) and abs(_sdata_shapes.zoom(affine) * _XENIUM_PX_UM - 1) < 1e-3:
            note = (
                f"{found.shapes!r} are taken to be in um, as they are scaled to Xenium's pixels of {_XENIUM_PX_UM} um"
            )
            return {"microns_per_pixel": 1 / _sdata_shapes.zoom(found.into_image)}, (note,)
    return {}, ()


# ------------------------------------------------------------------------------------------------- what is where


def _stores(path: Path) -> list[Path]:
    """The source itself where it is a store, or those in it."""
    if not path.is_dir():
        return []
    if _sdata_store.is_store(path):
        return [path]
    within = sorted(entry for entry in path.iterdir() if entry.suffix == ".zarr" and entry.name[0] != ".")
    return [entry for entry in within if _sdata_store.is_store(entry)]


def _find(path: Path, reading: Reading) -> dict[str, _Found]:
    """Section -> what is taken for it.

    Raises:
        InputError: no store, a damaged one, or several elements to choose from.
    """
    if not (stores := _stores(path)):
        raise InputError(f"{path}: no SpatialData store found; give one, or the folder that holds them")
    if reading.image is not None:
        raise InputError(f"--image {reading.image}: layout spatialdata names it with --elements image=NAME")
    chosen = _choices(reading.elements)
    sections: dict[str, _Found] = {}
    for folder in stores:
        found, stem = _in_store(_sdata_store.open_store(folder), chosen), _ENDING.sub("", folder.name) or folder.name
        for each in found:
            name = stem if len(found) == 1 else each.region if len(stores) == 1 else f"{stem}_{each.region}"
            if name in sections:
                raise InputError(f"{path}: section {name!r} is both in {folder.name} and elsewhere; rename a store")
            sections[name] = each
    return sections


def _choices(text: str | None) -> dict[str, str]:
    """What `--elements` names."""
    parts = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    found = {kind.strip(): name.strip() for kind, _, name in parts}
    if (text is not None and not parts) or not set(found) <= set(ELEMENTS) or not all(found.values()):
        raise InputError(
            f"--elements is {text!r}, expected some of {', '.join(f'{kind}=NAME' for kind in ELEMENTS)}, with commas "
            "between them"
        )
    if len(found) < len(parts):
        raise InputError(f"--elements is {text!r}, which names an element twice; keep one")
    return found


def _in_store(store: _sdata_store.Store, chosen: Mapping[str, str]) -> list[_Found]:
    """The sections of a store. Raises InputError where what is asked for is not there, or two share an image."""
    for kind, there in (("image", store.images), ("shapes", store.shapes), ("table", store.tables)):
        if kind in chosen and chosen[kind] not in there:
            raise InputError(
                f"{store.path}: no {kind} {chosen[kind]!r}, it has {', '.join(there) or 'none'}; see --elements"
            )
    tables = {name: table for name, table in store.tables.items() if chosen.get("table", name) == name}
    if not tables:
        raise InputError(f"{store.path}: no table that annotates shapes, expected counts in tables/; add one")
    pairs = [(table, region) for table in tables.values() for region in table.regions]
    if wanted := chosen.get("shapes"):
        pairs = [pair for pair in pairs if pair[1] == wanted] or pairs
        if len(pairs) > 1:
            raise InputError(
                f"{store.path}: tables annotate {_listed(region for _, region in pairs)}, none {wanted!r}; say whose "
                "shapes they are with --elements table=NAME"
            )
    found = [_placed(store, table, region, wanted or region, chosen) for table, region in pairs]
    for image in {each.image for each in found if each.image}:
        of_image = {each.table.folder.name: each for each in found if each.image == image}
        if len(of_image) > 1:
            raise InputError(
                f"{store.path}: tables {_listed(of_image)} are of the same image {image!r}; choose one with --elements "
                "table=NAME"
            )
    return found


def _placed(
    store: _sdata_store.Store, table: _sdata_store.Table, region: str, shapes: str, chosen: Mapping[str, str]
) -> _Found:
    """A region with the image that its shapes lie in. Raises InputError where several come into question."""
    found = _Found(store, table, region, shapes)
    if shapes not in store.shapes:
        remedy = f"name shapes with the same ids by --elements shapes=NAME, of {_listed(store.shapes)}"
        return found._replace(lack=f"table {table.folder.name!r} annotates {region!r}, which is no shapes; {remedy}")
    of_shapes = {name: affine for name, affine in store.shapes[shapes].items() if chosen.get("system", name) == name}
    shared = {name: of_shapes.keys() & systems.keys() for name, systems in store.images.items()}
    near = [name for name in store.images if shared[name] and chosen.get("image", name) == name]
    slides = near if "image" in chosen else [name for name in near if _is_slide(store, name)]
    in_system = f" in coordinate system {_listed(of_shapes)}"
    if not slides:
        others = f" (there is {_listed(near)}: --elements image=NAME takes one all the same)" if near else ""
        return found._replace(lack=f"RGB image not found with shapes {shapes!r}{in_system}{others}")
    if len(slides) > 1:
        raise InputError(
            f"{store.path}: images {_listed(slides)} lie with shapes {shapes!r}{in_system}; choose one with --elements "
            "image=NAME"
        )
    (image,) = slides
    maps = {name: np.linalg.inv(store.images[image][name]) @ of_shapes[name] for name in sorted(shared[image])}
    first = next(iter(maps.values()))
    if not all(np.allclose(first, other, rtol=1e-6, atol=_SAME_PX) for other in maps.values()):
        raise InputError(
            f"{store.path}: shapes {shapes!r} lie elsewhere in image {image!r} by coordinate system {_listed(maps)}; "
            "choose one with --elements system=NAME"
        )
    if not _sdata_shapes.is_similarity(store.images[image][next(iter(maps))]):
        raise InputError(f"{store.path}: pixels of image {image!r} are not square; resample it to square pixels")
    return found._replace(image=image, into_image=first)


def _is_slide(store: _sdata_store.Store, image: str) -> bool:
    """Whether an image can be a slide: RGB, and none of the small pictures that stand by it."""
    if not _SMALL.search(image):
        with contextlib.suppress(InputError):
            OmeZarrSlide(store.image_folder(image), _MAX_PX).close()
            return True
    return False


def _listed(names: Any) -> str:
    return ", ".join(map(str, list(names)[:6])) or "none"
