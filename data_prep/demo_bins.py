"""A synthetic Visium HD sample of any number of 2 um bins, written block by block: as large as whole slides are.

The tissue and its cells are those of `demo_tissue`; molecules are drawn, binned and written a band of the slide at a
time, and the slide is painted in strips, so that memory grows with the number of cells and not with that of bins.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_prep import cli, demo_slide, demo_tissue, h5_file
from data_prep.demo_layouts import NOTICE, reduced
from data_prep.demo_slide import Staining
from data_prep.demo_space_ranger import BIN_UM, bin_factors, on_tissue
from data_prep.demo_tissue import Biology, Tissue
from data_prep.errors import InputError

_BIN_UM = BIN_UM[0]
_PARENT = BIN_UM[-1] // _BIN_UM  # bins a side of the squares that are on tissue or not
_BAND_UM = 96.0  # multiple of these; a molecule lies nearer to its cell than a band is high
_MOLECULES = 3_000_000  # of a band, about
_STRIP_PX, _TILE_PX, _COARSER = 512, 512, 4  # painted at once; a tile of the slide; a level against the one below
_CHUNK = 80_000  # entries of a data set of the matrix packed together, as Space Ranger packs them
_COLUMNS = ("array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")


class Sample(NamedTuple):
    """What is written: a tissue with its cells, stained, its molecules per um2 of tissue, and the slide's scale."""

    tissue: Tissue
    staining: Staining
    life: Biology
    molecules: float
    um_per_px: float
    seed: tuple[int, ...]

    def rng(self, *number: int) -> np.random.Generator:
        """What decides one part, whatever is made besides."""
        return np.random.default_rng([*self.seed, *number])


class _Band(NamedTuple):
    """Rows of bins from `first` on: row, column (from the left) and (column, row) on the array of those near tissue;
    which of them are on it; and the counts of these as CSR."""

    row: np.ndarray
    column: np.ndarray
    array_column: np.ndarray
    inside: np.ndarray
    data: np.ndarray
    indices: np.ndarray
    lengths: np.ndarray

    @property
    def names(self) -> np.ndarray:
        """[N] S21: such as s_002um_00012_00345-1."""
        names = np.frombuffer(f"s_{_BIN_UM:03d}um_00000_00000-1".encode(), np.uint8)
        letters = np.repeat(names[None], len(self.row), axis=0)
        for start, numbers in ((8, self.row), (14, self.array_column)):
            letters[:, start : start + 5] += (numbers[:, None] // 10 ** np.arange(4, -1, -1) % 10).astype(np.uint8)
        return letters.view(f"S{len(names)}").ravel()


def write_sample(folder: Path, name: str, sample: Sample) -> None:
    """The slide and the 2 um bins of one sample, as Space Ranger lays them out.

    Raises:
        InputError: tifffile is not installed.
    """
    small = _write_slide(folder / f"{name}_tissue_image.tif", sample)
    bins = folder / "binned_outputs" / f"square_{_BIN_UM:03d}um"
    (bins / "spatial").mkdir(parents=True)
    _write_bins(bins, sample)
    width = _size_px(sample)[1]
    scale = {}
    for which, side in (("hires", 2000), ("lowres", 600)):
        picture, times = reduced(small, side)
        scale[f"tissue_{which}_scalef"] = times * small.shape[1] / width
        Image.fromarray(picture).save(bins / f"spatial/tissue_{which}_image.png", compress_level=1)
    factors = bin_factors(_BIN_UM, sample.um_per_px, scale)
    (bins / "spatial/scalefactors_json.json").write_text(json.dumps(factors, indent=4))


def _size_px(sample: Sample) -> tuple[int, int]:
    """Height and width of the slide."""
    tissue = sample.tissue
    return round(tissue.height_um / sample.um_per_px), round(tissue.width_um / sample.um_per_px)


def _write_slide(path: Path, sample: Sample) -> np.ndarray:
    """A pyramid of tiles; returns its second level, a quarter as wide and high."""
    try:
        import tifffile
    except ImportError as error:
        raise InputError("--bins writes a slide of tiles: pip install 'stjax[wsi]'") from error
    path.parent.mkdir(parents=True)
    height, width = _size_px(sample)
    strips = demo_slide.paint_strips(
        sample.rng(0), sample.tissue, sample.staining, um_per_px=sample.um_per_px, strip_px=_STRIP_PX
    )
    rows: list[np.ndarray] = []

    def tiles(strips: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for strip in cli.progress(strips, total=-(-height // _STRIP_PX), description="slide", unit="strip"):
            rows.append(_coarser(strip))
            yield from _tiles(strip)

    options: dict[str, Any] = {"photometric": "rgb", "tile": (_TILE_PX, _TILE_PX), "compression": "zlib"}
    scale = {"resolution": (1e4 / sample.um_per_px,) * 2, "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(tiles(strips), shape=(height, width, 3), dtype=np.uint8, subifds=2, description=NOTICE,
                   **options, **scale)  # fmt: skip
        second = np.concatenate(rows)
        for level in (second, _coarser(second)):
            file.write(_tiles(level), shape=level.shape, dtype=np.uint8, subfiletype=1, **options, metadata=None)
    return second


def _tiles(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Row by row; what lies beyond the border is left out, and filled up by the writer."""
    for top in range(0, pixels.shape[0], _TILE_PX):
        for left in range(0, pixels.shape[1], _TILE_PX):
            yield np.ascontiguousarray(pixels[top : top + _TILE_PX, left : left + _TILE_PX])


def _coarser(pixels: np.ndarray) -> np.ndarray:
    """The mean of every square of pixels; of those at the border, of what is there of it."""
    height, width = pixels.shape[:2]
    padding = ((0, -height % _COARSER), (0, -width % _COARSER), (0, 0))
    square = np.pad(pixels, padding, mode="edge").astype(np.float32)
    square = square.reshape(-(-height // _COARSER), _COARSER, -(-width // _COARSER), _COARSER, 3)
    return np.round(square.mean(axis=(1, 3))).astype(np.uint8)


def _write_bins(folder: Path, sample: Sample) -> None:
    """The matrix, sorted by barcode, and the positions of the bins on tissue and next to it."""
    import pyarrow
    import pyarrow.parquet

    genes = sample.life.genes
    columns = [("barcode", pyarrow.string()), ("in_tissue", pyarrow.int64())]
    columns += [(name, pyarrow.int64() if "array" in name else pyarrow.float64()) for name in _COLUMNS]
    schema = pyarrow.schema(columns, metadata={"notice": NOTICE})
    positions = pyarrow.parquet.ParquetWriter(folder / "spatial/tissue_positions.parquet", schema)
    with positions, h5_file.create(folder / "filtered_feature_bc_matrix.h5") as file:
        file.attrs["notice"] = NOTICE
        group = file.create_group("matrix")
        kinds = {"barcodes": f"S{len('s_002um_00000_00000-1')}", "data": "i4", "indices": "i8", "indptr": "i8"}
        packed = {"chunks": (_CHUNK,), "compression": "gzip", "compression_opts": 1, "shuffle": True}
        parts = {name: group.create_dataset(name, (0,), kind, maxshape=(None,), **packed)
                 for name, kind in kinds.items()}  # fmt: skip
        _append(parts["indptr"], np.zeros(1, np.int64))
        end = 0
        for band in _bands(sample):
            names = band.names
            _append(parts["barcodes"], names[band.inside])
            _append(parts["data"], band.data)
            _append(parts["indices"], band.indices)
            _append(parts["indptr"], end + np.cumsum(band.lengths))
            end += len(band.data)
            pixel = (np.column_stack([band.row, band.column]) + 0.5) * (_BIN_UM / sample.um_per_px)
            values = (names.astype(str), band.inside.astype(np.int64), band.row, band.array_column, *pixel.T)
            positions.write_table(pyarrow.table(list(values), schema=schema))
        of_genes = {
            "id": genes.ensembl_id.astype("S"),
            "name": genes.symbol.astype("S"),
            "feature_type": np.full(len(genes), b"Gene Expression"),
            "genome": np.full(len(genes), b"GRCh38"),
        }
        for name, values in of_genes.items():
            group[f"features/{name}"] = values
        group["shape"] = np.array([len(genes), len(parts["barcodes"])], np.int32)


def _append(data_set: Any, values: np.ndarray) -> None:
    start = len(data_set)
    data_set.resize(start + len(values), axis=0)
    data_set[start:] = values


def _bands(sample: Sample) -> Iterator[_Band]:
    """The bins from top to bottom, in the order of their barcodes: columns of the array run from right to left."""
    on, near = on_tissue(sample.tissue)
    cells = sample.tissue.cells
    rna = demo_tissue.rna(cells, sample.life)
    molecules = sample.molecules * float(on.sum()) * BIN_UM[-1] ** 2
    per_parent = molecules / max(1, len(on))
    parents = max(1, round(_MOLECULES / max(1.0, per_parent) / (_BAND_UM / BIN_UM[-1]))) * round(_BAND_UM / BIN_UM[-1])
    height_um = float(parents * BIN_UM[-1])
    of_cell = np.clip(cells.xy_um[:, 1] // height_um, 0, (len(on) - 1) // parents).astype(int)
    waiting: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    count = -(-len(on) // parents)
    for number in cli.progress(range(count + 1), total=count + 1, description="bins", unit="band"):
        own = np.flatnonzero(of_cell == number)
        if len(own):
            share = molecules * float(rna[own].sum() / rna.sum())
            gene, xy_um = demo_tissue.sample_molecules(sample.rng(1, number), cells[own], sample.life, share)
            band = np.floor(xy_um[:, 1] / height_um).astype(int)
            for each in (number - 1, number, number + 1):
                there = band == each
                waiting.setdefault(each, []).append((gene[there], xy_um[there]))
        if number:  # all that lies in the band before has been drawn
            rows = slice((number - 1) * parents, min(number * parents, len(on)))
            yield _binned(on[rows], near[rows], rows.start, waiting.pop(number - 1, []), len(sample.life.genes))


def _binned(
    on: np.ndarray, near: np.ndarray, first: int, molecules: list[tuple[np.ndarray, np.ndarray]], genes: int
) -> _Band:
    """The bins of rows of parents from `first` on, and the molecules (gene, place in um) that each caught."""
    on, near = (mask.repeat(_PARENT, 0).repeat(_PARENT, 1)[:, ::-1] for mask in (on, near))
    row, array_column = np.nonzero(near)
    inside = on[row, array_column]
    number = np.full(on.shape, -1, np.int64)
    number[row[inside], array_column[inside]] = np.arange(int(inside.sum()))
    keys = [np.zeros(0, np.int64)]
    for gene, xy_um in molecules:
        column, line = np.floor(xy_um / _BIN_UM).astype(np.int64).T
        line, column = line - first * _PARENT, on.shape[1] - 1 - column
        caught = (line >= 0) & (line < on.shape[0]) & (column >= 0) & (column < on.shape[1])
        place = number[line[caught], column[caught]]
        keys.append((place * genes + gene[caught])[place >= 0])
    key = np.sort(np.concatenate(keys))
    start = np.flatnonzero(np.diff(key, prepend=-1))
    bin_, indices = np.divmod(key[start], genes)
    return _Band(
        row=row + first * _PARENT,
        column=on.shape[1] - 1 - array_column,
        array_column=array_column,
        inside=inside,
        data=np.diff(start, append=len(key)).astype(np.int32),
        indices=indices,
        lengths=np.bincount(bin_, minlength=int(inside.sum())),
    )
