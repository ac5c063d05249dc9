"""Write synthetic sections as Xenium does, with an H&E image that is turned against Xenium's own images."""

import json
from pathlib import Path

import numpy as np
import scipy.sparse

from data_prep import demo_aligned, demo_cells, demo_space_ranger
from data_prep.demo_layouts import NOTICE, DemoSection
from data_prep.section import GeneTable
from data_prep.spots import moved

PIXEL_UM = 0.2125  # of Xenium's own images
_CONTROL, _CONTROLS, _UNSURE = "NegControlProbe_00042", 0.01, 0.05  # shares of transcripts besides the molecules


def write_xenium(root: Path, section: DemoSection) -> str:
    """A run with its H&E image. Transcripts of a low quality and of controls are there besides the molecules."""
    outs = root / section.name / "outs"
    outs.mkdir(parents=True)
    names = _cell_names(section.rng, len(section.tissue.cells.type))
    to_um = demo_aligned.to_um(section, PIXEL_UM)
    owner = demo_cells.owner(section.tissue.cells, section.molecule_xy_um)
    _write_cells(outs, section, names, owner, to_um)
    _write_transcripts(outs / "transcripts.parquet", section, names, owner, to_um)
    facts = {"run_name": f"synthetic {section.name}", "pixel_size": PIXEL_UM, "notice": NOTICE}
    (outs / "experiment.xenium").write_text(json.dumps(facts) + "\n")
    demo_aligned.write_he(root / section.name, section, PIXEL_UM)
    return section.name


def _write_cells(outs: Path, section: DemoSection, names: np.ndarray, owner: np.ndarray, to_um: np.ndarray) -> None:
    """The matrix, with a control probe among its features, sorted by cell; and the boundaries, each closed."""
    counts = demo_cells.counts(owner, section.molecule_gene, (len(names), len(section.genes)))
    noise = scipy.sparse.csr_array(section.rng.poisson(0.02, (len(names), 1)).astype(np.int32))
    features = GeneTable(np.append(section.genes.ensembl_id, _CONTROL), np.append(section.genes.symbol, _CONTROL))
    types = np.array(["Gene Expression"] * len(section.genes) + ["Negative Control Probe"])
    order = np.argsort(names)
    both = scipy.sparse.csr_array(scipy.sparse.hstack([counts, noise]))[order]
    demo_space_ranger.write_h5(outs / "cell_feature_matrix.h5", names[order], features, both, types)
    outlines = demo_cells.outlines_um(section.tissue.cells)
    vertices = moved(np.concatenate([outlines, outlines[:, :1]], axis=1).reshape(-1, 2), to_um)
    columns = {"cell_id": np.repeat(names, demo_cells.CORNERS + 1), "vertex_x": vertices[:, 0]}
    demo_aligned.write_parquet(outs / "cell_boundaries.parquet", columns | {"vertex_y": vertices[:, 1]})


def _write_transcripts(
    path: Path, section: DemoSection, names: np.ndarray, owner: np.ndarray, to_um: np.ndarray
) -> None:
    rng, molecules = section.rng, len(section.molecule_gene)
    unsure, controls = (rng.choice(molecules, int(share * molecules)) for share in (_UNSURE, _CONTROLS))
    row = np.concatenate([np.arange(molecules), unsure, controls])
    feature = section.genes.symbol[section.molecule_gene][row].astype(object)
    feature[len(row) - len(controls) :] = _CONTROL
    quality = rng.uniform(20, 40, len(row))
    quality[molecules : molecules + len(unsure)] -= 20
    order = rng.permutation(len(row))
    row = row[order]
    place = moved(section.molecule_xy_um[row], to_um)
    columns = {
        "transcript_id": np.arange(len(row)),
        "cell_id": np.where(owner < 0, "UNASSIGNED", names[owner])[row],
        "feature_name": feature[order].astype(str),
        "x_location": place[:, 0],
        "y_location": place[:, 1],
        "qv": quality[order].astype(np.float32),
    }
    demo_aligned.write_parquet(path, columns)


def _cell_names(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count] str: distinct names such as aaacfgbp-1."""
    numbers = rng.choice(16**6, count, replace=False)
    digits = numbers[:, None] // 16 ** np.arange(6) % 16
    return np.array(["aa" + "".join(row) + "-1" for row in np.array(list("abcdefghijklmnop"))[digits]])
