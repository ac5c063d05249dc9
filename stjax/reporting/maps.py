"""Maps of sections, small enough for a page: values quantised a gene at a time, slides as JPEG thumbnails.

A value v of a gene whose values span [low, high] is stored as 1 + round((v - low) / (high - low) * (levels - 1)), and 0
stands for no value; of a gene that does not vary the mean is kept. What is read back differs by at most half a level.
Arrays are gene after gene, little-endian, deflated and in base64. What does not fit is left out, and said: spots beyond
`MAX_SPOTS` of a section, drawn at random, then the genes of lowest correlation.
"""

import base64
import dataclasses
import hashlib
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_prep import cli
from stjax import metrics
from stjax.reporting.read import RunResults
from stjax.reporting.sections import DrawnSection

MAX_SPOTS = 6000
THUMBNAIL_PX = 1024
_JPEG_QUALITY = 80
_LEVELS = {16: 2**16 - 1, 8: 2**8 - 1}
_FEWEST_GENES = 10


@dataclasses.dataclass
class Store:
    """Base64 texts by the hash of their bytes, so that runs share slides and truths."""

    texts: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, content: bytes) -> str:
        """Keeps some bytes, and returns how to call them."""
        key = hashlib.sha256(content).hexdigest()[:16]
        if key not in self.texts:
            self.texts[key] = base64.b64encode(content).decode("ascii")
        return key

    @property
    def size(self) -> int:
        """Characters of all texts."""
        return sum(map(len, self.texts.values()))


@dataclasses.dataclass(frozen=True)
class Packed:
    """Maps of several runs.

    Attributes:
        runs: of each, its sections as the page reads them.
        bits: of a value; genes: [G'] columns of the per-gene table that have maps, a list a run.
        spots_left_out: how many spots the maps lack.
    """

    store: Store
    runs: list[list[dict[str, Any]]]
    bits: int
    genes: list[list[int]]
    spots_left_out: int


def pack(runs: Sequence[RunResults], *, limit: int) -> Packed:
    """The maps of all runs in at most `limit` characters where that can be done: with 16 bits a value, else with 8,
    else of fewer genes."""
    most = max((len(run.genes) for run in runs), default=0)
    packed = _pack(runs, bits=16, genes=most)
    if packed.store.size > limit:
        packed = _pack(runs, bits=8, genes=most)
    genes = most
    while packed.store.size > limit and genes > _FEWEST_GENES:
        genes = max(_FEWEST_GENES, min(genes - 1, int(genes * limit / packed.store.size * 0.98)))
        packed = _pack(runs, bits=8, genes=genes)
    return packed


def _pack(runs: Sequence[RunResults], *, bits: int, genes: int) -> Packed:
    store, packed, of_genes, left_out = Store(), [], [], 0
    for run in runs:
        pcc = run.genes["pcc"].fillna(-2).to_numpy()
        chosen = np.sort(np.argsort(-pcc, kind="stable")[:genes])
        of_genes.append(chosen.tolist())
        sections = cli.progress(run.sections, description=f"maps of {run.label}", unit="section")
        packed.append([_section(section, chosen, bits=bits, store=store) for section in sections])
        left_out += sum(max(0, len(section.spots) - MAX_SPOTS) for section in run.sections)
    return Packed(store, packed, bits, of_genes, left_out)


def _section(section: DrawnSection, genes: np.ndarray, *, bits: int, store: Store) -> dict[str, Any]:
    spots = np.arange(len(section.spots))
    if len(spots) > MAX_SPOTS:
        spots = np.sort(np.random.default_rng(0).choice(spots, MAX_SPOTS, replace=False))
    jpeg, width, height, factor = thumbnail(section.thumbnail)
    scale = section.thumbnail_scale * factor
    layers = {
        name: None if values is None else _layer(values[:, genes], spots, bits=bits, store=store)
        for name, values in (
            ("truth", section.truth),
            ("prediction", section.prediction),
            ("lower", section.lower),
            ("upper", section.upper),
        )
    }
    pcc = np.full(len(genes), np.nan)
    if section.truth is not None:  # of all spots, before anything is quantised
        pcc = metrics.pearson_per_gene(section.prediction[:, genes], section.truth[:, genes])
    return {
        "name": section.name,
        "patient": section.patient,
        "spots": len(section.spots),
        "ids": section.spots.id[spots].tolist(),
        "xy": np.round(section.spots.xy[spots] * scale, 2).tolist(),  # thumbnail pixels
        "diameter": round(section.spots.across_px().max(initial=0) * scale, 3),
        "um_per_px": None if np.isnan(section.um_per_px) else section.um_per_px / scale,
        "image": store.add(jpeg),
        "width": width,
        "height": height,
        "pcc": [None if np.isnan(value) else round(float(value), 6) for value in pcc],
        "layers": {name: layer for name, layer in layers.items() if layer is not None},
    }


def _layer(values: np.ndarray, spots: np.ndarray, *, bits: int, store: Store) -> dict[str, Any]:
    """[S, G] values of all spots, some of which are shown, as `quantise`; and "constant", the places of genes that do
    not vary over all spots: their rounding errors are no pattern, and are not kept."""
    constant = np.flatnonzero(metrics.constant(values))
    shown = np.asarray(values[spots], np.float64)
    shown[:, constant] = np.mean(values[:, constant], axis=0, dtype=np.float64)
    return quantise(shown, bits=bits, store=store) | {"constant": constant.tolist()}


def thumbnail(pixels: np.ndarray) -> tuple[bytes, int, int, float]:
    """A slide's picture as JPEG, its width and height, and its pixels per pixel given."""
    image = Image.fromarray(pixels)
    factor = min(1.0, THUMBNAIL_PX / max(image.size))
    if factor < 1:
        image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return file.getvalue(), image.width, image.height, factor


def quantise(values: np.ndarray, *, bits: int, store: Store) -> dict[str, Any]:
    """[S, G] values as the page keeps them: "codes", and [G] "low" and "high" (None for genes without values)."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    low = np.where(known, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, values, -np.inf).max(axis=0, initial=-np.inf)
    span = np.where(high > low, high - low, 1.0)
    steps = _LEVELS[bits] - 1
    codes = 1 + np.rint((np.where(known, values, 0) - np.where(known, low, 0)) / span * steps)
    codes = np.where(known, codes, 0).astype({16: "<u2", 8: "u1"}[bits])
    ends = [[float(f"{v:.9g}") if np.isfinite(v) else None for v in end] for end in (low, high)]
    return {"codes": store.add(zlib.compress(codes.T.tobytes(), 9)), "low": ends[0], "high": ends[1]}
