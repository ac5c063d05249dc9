"""Write synthetic sections as Space Ranger does: Visium, and Visium HD at 2, 8 and 16 um from the same molecules."""

import gzip
import json
from pathlib import Path

import numpy as np
import scipy.sparse
from PIL import Image

from data_prep import demo_cells, demo_tissue, h5_file
from data_prep.demo_layouts import NOTICE, DemoSection, barcodes, reduced, save_jpeg, write_gzip
from data_prep.demo_tissue import Tissue
from data_prep.section import GeneTable

BIN_UM = (2, 8, 16)
_HEADER = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"


def write_visium(root: Path, section: DemoSection) -> str:
    """HDF5 and Matrix Market both, as Space Ranger does; the positions with a header for every other section."""
    name = section.name
    outs = root / name / "outs"
    save_jpeg(section.image, outs / f"{name}_image.jpg")
    names = barcodes(section.rng, len(section.in_tissue))
    inside = names[section.in_tissue]
    order = np.argsort(inside)  # matrices are sorted by barcode, positions by place
    counts = scipy.sparse.csr_array(section.counts[order])
    write_h5(outs / "filtered_feature_bc_matrix.h5", inside[order], section.genes, counts)
    _write_mtx(outs / "filtered_feature_bc_matrix", inside[order], section.genes, counts)
    rows = [
        f"{barcode},{int(on)},{row},{column},{float(y)!r},{float(x)!r}"
        for barcode, on, (column, row), (x, y) in zip(
            names, section.in_tissue, section.array_xy, section.spot_xy, strict=True
        )
    ]
    spatial = outs / "spatial"
    scale = _write_small_images(spatial, section)
    if section.section % 2 == 0:
        (spatial / "tissue_positions.csv").write_text("\n".join([_HEADER, *rows]) + "\n")
    else:
        (spatial / "tissue_positions_list.csv").write_text("\n".join(rows) + "\n")
    factors = {
        "spot_diameter_fullres": 65.0 / section.um_per_px,
        "fiducial_diameter_fullres": 105.0 / section.um_per_px,
    }
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors | scale))
    return name


def write_visium_hd(root: Path, section: DemoSection) -> str:
    """Square bins nested in one another, whose array columns run from right to left, as on real slides; the cells, as
    Space Ranger 4 writes them; and nuclei, as outlines or, of every other patient, as a label image."""
    save_jpeg(section.image, root / section.name / f"{section.name}_tissue_image.jpg")
    for size in BIN_UM:
        _write_bins(root / section.name / "binned_outputs" / f"square_{size:03d}um", section, size)
    _write_cells(root / section.name / "segmented_outputs", section)
    _write_nuclei(root / section.name / f"{section.name}_nuclei", section)
    return section.name


def area_counts(section: DemoSection, *, share: float = 1.0) -> scipy.sparse.csr_array:
    """[C, G] int32: counts of the 2 um bins whose centre is in each cell, or in its nucleus at `share`."""
    _, centre_um, inside, counts = bin_counts(section, BIN_UM[0])
    owner = demo_cells.owner(section.tissue.cells, centre_um[inside], share=share)
    held = np.flatnonzero(owner >= 0)
    entries = (np.ones(len(held), np.int32), (owner[held], held))
    member = scipy.sparse.csr_array(entries, shape=(len(section.tissue.cells.type), len(owner)))
    return scipy.sparse.csr_array(member @ counts)


def _write_cells(folder: Path, section: DemoSection) -> None:
    """Cells without counts have an outline and no row in the matrix."""
    folder.mkdir()
    counts = area_counts(section)
    filled = np.flatnonzero(counts.sum(axis=1))
    names = np.array([f"cellid_{cell + 1:09d}-1" for cell in filled])
    write_h5(folder / "filtered_feature_cell_matrix.h5", names, section.genes, counts[filled])
    _write_outlines(folder / "cell_segmentations.geojson", demo_cells.outlines_um(section.tissue.cells), section)
    factors = {"microns_per_pixel": section.um_per_px, **_write_small_images(folder / "spatial", section)}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors, indent=4))


def _write_nuclei(stem: Path, section: DemoSection) -> None:
    share = demo_cells.NUCLEUS
    if section.patient % 2 == 0:
        outlines = demo_cells.outlines_um(section.tissue.cells, share=share)
        _write_outlines(stem.with_suffix(".geojson"), outlines, section)
        return
    row, column = np.indices(section.image.shape[:2])
    centre_um = (np.column_stack([column.ravel(), row.ravel()]) + 0.5) * section.um_per_px
    labels = 1 + demo_cells.owner(section.tissue.cells, centre_um, share=share).reshape(row.shape)
    image = Image.fromarray(labels.astype(np.int32))
    image.save(stem.with_suffix(".tif"), compression="tiff_deflate", description=NOTICE)


def _write_outlines(path: Path, outlines_um: np.ndarray, section: DemoSection) -> None:
    """Closed polygons in pixels of the slide, numbered from 1."""
    corners = np.concatenate([outlines_um, outlines_um[:, :1]], axis=1) / section.um_per_px
    features = [
        {
            "type": "Feature",
            "properties": {"cell_id": number},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for number, ring in enumerate(corners.tolist(), 1)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "notice": NOTICE, "features": features}))


def on_tissue(tissue: Tissue) -> tuple[np.ndarray, np.ndarray]:
    """[h, w] bool: which squares of the largest bins' size are on tissue, and which on it or next to it."""
    parent = BIN_UM[-1]
    shape = (int(tissue.height_um // parent), int(tissue.width_um // parent))
    row, column = np.mgrid[: shape[0], : shape[1]]
    centre = np.stack([column, row], axis=-1).reshape(-1, 2) * parent + parent / 2
    on = (demo_tissue.covered(tissue, centre) > 0.5).reshape(shape)
    return on, on | np.roll(on, 1, 0) | np.roll(on, -1, 0) | np.roll(on, 1, 1) | np.roll(on, -1, 1)


def bin_counts(section: DemoSection, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, scipy.sparse.csr_array]:
    """Bins of `size` um on tissue or next to it.

    Returns:
        Columns (from the left) and rows [S, 2], centres (x, y) in um [S, 2], on tissue [S] bool, and int32 counts
        [on tissue, G].
    """
    times = BIN_UM[-1] // size
    on, near = (mask.repeat(times, 0).repeat(times, 1) for mask in on_tissue(section.tissue))
    row, column = np.nonzero(near)
    xy = np.column_stack([column, row])
    inside = on[row, column]
    number = np.full(on.shape, -1)
    number[row[inside], column[inside]] = np.arange(inside.sum())
    place = (section.molecule_xy_um // size).astype(int)
    caught = np.all((place >= 0) & (place < on.shape[::-1]), axis=1)
    index = np.full(len(place), -1)
    index[caught] = number[place[caught, 1], place[caught, 0]]
    caught = index >= 0
    entries = (np.ones(caught.sum(), np.int32), (index[caught], section.molecule_gene[caught].astype(np.int64)))
    counts = scipy.sparse.csr_array(entries, shape=(int(inside.sum()), len(section.genes)))
    counts.sum_duplicates()
    return xy, (xy + 0.5) * size, inside, counts


def _write_bins(folder: Path, section: DemoSection, size: int) -> None:
    import pyarrow
    import pyarrow.parquet

    xy, centre_um, inside, counts = bin_counts(section, size)
    columns = int(section.tissue.width_um // BIN_UM[-1]) * (BIN_UM[-1] // size)
    column = columns - 1 - xy[:, 0]
    names = np.array([f"s_{size:03d}um_{row:05d}_{col:05d}-1" for row, col in zip(xy[:, 1], column, strict=True)])
    folder.mkdir(parents=True)
    write_h5(folder / "filtered_feature_bc_matrix.h5", names[inside], section.genes, counts)
    scale = _write_small_images(folder / "spatial", section)
    pixel = centre_um / section.um_per_px
    order = section.rng.permutation(len(names))
    table = pyarrow.table({
        "barcode": names[order],
        "in_tissue": inside[order].astype(np.int64),
        "array_row": xy[order, 1],
        "array_col": column[order],
        "pxl_row_in_fullres": pixel[order, 1],
        "pxl_col_in_fullres": pixel[order, 0],
    })  # fmt: skip
    pyarrow.parquet.write_table(table.replace_schema_metadata({"notice": NOTICE}),
                                folder / "spatial/tissue_positions.parquet")  # fmt: skip
    factors = bin_factors(size, section.um_per_px, scale)
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors, indent=4))


def bin_factors(size: int, um_per_px: float, scale: dict[str, float]) -> dict[str, float]:
    """The scale factors of bins of `size` um; `scale` has those of the reduced images."""
    return {
        "spot_diameter_fullres": size / um_per_px,
        "bin_size_um": float(size),
        "microns_per_pixel": um_per_px,
        "regist_target_img_scalef": scale["tissue_hires_scalef"],
        "fiducial_diameter_fullres": 330.0 / um_per_px,
        **scale,
    }


def _write_small_images(spatial: Path, section: DemoSection) -> dict[str, float]:
    """Space Ranger's two reduced images, and their scale factors."""
    spatial.mkdir(parents=True)
    factors = {}
    for which, side in (("hires", 2000), ("lowres", 600)):
        small, factors[f"tissue_{which}_scalef"] = reduced(section.image, side)
        Image.fromarray(small).save(spatial / f"tissue_{which}_image.png", compress_level=1)
    return factors


def write_h5(
    path: Path,
    names: np.ndarray,
    genes: GeneTable,
    counts: scipy.sparse.csr_array,
    types: np.ndarray | None = None,
) -> None:
    """A matrix as 10x's programs write it.

    Args:
        names: [S] barcodes.
        genes: [G] its features.
        counts: [S, G].
        types: [G] what kind of feature each is; genes by default.
    """
    types = np.full(len(genes), "Gene Expression") if types is None else types
    with h5_file.create(path) as file:
        file.attrs["notice"] = NOTICE
        group = file.create_group("matrix")
        values = {
            "barcodes": names.astype("S"),
            "data": counts.data,
            "indices": counts.indices,
            "indptr": counts.indptr,
        }
        values["shape"] = np.array([len(genes), len(names)], np.int32)
        values["features/id"] = genes.ensembl_id.astype("S")
        values["features/name"] = genes.symbol.astype("S")
        values["features/feature_type"] = types.astype("S")
        values["features/genome"] = np.full(len(genes), b"GRCh38")
        for key, value in values.items():
            group.create_dataset(key, data=value, compression="gzip", compression_opts=1)


def _write_mtx(folder: Path, names: np.ndarray, genes: GeneTable, counts: scipy.sparse.csr_array) -> None:
    write_gzip(folder / "barcodes.tsv.gz", "\n".join(names) + "\n")
    rows = [f"{key}\t{symbol}\tGene Expression" for key, symbol in zip(genes.ensembl_id, genes.symbol, strict=True)]
    write_gzip(folder / "features.tsv.gz", "\n".join(rows) + "\n")
    spot = np.repeat(np.arange(len(names)), np.diff(counts.indptr))
    head = f"%%MatrixMarket matrix coordinate integer general\n%{NOTICE}\n{len(genes)} {len(names)} {counts.nnz}\n"
    lines = [
        f"{gene + 1} {row + 1} {value}" for gene, row, value in zip(counts.indices, spot, counts.data, strict=True)
    ]
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress((head + "\n".join(lines) + "\n").encode(), 6, mtime=0))
