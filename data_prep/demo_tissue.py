"""Synthetic tissue: regions, cells of four types with a graded state, and what each cell expresses. All of it invented.

Expression of a cell of type t and state u in [-1, 1] in patient p, per gene g:

    size[cell] * exp(log_profile[t, g] + u * state_effect[t, g] + patient_effect[p, g])

The state varies smoothly over the tissue and shows in nuclear size, chromatin and texture rather than in mean colour,
so a model that looks at shape can beat one that looks at colour.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.spatial

from data_prep.gene_reference import shipped_reference
from data_prep.section import GeneTable

TYPES = ("tumour", "stroma", "immune", "fat")
TUMOUR, STROMA, IMMUNE, FAT = range(len(TYPES))
STATE_LEVELS = 17  # states are quantised, so a spot's expectation is one sparse product

_GRID_UM = 10.0  # resolution of the region maps
_LATTICE_UM = 8.5  # closest cell centres
_DENSITY = (0.40, 0.16, 0.85, 0.0)  # share of lattice places filled in each region (fat cells have their own lattice)
_MIX = np.array(  # rows: region; columns: type of the cells in it
    [[0.90, 0.03, 0.07, 0.0], [0.04, 0.84, 0.12, 0.0], [0.05, 0.05, 0.90, 0.0], [0.0, 0.55, 0.45, 0.0]]
)
_ADIPOCYTE_UM = 58.0
_RNA = np.array([1.6, 2.2, 0.8, 7.0])  # mean RNA content by type, relative
_GENE_SEED = 20_230_808  # what a gene does is the same in every demo, whatever --seed


@dataclasses.dataclass(frozen=True)
class Biology:
    """What cells express.

    Attributes:
        genes: [G] real human genes.
        log_profile: [T, G] log of each type's expression shares.
        state_effect: [T, G] log change per unit of state.
    """

    genes: GeneTable
    log_profile: np.ndarray
    state_effect: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cells:
    """The truth about one section.

    Attributes:
        xy_um: [C, 2] float32 centres (x, y), from the slide's top left.
        type: [C] uint8 index into `TYPES`.
        level: [C] uint8, the state as one of `STATE_LEVELS` levels from -1 to 1.
        size: [C] float32 RNA content.
        patient_effect: [G] float32 log change of this patient.
    """

    xy_um: np.ndarray
    type: np.ndarray
    level: np.ndarray
    size: np.ndarray
    patient_effect: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Cells":
        """Some of the cells."""
        return dataclasses.replace(
            self, **{name: getattr(self, name)[rows] for name in ("xy_um", "type", "level", "size")}
        )


@dataclasses.dataclass(frozen=True)
class Tissue:
    """What to paint.

    Attributes:
        width_um, height_um: of the slide.
        region: [4, h, w] float32 region weights on a 10 um grid, summing to 1 inside the tissue and 0 outside.
        state: [h, w] float32 in [-1, 1], on the same grid.
        cells: what lies in it.
    """

    width_um: float
    height_um: float
    region: np.ndarray
    state: np.ndarray
    cells: Cells


def biology() -> Biology:
    """The demo's genes and signatures; no randomness but its own fixed seed."""
    path = Path(__file__).parent / "resources/demo_programs.json"
    programs = {program: symbols.split() for program, symbols in json.loads(path.read_text()).items()}
    symbols = np.array([symbol for program in programs.values() for symbol in program])
    program = np.repeat(list(programs), [len(genes) for genes in programs.values()])
    rng = np.random.default_rng(_GENE_SEED)
    count = len(symbols)
    base = rng.normal(np.select([program == "housekeeping", program == "background"], [2.0, -0.6], 0.6), 0.9)
    log_profile = base + rng.normal(0, 0.45, (len(TYPES), count))
    state_effect = rng.normal(0, 0.40, (len(TYPES), count))
    for index, name in enumerate(TYPES):
        own = program == name
        log_profile[:, own] -= 1.2
        log_profile[index, own] += rng.uniform(2.0, 3.2, own.sum())
        state_effect[index, own] += rng.choice([-0.5, 0.5], own.sum())

    def add(name: str, types: dict[int, float], state: dict[int, float]) -> None:
        own = program == name
        for index, change in types.items():
            log_profile[index, own] += change
        for index, change in state.items():
            state_effect[index, own] += change

    add("proliferation", {TUMOUR: 1.0, FAT: -1.0}, {TUMOUR: 1.0})
    add("plasma", {TUMOUR: -1.5, STROMA: -1.0, IMMUNE: 2.5, FAT: -1.5}, {IMMUNE: 0.9})
    add("hypoxia", {TUMOUR: 0.7}, {TUMOUR: 0.6, STROMA: 0.4})
    add("interferon", {IMMUNE: 0.8}, {IMMUNE: -0.6, TUMOUR: -0.4})
    log_profile -= np.log(np.exp(log_profile).sum(axis=1, keepdims=True))
    order = np.random.default_rng(_GENE_SEED).permutation(count)
    reference = shipped_reference()
    ensembl_id = np.array([reference.ensembl_of[symbol] for symbol in symbols])
    return Biology(GeneTable(ensembl_id[order], symbols[order]), log_profile[:, order], state_effect[:, order])


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """[h, w] float32 Gaussian field of unit variance, smooth over `scale` grid steps."""
    field = scipy.ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), scale, mode="wrap")
    return (field - field.mean()) / field.std()


def grow(
    rng: np.random.Generator, *, width_um: float, height_um: float, tissue_um2: float, patient_effect: np.ndarray,
    favour: np.ndarray,
) -> Tissue:  # fmt: skip
    """One section.

    Args:
        rng: decides everything.
        width_um, height_um: size of the slide.
        tissue_um2: area covered by tissue.
        patient_effect: [G] log change of this patient.
        favour: [4] how much of each region this patient has, in units of the regions' noise.
    """
    shape = (round(height_um / _GRID_UM), round(width_um / _GRID_UM))
    mask = _tissue_mask(rng, shape, tissue_um2 / _GRID_UM**2)
    scales = np.array([130.0, 150.0, 100.0, 170.0]) / _GRID_UM
    fields = np.stack([smooth_noise(rng, shape, scale) for scale in scales])
    level = np.array([0.35, 0.45, -0.25, -0.35]) + favour
    logits = 14.0 * (fields + level[:, None, None])
    weights = np.exp(logits - logits.max(axis=0))
    region = np.where(mask, weights / weights.sum(axis=0), 0).astype(np.float32)
    state = np.tanh(1.1 * smooth_noise(rng, shape, 210.0 / _GRID_UM)).astype(np.float32)
    cell_xy_um, cell_type = _place_cells(rng, region, width_um, height_um)
    row, column = grid_index(cell_xy_um, shape)
    own = np.clip(state[row, column] + rng.normal(0, 0.25, len(cell_xy_um)), -1, 1)
    cells = Cells(
        xy_um=cell_xy_um.astype(np.float32),
        type=cell_type,
        level=np.round((own + 1) / 2 * (STATE_LEVELS - 1)).astype(np.uint8),
        size=(_RNA[cell_type] * rng.lognormal(0, 0.3, len(cell_type))).astype(np.float32),
        patient_effect=patient_effect.astype(np.float32),
    )
    return Tissue(width_um, height_um, region, state, cells)


def grid_index(xy_um: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of points (x, y) in um on the region maps."""
    index = (xy_um / _GRID_UM).astype(int)
    return np.clip(index[:, 1], 0, shape[0] - 1), np.clip(index[:, 0], 0, shape[1] - 1)


def states() -> np.ndarray:
    """[STATE_LEVELS] the state of each level."""
    return np.linspace(-1, 1, STATE_LEVELS)


def expression_table(cells: Cells, life: Biology) -> np.ndarray:
    """[T * STATE_LEVELS, G] float64: expected expression of a cell of size 1, by type and state level."""
    levels = states()[:, None] * life.state_effect[:, None]  # [T, STATE_LEVELS, G]
    return np.exp(life.log_profile[:, None] + levels + cells.patient_effect).reshape(-1, len(life.genes))


def rna(cells: Cells, life: Biology) -> np.ndarray:
    """[C] float64: expected expression of each cell, all genes together."""
    kind = cells.type.astype(int) * STATE_LEVELS + cells.level
    return cells.size * expression_table(cells, life).sum(axis=1)[kind]


def expected_expression(cells: Cells, life: Biology, members: scipy.sparse.csr_array) -> np.ndarray:
    """[S, G] float64: expected expression of areas, in RNA units.

    Args:
        members: [S, C] how much of each cell lies in each area.
    """
    kind = cells.type.astype(int) * STATE_LEVELS + cells.level
    one_hot = scipy.sparse.csr_array(
        (cells.size.astype(np.float64), (np.arange(len(kind)), kind)), shape=(len(kind), len(TYPES) * STATE_LEVELS)
    )
    makeup = scipy.sparse.csr_array(members @ one_hot)  # [S, T * STATE_LEVELS]
    return makeup.toarray() @ expression_table(cells, life)


def cells_in_discs(cells: Cells, xy_um: np.ndarray, radius_um: float) -> scipy.sparse.csr_array:
    """[S, C] float64, 1 where a cell's centre lies in a disc around (x, y)."""
    inside = scipy.spatial.KDTree(cells.xy_um).query_ball_point(xy_um, radius_um, return_sorted=True)
    indptr = np.cumsum([0, *map(len, inside)])
    indices = np.concatenate([np.asarray(cell, dtype=int) for cell in inside]) if len(inside) else np.empty(0, int)
    return scipy.sparse.csr_array((np.ones(len(indices)), indices, indptr), shape=(len(xy_um), len(cells.type)))


def sample_counts(rng: np.random.Generator, mean: np.ndarray, dispersion: float = 0.025) -> np.ndarray:
    """Negative binomial counts, int32: variance = mean + dispersion * mean^2."""
    return rng.poisson(rng.gamma(1 / dispersion, dispersion * mean)).astype(np.int32)


def sample_molecules(
    rng: np.random.Generator, cells: Cells, life: Biology, total: float
) -> tuple[np.ndarray, np.ndarray]:
    """About `total` molecules: the gene of each, [N] int16, and where it was caught, [N, 2] float32 (x, y) in um.

    They lie in and just around their cell; those of an adipocyte along its rim.
    """
    kind = cells.type.astype(int) * STATE_LEVELS + cells.level
    table, mean = expression_table(cells, life), rna(cells, life)
    number = rng.poisson(mean * (total / mean.sum()))
    owner = np.repeat(np.argsort(kind, kind="stable"), number[np.argsort(kind, kind="stable")])
    gene = np.concatenate([
        rng.choice(len(life.genes), count, p=table[index] / table[index].sum()).astype(np.int16)
        for index, count in zip(*np.unique(kind[owner], return_counts=True), strict=True)
    ])  # fmt: skip
    return gene, (cells.xy_um[owner] + _spread(rng, cells.type[owner])).astype(np.float32)


def covered(tissue: Tissue, xy_um: np.ndarray) -> np.ndarray:
    """[N] float: how much of the neighbourhood of each point (x, y), about a legacy spot wide, is tissue."""
    height, width = tissue.region.shape[1:]
    share = scipy.ndimage.uniform_filter(tissue.region.sum(axis=0), 9)
    return np.asarray(share)[grid_index(xy_um, (height, width))]


def _tissue_mask(rng: np.random.Generator, shape: tuple[int, int], area: float) -> np.ndarray:
    """[h, w] bool: one rounded, uneven blob of about `area` grid cells, clear of the border."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.25)
    u, v = (x - shape[1] / 2) / shape[1], (y - shape[0] / 2) / shape[0]
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    height = -np.hypot(along / stretch, across * stretch) + 0.035 * smooth_noise(rng, shape, 30)
    height += 0.008 * smooth_noise(rng, shape, 5)
    border = np.minimum(0.5 - abs(u), 0.5 - abs(v))
    height[border < 0.03] = -np.inf
    return height >= np.partition(height.ravel(), -round(area))[-round(area)]


def _place_cells(
    rng: np.random.Generator, region: np.ndarray, width_um: float, height_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """[C, 2] centres in um and [C] uint8 types."""
    shape = region.shape[1:]
    xy = _lattice(rng, width_um, height_um, _LATTICE_UM)
    weights = region[:, *grid_index(xy, shape)]  # [4, N]
    kept = rng.random(len(xy)) < np.asarray(_DENSITY) @ weights + 0.2 * weights[FAT]
    xy, weights = xy[kept], weights[:, kept]
    cumulative = np.cumsum(_MIX.T @ weights, axis=0)  # [4, N]
    kind = (rng.random(len(xy)) * cumulative[-1] > cumulative).sum(axis=0)
    fat = _lattice(rng, width_um, height_um, _ADIPOCYTE_UM)
    fat = fat[region[FAT, *grid_index(fat, shape)] > 0.5]
    between = (weights[FAT] < 0.5) | (rim_distance(fat, xy) < 8)  # vacuoles hold no other cells
    kinds = np.concatenate([kind[between], np.full(len(fat), FAT)]).astype(np.uint8)
    return np.concatenate([xy[between], fat]), kinds


def rim_distance(adipocytes: np.ndarray, xy_um: np.ndarray) -> np.ndarray:
    """[N] um: how much nearer the nearest adipocyte is than the next one; 0 on the membrane between them."""
    if len(adipocytes) < 2:
        return np.zeros(len(xy_um))
    distance = scipy.spatial.KDTree(adipocytes).query(xy_um, k=2)[0]
    return distance[:, 1] - distance[:, 0]


def _lattice(rng: np.random.Generator, width_um: float, height_um: float, pitch_um: float) -> np.ndarray:
    """[N, 2] a jittered hexagonal lattice over the slide, in um."""
    y, x = np.mgrid[0 : height_um : pitch_um * np.sqrt(3) / 2, 0:width_um:pitch_um]
    x = x + pitch_um / 2 * (np.arange(x.shape[0]) % 2)[:, None]
    xy = np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-0.28, 0.28, (x.size, 2)) * pitch_um
    return np.clip(xy, 0, [width_um, height_um])


def cells_in_squares(cells: Cells, xy_um: np.ndarray, side_um: float, *, points: int = 256) -> scipy.sparse.csr_array:
    """[S, C] float64, the share of each cell's RNA that is caught in a square around (x, y).

    As `sample_molecules` spreads it: `points` places a cell, drawn with a fixed seed.
    """
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(len(cells.type)), points)
    place = cells.xy_um[owner] + _spread(rng, cells.type[owner])
    inside = scipy.spatial.KDTree(place).query_ball_point(xy_um, side_um / 2, p=np.inf, return_sorted=True)
    spot = np.repeat(np.arange(len(xy_um)), [len(found) for found in inside])
    caught = owner[np.concatenate([np.asarray(found, dtype=int) for found in inside])]
    shares = (np.full(len(caught), 1 / points), (spot, caught))
    return scipy.sparse.csr_array(shares, shape=(len(xy_um), len(cells.type)))


def _spread(rng: np.random.Generator, kind: np.ndarray) -> np.ndarray:
    """[N, 2] um from the centre of a cell of each type to where a molecule of it is caught."""
    angle = rng.uniform(0, 2 * np.pi, len(kind))
    radius = np.where(kind == FAT, rng.normal(26, 3, len(kind)), 5 * np.sqrt(rng.random(len(kind))))
    radius += rng.exponential(1.5, len(kind))  # diffusion before capture
    return radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
