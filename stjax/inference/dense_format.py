"""What a dense map is on disk: its files, and what they must say of themselves to be read or gone on with.

<map>.ome.zarr/zarr.json      written last: multiscales, physical scale, gene names, and under "stjax" where it is from
<map>.ome.zarr/0              float32 [c, y, x], one shard a tile, a checksum in every chunk
<map>.ome.zarr/progress.json  of an unfinished map only: what it is of, and how many tiles are whole
"""

import math
from pathlib import Path
from typing import Any, Literal

from data_prep import files, json_files
from data_prep.errors import InputError
from data_prep.json_files import Lacking
from stjax.targets import TRANSFORMS

FORMAT, VERSION = "stjax-dense-map", 1
CELL_PX = 4  # model pixels along a cell of the map
TILE_PX = 1536  # model pixels along a tile, unless another side is asked for
TOTAL = "total of all genes"  # the last channel of a map of rates
META, PROGRESS, LEVEL = "zarr.json", "progress.json", "0"
CHUNK_CHANNELS, CHUNK_CELLS = 8, 128  # at most, of what is compressed together

REMEDY = "remove the map and make it anew"
_ABOUT = {  # what a map says of itself, as far as it is read
    "genes": json_files.TEXTS,
    "ensembl_id": json_files.TEXTS,
    "aggregation": json_files.one_of("sum", "mean", "additive"),
    "slide": json_files.TEXT,
    "width": json_files.SIZE_PX,
    "height": json_files.SIZE_PX,
    "px_scale": json_files.POSITIVE,
}
_OF_RATES = {"target": json_files.one_of(*TRANSFORMS), "num_genes": json_files.whole_number(1)}
_OF_TARGETS = {"target_mean": json_files.numbers(), "target_std": json_files.numbers()}
_SIDES = json_files.numbers(1, whole=True, length=3)
_CODEC = {"name": json_files.TEXT, "configuration": Lacking(json_files.OBJECT)}
_ARRAY = {  # its zarr.json
    "zarr_format": json_files.one_of(3),
    "node_type": json_files.one_of("array"),
    "shape": _SIDES,
    "data_type": json_files.one_of("float32"),
    "chunk_grid": {"name": json_files.one_of("regular"), "configuration": {"chunk_shape": _SIDES}},
    "chunk_key_encoding": {
        "name": json_files.one_of("default"),
        "configuration": {"separator": json_files.one_of("/")},
    },
    "fill_value": json_files.one_of("NaN"),
    "codecs": [
        {
            "name": json_files.one_of("sharding_indexed"),
            "configuration": {
                "chunk_shape": _SIDES,
                "codecs": [_CODEC],
                "index_codecs": [_CODEC],
                "index_location": json_files.one_of("end"),
            },
        }
    ],
}
_BLOSC = {"configuration": {"cname": json_files.one_of("zstd"), "clevel": json_files.whole_number(0, 9)}}
_LITTLE_ENDIAN = {"endian": "little"}
_CODECS = {"codecs": ["bytes", "blosc", "crc32c"], "index_codecs": ["bytes", "crc32c"]}


def attributes(path: Path) -> dict[str, Any]:
    """What a finished map says of itself. Raises InputError when there is none, or it is damaged."""
    if not (path / META).is_file():
        raise InputError(f"{path} is no dense map; make one with stjax.predict --dense")
    name = str(path / META)
    content = json_files.read(path / META, remedy=f"{name} is damaged: {REMEDY}")
    json_files.require(content, {"attributes": {"stjax": json_files.OBJECT}}, f"{name} is damaged", remedy=REMEDY)
    about = content["attributes"]["stjax"]
    if (about.get("format"), about.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{path} is no dense map of this version of stjax; make it anew with stjax.predict --dense")
    json_files.require(about, _ABOUT, f"{name} is damaged", remedy=REMEDY)
    more = _OF_RATES if about["aggregation"] == "additive" else _OF_TARGETS
    json_files.require(about, more, f"{name} is damaged", remedy=REMEDY)
    lengths = {key: len(about[key]) for key in ("genes", "ensembl_id", *more) if isinstance(about[key], list)}
    if len(set(lengths.values())) > 1 or not about["genes"]:
        raise InputError(f"{name} is damaged: lists of {lengths}, expected one length; {REMEDY}")
    return about


def progress(path: Path) -> dict[str, Any]:
    """What an unfinished map says of itself. Raises InputError when it is damaged."""
    name, limits = path / PROGRESS, Lacking(json_files.numbers())
    content = json_files.read(name, remedy=f"{name} is damaged: {REMEDY}")
    expected = {"of": json_files.OBJECT, "tiles": json_files.COUNT, "low": limits, "high": limits}
    return json_files.require(content, expected, f"{name} is damaged", remedy=REMEDY)


def open_level(path: Path, *, mode: Literal["r", "r+"]) -> Any:
    """The map's array, if it is of the kind that `dense_writer.MapWriter` makes. Raises InputError."""
    name = str(path / LEVEL / META)
    content = json_files.read(path / LEVEL / META, remedy=f"{name} is damaged: {REMEDY}")
    json_files.require(content, _ARRAY, f"{name} is damaged", remedy=REMEDY)
    if len(content["codecs"]) != 1:
        raise InputError(f"{name} is damaged: {len(content['codecs'])} codecs, expected one; {REMEDY}")
    inner = content["codecs"][0]["configuration"]
    for key, names in _CODECS.items():
        if [codec["name"] for codec in inner[key]] != names or inner[key][0].get("configuration") != _LITTLE_ENDIAN:
            raise InputError(f"{name} is damaged: {key} are not {', '.join(names)}, in little-endian order; {REMEDY}")
    json_files.require(inner["codecs"][1], _BLOSC, f"{name} is damaged: codecs[1]", remedy=REMEDY)
    chunk = inner["chunk_shape"]
    if math.prod(chunk) > CHUNK_CHANNELS * CHUNK_CELLS**2:
        raise InputError(f"{name} is damaged: chunks of {files.shown(chunk)}; {REMEDY}")
    import zarr  # which only dense maps need

    try:
        array: Any = zarr.open_array(path / LEVEL, mode=mode)
    except Exception as error:  # zarr and its codecs raise all kinds
        raise InputError(f"{path} is damaged ({error}); {REMEDY}") from None
    if array.shards is None or len(array.shape) != 3:
        raise InputError(f"{name} is damaged: an array of {array.shape} without shards; {REMEDY}")
    return array
