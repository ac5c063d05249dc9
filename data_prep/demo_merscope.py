"""Write synthetic sections as MERSCOPE does, with an H&E image that is turned against MERSCOPE's own images."""

import struct
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import demo_aligned, demo_cells
from data_prep.demo_layouts import DemoSection
from data_prep.spots import moved

PIXEL_UM = 0.108  # of MERSCOPE's own images
ORIGIN_UM = (2400.0, -95.0)  # where these begin
PLANES_UM = (1.5, 3.0, 4.5)  # heights at which cells are outlined; in the middle as they are, less above and below
_LESS = (0.8, 1.0, 0.7)
_BLANKS, _BLANK_SHARE = 6, 0.01  # controls, and their share of transcripts besides the molecules
_FIRST_ID = 1997283000000100001  # more than a float can hold
_FOV_UM = 200.0


def mosaic() -> np.ndarray:
    """[3, 3]: from um to pixels of MERSCOPE's images, as `micron_to_mosaic_pixel_transform.csv` has it."""
    x, y = ORIGIN_UM
    return np.array([[1.0, 0.0, -x], [0.0, 1.0, -y], [0.0, 0.0, PIXEL_UM]]) / PIXEL_UM


def write_merscope(root: Path, section: DemoSection) -> str:
    """A region with its H&E image. Blank controls are there besides the molecules; cells in orders of their own."""
    region = root / section.name
    (region / "images").mkdir(parents=True)
    cells, to_um = section.tissue.cells, demo_aligned.to_um(section, PIXEL_UM)
    to_um[:, 2] += ORIGIN_UM
    ids = _FIRST_ID + np.sort(section.rng.choice(10 * len(cells.type), len(cells.type), replace=False))
    owner = demo_cells.owner(cells, section.molecule_xy_um)
    _write_counts(region, section, ids, owner, to_um)
    _write_boundaries(region / "cell_boundaries.parquet", section, ids, to_um)
    _write_transcripts(region / "detected_transcripts.csv", section, ids, owner, to_um)
    demo_aligned.write_matrix(region / "images/micron_to_mosaic_pixel_transform.csv", mosaic(), " ")
    demo_aligned.write_he(region, section, PIXEL_UM)
    return section.name


def _blank_names() -> np.ndarray:
    return np.array([f"Blank-{number}" for number in range(1, _BLANKS + 1)])


def _write_counts(region: Path, section: DemoSection, ids: np.ndarray, owner: np.ndarray, to_um: np.ndarray) -> None:
    """The counts of cells and where their centres are, each in an order of its own."""
    counts = demo_cells.counts(owner, section.molecule_gene, (len(ids), len(section.genes)))
    blanks = scipy.sparse.csr_array(section.rng.poisson(0.02, (len(ids), _BLANKS)).astype(np.int32))
    both = scipy.sparse.hstack([counts, blanks]).toarray()
    order = section.rng.permutation(len(ids))
    rows = [",".join(map(str, [ids[row], *both[row].tolist()])) for row in order.tolist()]
    names = ["cell", *section.genes.symbol.tolist(), *_blank_names().tolist()]
    (region / "cell_by_gene.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    centres = moved(section.tissue.cells.xy_um, to_um)
    lines = [f"{ids[row]},{_fov(centres[row])},{x!r},{y!r}" for row, (x, y) in enumerate(centres.tolist())]
    (region / "cell_metadata.csv").write_text("\n".join(["EntityID,fov,center_x,center_y", *lines]) + "\n")


def _write_boundaries(path: Path, section: DemoSection, ids: np.ndarray, to_um: np.ndarray) -> None:
    """A row for each cell and plane, plane by plane, cells in an order of their own."""
    cells, order = section.tissue.cells, section.rng.permutation(len(ids))
    outlines = [demo_cells.outlines_um(cells, share=share)[order] for share in _LESS]
    rings = np.concatenate([np.concatenate([each, each[:, :1]], axis=1) for each in outlines])  # closed
    plane = np.repeat(np.arange(len(_LESS)), len(ids))
    columns = {
        "ID": np.arange(len(plane)),
        "EntityID": np.tile(ids[order], len(_LESS)),
        "ZIndex": plane,
        "Type": np.full(len(plane), "cell"),
        "ZLevel": np.array(PLANES_UM)[plane],
        "Geometry": [_polygon(moved(ring, to_um)) for ring in rings],
    }
    demo_aligned.write_parquet(path, columns)


def _polygon(ring: np.ndarray) -> bytes:
    """A multipolygon of one ring [V, 2], in Well-Known Binary."""
    return struct.pack("<BIIBIII", 1, 6, 1, 1, 3, 1, len(ring)) + ring.astype("<f8").tobytes()


def _write_transcripts(path: Path, section: DemoSection, ids: np.ndarray, owner: np.ndarray, to_um: np.ndarray) -> None:
    import pyarrow  # which an extra brings, as wherever it is imported late
    import pyarrow.csv

    rng, molecules = section.rng, len(section.molecule_gene)
    controls = rng.choice(molecules, int(_BLANK_SHARE * molecules))
    row = rng.permutation(np.append(np.arange(molecules), controls))  # controls lie where molecules do
    names = np.append(section.genes.symbol, _blank_names())
    barcode = section.molecule_gene[row].astype(np.int64)
    again = np.ones(len(row), bool)
    again[np.unique(row, return_index=True)[1]] = False
    barcode[again] = rng.integers(len(section.genes), len(names), int(again.sum()))
    place = moved(section.molecule_xy_um[row], to_um)
    columns = {
        "": np.arange(len(row)),
        "barcode_id": barcode,
        "global_x": place[:, 0],
        "global_y": place[:, 1],
        "global_z": rng.integers(0, len(PLANES_UM), len(row)),
        "fov": _fov(place),
        "gene": names[barcode],
        "cell_id": np.where(owner < 0, -1, ids[owner])[row],
    }
    pyarrow.csv.write_csv(pyarrow.table(columns), path)


def _fov(xy_um: np.ndarray) -> np.ndarray:
    """The field of view in which points (x, y) [..., 2] lie."""
    column, row = np.moveaxis(((xy_um - ORIGIN_UM) // _FOV_UM).astype(int), -1, 0)
    return 100 * row + column
