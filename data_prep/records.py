"""One record of the data set: an image and the spots in it, as a TFDS example that needs no TensorFlow.

image           [H, W, 3] uint8, a JPEG or raw bytes        section, patient   text
origin_xy [2], px_scale     full-resolution pixel of the image's top-left corner; full-resolution px per record px
white_fraction              share of the image brighter than the slide's Otsu threshold
spot_id [S], spot_xy [S, 2], spot_kind [S], spot_size_px [S]    record pixels; of a polygon the place of its first ring
total_counts [S]            all genes, before any gene was removed
polygon_indptr [R + 1], polygon_xy [V, 2]                       the rings of polygons one after the other, record pixels

Raw counts are in the section's table.
"""

import io
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from data_prep import budgets, tf_example
from data_prep.spots import POLYGON, Spots

simplejpeg: Any
try:
    import simplejpeg
except ImportError:  # Pillow decodes the same pixels, 1.4 times slower
    simplejpeg = None

IMAGE_FORMATS = ("jpeg", "raw")

ARRAYS = {
    "origin_xy": (np.float32, (2,)),
    "spot_xy": (np.float32, (None, 2)),
    "spot_kind": (np.uint8, (None,)),
    "spot_size_px": (np.float32, (None,)),
    "total_counts": (np.int64, (None,)),
    "polygon_indptr": (np.int32, (None,)),
    "polygon_xy": (np.float32, (None, 2)),
}
SCALARS = {"height": np.int32, "width": np.int32, "px_scale": np.float32, "white_fraction": np.float32}
TEXTS = ("section", "patient", "image_format")


def encode_image(image: np.ndarray, image_format: str, *, jpeg_quality: int) -> bytes:
    """uint8 [H, W, 3] to bytes; always through Pillow, so that the same pixels give the same bytes."""
    if image_format == "raw":
        return np.ascontiguousarray(image).tobytes()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=jpeg_quality, subsampling=0)  # colour at full resolution
    return buffer.getvalue()


def decode_image(data: bytes, image_format: str, height: int, width: int) -> np.ndarray:
    """Bytes to uint8 [H, W, 3].

    Raises:
        ValueError: damaged, or of another size.
    """
    if image_format == "raw":
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)
    if height * width * 3 > budgets.RECORD_IMAGE.limit(len(data)):
        raise ValueError(f"an image of {height} x {width} px in {len(data)} bytes")
    found = _jpeg_size(data)
    if found != (height, width):  # seen before anything of that size is made
        raise ValueError(f"an image of {found[0]} x {found[1]} px where {height} x {width} are said to be")
    if simplejpeg is not None:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    return np.array(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width, from the header alone."""
    if simplejpeg is not None:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    else:
        width, height = Image.open(io.BytesIO(data), formats=["JPEG"]).size
    return height, width


def spot_arrays(spots: Spots) -> dict[str, Any]:
    """A record's spots, in its pixels, as it holds them."""
    size = spots.size_px.copy()
    is_polygon = spots.kind == POLYGON
    size[is_polygon] = np.searchsorted(spots.ring_spot, np.flatnonzero(is_polygon))
    return {
        "spot_id": spots.names.tolist(),
        "spot_xy": spots.xy,
        "spot_kind": spots.kind,
        "spot_size_px": size,
        "polygon_indptr": spots.ring_start,
        "polygon_xy": spots.ring_xy,
    }


def spots_of(record: Mapping[str, Any]) -> Spots:
    """The spots of a record, in its pixels.

    Raises:
        InputError: they are none, such as a ring of two vertices.
    """
    kind, size, start = (record[name] for name in ("spot_kind", "spot_size_px", "polygon_indptr"))
    is_polygon = kind == POLYGON
    of_polygon = np.searchsorted(size[is_polygon], np.arange(len(start) - 1), side="right") - 1
    return Spots(
        id=record["spot_id"],
        xy=record["spot_xy"],
        kind=kind,
        size_px=np.where(is_polygon, np.float32(0), size),
        ring_spot=np.flatnonzero(is_polygon)[of_polygon],
        ring_start=start,
        ring_xy=record["polygon_xy"],
    )


def encode_record(record: Mapping[str, Any]) -> bytes:
    """A record, its image already encoded, to bytes; the same record always gives the same bytes."""
    of_scalars = {name: np.asarray(record[name], dtype) for name, dtype in SCALARS.items()}
    of_arrays = {name: np.asarray(record[name], dtype) for name, (dtype, _) in ARRAYS.items()}
    rest = {name: record[name] for name in ("image", "spot_id", *TEXTS)}
    return tf_example.encode(rest | of_scalars | of_arrays)


def decode_record(data: bytes, *, image: bool = True) -> dict[str, Any]:
    """Bytes to a record; TFDS reads it too, several times slower.

    Args:
        image: decode it too; else the record has none.

    Raises:
        ValueError: damaged: its parts are missing, of another kind, or do not fit one another.
    """
    try:
        record = _decoded(data, image=image)
    except Exception as error:  # whatever damaged bytes make of protobuf, NumPy and the JPEG decoder
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if fault := _fault(record):
        raise ValueError(fault)
    return record


def _decoded(data: bytes, *, image: bool) -> dict[str, Any]:
    feature = tf_example.decode(data)
    record: dict[str, Any] = {name: feature[name][0].decode() for name in TEXTS}
    if record["image_format"] not in IMAGE_FORMATS:
        raise ValueError(f"its image is {record['image_format'][:20]!r}, expected one of {', '.join(IMAGE_FORMATS)}")
    for name, dtype in SCALARS.items():
        record[name] = dtype(feature[name][0])
    for name, (dtype, shape) in ARRAYS.items():
        values = np.array(feature[name], dtype=dtype)
        record[name] = values.reshape(-1, *shape[1:])
    record["spot_id"] = np.array([value.decode() for value in feature["spot_id"]], dtype=str)
    if image:
        pixels = feature["image"][0]
        size = int(record["height"]), int(record["width"])
        record["image"] = decode_image(pixels, record["image_format"], *size)
    return record


def _fault(record: Mapping[str, Any]) -> str:
    """Why the parts of a record do not fit one another, "" if they do."""
    spots = len(record["spot_id"])
    for name in ("spot_xy", "spot_kind", "spot_size_px", "total_counts"):
        if len(record[name]) != spots:
            return f"{name} of {len(record[name])} spots, beside {spots} names of spots"
    if record["origin_xy"].shape != (2,):
        return f"its origin is {record['origin_xy'].tolist()[:4]}, expected x and y"
    if record["height"] < 1 or record["width"] < 1 or not 0 < record["px_scale"] < np.inf:
        return f"its size is {record['height']} x {record['width']} px at a scale of {record['px_scale']}"
    if not all(np.isfinite(record[name]).all() for name in ("origin_xy", "spot_xy", "spot_size_px", "polygon_xy")):
        return "a place or size of a spot is no number"
    bounds = record["polygon_indptr"]
    if not len(bounds) or bounds[0] != 0 or bounds[-1] != len(record["polygon_xy"]) or (bounds[1:] < bounds[:-1]).any():
        return "the outlines of its spots do not fit together"
    first = [*record["spot_size_px"][record["spot_kind"] == POLYGON].tolist(), len(bounds) - 1]  # rings of the polygons
    if first[0] != 0 or any(start >= stop for start, stop in itertools.pairwise(first)):
        return f"its polygons' outlines begin at {first[:-1]} of {first[-1]} rings"
    return ""


def open_shard(path: str, *options: str, **settings: int) -> Any:
    """ArrayRecord's reader of a shard; imported here, as an extra brings it."""
    from array_record.python.array_record_module import ArrayRecordReader  # pyright: ignore[reportMissingImports]

    return ArrayRecordReader(path, *options, **settings)
