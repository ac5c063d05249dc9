"""An AnnData in memory, as scanpy and squidpy keep spatial data: its picture, scale and spots.

The rules are those of the layout `anndata` (docs/layouts/anndata.md): `obsm["spatial"]` is in full-resolution pixels,
`uns["spatial"][library]` has pictures of the slide and how many of their pixels a full-resolution pixel is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.readers import _h5ad, _h5ad_geometry, _h5ad_places
from data_prep.slide import open_slide
from stjax.api.given import Given, picture, pixels

_WHERE = "the AnnData"
_LIBRARY = "library_id"


def given(adata: Any, image: Any, um_per_px: float | None) -> Given:
    """What an AnnData says.

    Args:
        image: the full-resolution slide, where there is one; None takes the finest picture in the AnnData.
        um_per_px: of full-resolution pixels, whatever the AnnData says; None takes what it says, or Visium's pitch.

    Raises:
        InputError: no coordinates, no picture, no scale, several slides, or parts that are not of one another.
    """
    name, entry = _library(adata)
    factors = {key: float(np.ravel(value)[0]) for key, value in _mapping(entry.get("scalefactors")).items()
               if _is_number(value)}  # fmt: skip
    pictures = {key: np.asarray(value) for key, value in _mapping(entry.get("images")).items()}
    known = {"scalefactors": factors, "images": {key: value.shape[:2] for key, value in pictures.items()}}

    scales = [(key, value) for key, value in factors.items() if key.startswith("tissue_")]
    xy, _, notes = _h5ad_places.find(adata.obs, list(adata.obsm), lambda key: adata.obsm[key], lambda: scales, _WHERE)
    kept = np.asarray(np.isfinite(xy).all(axis=1))
    if not kept.all():
        notes += (counted(int((~kept).sum()), "spots without coordinates were left out"),)
    if "in_tissue" in adata.obs:
        kept, off_tissue = _h5ad.flagged(adata.obs["in_tissue"].astype(str).to_numpy(dtype=str), kept, _WHERE)
        notes += off_tissue
    if not kept.any():
        raise InputError(f"{_WHERE} has no spot under tissue with coordinates; check obs['in_tissue'], obsm['spatial']")

    zoom, key = 1.0, ""
    if image is None:
        key, zoom = _finest(name, pictures, factors)
        image = pixels(pictures[key], f"the picture {key!r} of {_WHERE}")
        height, width = image.shape[:2]
        about = _h5ad_geometry.Image(f"the picture {key!r}", (width / zoom, height / zoom), None)
    else:
        about = _about(image)
    found = _h5ad_geometry.read(name, _WHERE, adata.obs[kept], xy[kept], known, about, user_um=um_per_px)
    if key and zoom < 1:
        notes += (
            f"the picture {key!r} is predicted, {found.um_per_px / zoom:.3g} um per px; the slide itself, of "
            f"{found.um_per_px:.3g}, shows more: give image, its path",
        )
    for note in (*notes, *found.notes):
        print(f"note: {name}: {note}")
    return Given(image, found.um_per_px, found.spots, name, zoom, "anndata", found.um_per_px_source)


def _library(adata: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and entry of the one library of `uns["spatial"]` that the spots are of; "image" and {} where there is none.

    Raises:
        InputError: the spots are of several, or it is not said of which.
    """
    libraries = _mapping(adata.uns.get("spatial"))
    if {"images", "scalefactors"} & set(libraries):  # without a library between
        return "image", libraries
    whose = [str(each) for each in adata.obs[_LIBRARY].unique()] if _LIBRARY in adata.obs else []
    mine = [name for name in libraries if name in whose] if whose else list(libraries)
    if libraries and len(whose) == 1 and not mine:
        raise InputError(
            f"{_WHERE}: obs[{_LIBRARY!r}] is {whose[0]!r}, uns['spatial'] has {', '.join(map(str, libraries))}; name "
            "its entry as the spots' library"
        )
    if len(whose) > 1 or len(mine) > 1:
        raise InputError(
            f"{_WHERE} is of several slides ({', '.join(whose or map(str, mine))}), expected one: take the spots of "
            f"one, adata[adata.obs[{_LIBRARY!r}] == NAME], and leave one entry in uns['spatial']"
        )
    return (str(mine[0]), _mapping(libraries[mine[0]])) if mine else ("image", {})


def _finest(name: str, pictures: Mapping[str, np.ndarray], factors: Mapping[str, float]) -> tuple[str, float]:
    """The picture with most pixels of the slide, and its pixels per full-resolution pixel."""
    known = {key: factors.get(f"tissue_{key}_scalef", 0.0) for key in pictures}
    usable = {key: factor for key, factor in known.items() if 0 < factor < np.inf}
    if not usable:
        lacks = f"no tissue_{next(iter(known))}_scalef to place spots in its picture" if known else "no picture"
        raise InputError(
            f"{_WHERE} has {lacks} (uns['spatial'][{name!r}]); give image, the full-resolution slide: "
            "model.predict(adata, image='slide.tif')"
        )
    finest = max(usable, key=lambda key: usable[key])
    return finest, usable[finest]


def _about(image: Any) -> _h5ad_geometry.Image:
    """An image that the user gives."""
    if isinstance(image, str | Path):
        with open_slide(image) as slide:
            return _h5ad_geometry.Image(str(image), (slide.width, slide.height), slide.um_per_px)
    return _h5ad_geometry.Image("image", picture(image).size, None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return np.size(value) == 1 and np.asarray(value).dtype.kind in "iuf"
