"""Zarr stores in folders, of versions 2 and 3: what their nodes say; arrays and groups, opened once they are checked.

They are of plain numbers or texts, in codecs that unpack data and do nothing else.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep import budgets, files, json_files
from data_prep.errors import InputError

META, ARRAY, GROUP, ATTRIBUTES = "zarr.json", ".zarray", ".zgroup", ".zattrs"  # the first of version 3, others of 2

_REMEDY = "copy or download it again, or write it again"
_SIDES = json_files.numbers(0, whole=True)
_CODECS = (  # names in version 3, ids in version 2
    *("bytes", "transpose", "sharding_indexed", "crc32c", "gzip", "zlib", "zstd", "lz4", "blosc", "bz2", "lzma"),
    *("delta", "shuffle", "vlen-utf8", "numcodecs.shuffle", "numcodecs.zlib", "numcodecs.delta"),
)
_NUMBERS = re.compile(r"^(?:bool|u?int(?:8|16|32|64)|float(?:16|32|64))$")  # version 3
_NUMPY = re.compile(r"^[|<>](?:b1|[iuf](?:1|2|4|8)|[SU]\d{1,4})$")  # version 2
_TEXT_BYTES = 64  # a text in memory, about


def attributes(folder: Path) -> dict[str, Any] | None:
    """What a node of a store says of itself, {} where it says nothing; None where the folder is no node.

    Raises:
        InputError: it is damaged.
    """
    if files.is_there(folder / META):
        found = json_files.read(folder / META, remedy=_REMEDY).get("attributes", {})
    elif files.is_there(folder / ATTRIBUTES):
        found = json_files.read(folder / ATTRIBUTES, remedy=_REMEDY)
    else:
        return {} if files.is_there(folder / GROUP) or files.is_there(folder / ARRAY) else None
    return json_files.require(found, json_files.OBJECT, f"{folder}: attributes", remedy=_REMEDY)


def open_array(folder: Path) -> Any:
    """A Zarr array, to be read by regions.

    Raises:
        InputError: none is there, it is damaged, or it is of a kind that is not read.
    """
    import zarr

    _check_array(folder)
    try:
        return zarr.open_array(_store(folder), mode="r")
    except Exception as error:  # zarr and its codecs raise all kinds
        raise _damaged(folder, error) from error


def open_group(folder: Path) -> Any:
    """A Zarr group, all of whose arrays can be read whole.

    Raises:
        InputError: none is there, one of its nodes is damaged or of a kind that is not read, or an array declares more
            than its files justify.
    """
    import zarr

    for array, shape, item_bytes in _arrays(folder):
        stored = sum(file.stat().st_size for file in array.rglob("*") if file.is_file())
        budgets.ZARR_ARRAY.check(array, math.prod(shape) * item_bytes, file_bytes=stored)
    try:
        return zarr.open_group(_store(folder), mode="r", use_consolidated=False)
    except Exception as error:
        raise _damaged(folder, error) from error


def _store(folder: Path) -> Any:
    import zarr.storage

    return zarr.storage.LocalStore(folder, read_only=True)


def _damaged(folder: Path, error: Exception) -> InputError:
    reason = files.shown(" ".join(str(error).split()) or type(error).__name__, most=200)
    return InputError(f"{folder}: cannot be read as Zarr ({reason}); {_REMEDY}")


def _arrays(folder: Path) -> Iterator[tuple[Path, list[int], int]]:
    """The arrays in a group: place, shape, and bytes of an item. Raises InputError as `open_group` does."""
    for place, _, names in os.walk(folder):
        node = Path(place)
        if ARRAY in names or (META in names and _meta(node)["node_type"] == "array"):
            yield node, *_check_array(node)


def _meta(folder: Path) -> dict[str, Any]:
    content = json_files.read(folder / META, remedy=_REMEDY)
    expected = {"zarr_format": json_files.one_of(3), "node_type": json_files.one_of("array", "group")}
    return json_files.require(content, expected, f"{folder / META} is damaged", remedy=_REMEDY)


def _check_array(folder: Path) -> tuple[list[int], int]:
    """Shape of an array, and bytes of an item. Raises InputError as `open_array` does."""
    if files.is_there(folder / META):
        what, content = folder / META, _meta(folder)
        grid = {"name": json_files.one_of("regular"), "configuration": {"chunk_shape": _SIDES}}
        expected = {"shape": _SIDES, "data_type": json_files.ANY, "chunk_grid": grid, "codecs": [json_files.OBJECT]}
        json_files.require(content, expected, f"{what} is damaged", remedy=_REMEDY)
        chunk, kind = content["chunk_grid"]["configuration"]["chunk_shape"], content["data_type"]
        codecs = [name for codec in content["codecs"] for name in _codec_names(codec, "name")]
        shards = [codec["configuration"]["chunk_shape"] for codec in content["codecs"]
                  if codec.get("name") == "sharding_indexed"]  # fmt: skip
        item_bytes = _item_bytes(what, kind, _NUMBERS, kind == "string")
        for inner in shards:
            json_files.require(inner, _SIDES, f"{what} is damaged: chunk_shape of its shards", remedy=_REMEDY)
        chunk = shards[0] if shards else chunk
    else:
        what = folder / ARRAY
        content = json_files.read(what, remedy=_REMEDY)
        expected = {"zarr_format": json_files.one_of(2), "shape": _SIDES, "chunks": _SIDES, "dtype": json_files.TEXT}
        json_files.require(content, expected, f"{what} is damaged", remedy=_REMEDY)
        chunk, kind = content["chunks"], content["dtype"]
        filters = content.get("filters") or []
        json_files.require(filters, [json_files.OBJECT], f"{what} is damaged: filters", remedy=_REMEDY)
        packed = [content["compressor"]] if content.get("compressor") else []
        json_files.require(packed, [json_files.OBJECT], f"{what} is damaged: compressor", remedy=_REMEDY)
        codecs = [name for codec in [*filters, *packed] for name in _codec_names(codec, "id")]
        item_bytes = _item_bytes(what, kind, _NUMPY, kind == "|O" and "vlen-utf8" in codecs)
    if unknown := [name for name in codecs if name not in _CODECS]:
        raise InputError(
            f"{what}: codec {files.shown(unknown[0])} is not read; write it with blosc, zstd or gzip, or without"
        )
    if len(chunk) != len(content["shape"]):
        raise InputError(
            f"{what} is damaged: chunks {files.shown(chunk)} of {files.shown(content['shape'])}; {_REMEDY}"
        )
    budgets.ZARR_CHUNK.check(folder, math.prod(chunk) * item_bytes, file_bytes=0)
    return content["shape"], item_bytes


def _codec_names(codec: Any, key: str) -> Iterator[str]:
    """Names of a codec and of those within it."""
    if not isinstance(codec, Mapping):
        return
    yield str(codec.get(key))
    within = codec.get("configuration")
    for each in within.values() if isinstance(within, Mapping) else ():
        for inner in each if isinstance(each, list) else ():
            yield from _codec_names(inner, key)


def _item_bytes(what: Path, kind: Any, numbers: re.Pattern[str], is_text: bool) -> int:
    if is_text:
        return _TEXT_BYTES
    if not isinstance(kind, str) or not numbers.match(kind):
        raise InputError(f"{what}: of type {files.shown(kind)}, expected numbers or texts; write it again as these")
    digits = int(re.sub(r"\D", "", kind) or 8)
    if numbers is _NUMBERS:
        return digits // 8
    return digits * (4 if "U" in kind else 1)
