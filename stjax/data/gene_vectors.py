"""What is known of genes, as vectors: hashed pieces of their symbols and full names, or a user's file.

Under SGN a gene is what its vector says. Symbols tell families apart (KRT5, KRT8, COL1A1), names what they are
("keratin 5", "collagen type I alpha 1 chain"). Only human full names are shipped: a mouse gene has that of the human
gene of the same letters.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep import npz
from data_prep.errors import InputError
from data_prep.gene_reference import full_names
from stjax.data.panel import Panel

WIDTH = 512  # of the hashed ones
_SIZES = (2, 3, 4, 5)  # letters of a piece


def gene_vectors(panel: Panel, path: str = "") -> np.ndarray:
    """[G, T, W] float32 of a panel's genes, T = 1 where a gene is one vector; zeros where a gene, or a token, has none.

    Args:
        path: .npz of "symbol" [V] and "vectors" [V, W] or "tokens" [V, T, W], from a language model, say; tokens behind
            the end of a text are zeros. "" hashes symbols and names.

    Raises:
        InputError: the file is damaged, or lacks main genes.
    """
    return _of_file(panel, Path(path)) if path else hashed(panel.names.tolist())[:, None]


def hashed(symbols: list[str]) -> np.ndarray:
    """[G, 512] float32 of genes: their pieces, rarer ones weighing more, each in a place and of a sign that its CRC-32
    says; of root mean square 1."""
    pieces = [Counter(_pieces(symbol)) for symbol in symbols]
    times = Counter(piece for of_gene in pieces for piece in of_gene)
    vectors = np.zeros((len(symbols), WIDTH), np.float32)
    for vector, of_gene in zip(vectors, pieces, strict=True):
        for piece in of_gene:
            number = zlib.crc32(piece.encode())
            sign = 1 - 2 * (number >> 31)
            vector[number % WIDTH] += sign * np.log((1 + len(symbols)) / times[piece])
    return vectors / np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))


def _pieces(symbol: str) -> Iterator[str]:
    """Runs of letters of a symbol, and the words of its full name with theirs."""
    capitals = symbol.upper()
    yield from _runs(f"<{capitals}>")
    for word in re.findall(r"[a-z0-9]+", full_names().get(capitals, "").lower()):
        yield word
        yield from _runs(f" {word} ")


def _runs(text: str) -> Iterator[str]:
    for size in _SIZES:
        yield from (text[start : start + size] for start in range(len(text) - size + 1))


def _of_file(panel: Panel, path: Path) -> np.ndarray:
    found = npz.read(
        path,
        {"symbol": ("U", 1)},
        optional={"vectors": ("f", 2), "tokens": ("f", 3)},
        remedy='save "symbol" and "vectors" or "tokens" with numpy.savez',
    )
    given = [found[name] for name in ("vectors", "tokens") if name in found]
    if len(given) != 1 or len(given[0]) != len(found["symbol"]) or not given[0].size:
        raise InputError(
            f'{path}: expected one of the arrays "vectors" and "tokens", with a row for each of the '
            f'{len(found["symbol"])} in "symbol"'
        )
    values = given[0].astype(np.float32)
    values = values if values.ndim == 3 else values[:, None]
    if not np.isfinite(values).all():
        raise InputError(f"{path}: it has numbers that are not finite; make it again")
    row = {symbol: i for i, symbol in enumerate(found["symbol"].tolist())}
    rows = np.array([row.get(name, -1) for name in panel.names.tolist()])
    vectors = np.where((rows >= 0)[:, None, None], values[rows], 0)
    if len(lacking := panel.labels[~vectors[: panel.num_main].any(axis=(1, 2))]):
        raise InputError(
            f"{path}: {len(lacking)} of {panel.num_main} main genes have no vector in it ({', '.join(lacking[:5])}); "
            "add them"
        )
    return vectors
