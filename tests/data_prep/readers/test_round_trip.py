"""Every layout: demo tissue written in it and read back gives the same counts, coordinates, scale and names."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from data_prep import demo, demo_cells, demo_space_ranger, demo_tissue
from data_prep.demo_layouts import DemoSection
from data_prep.readers import find_layout, layout_names
from data_prep.section import Section
from data_prep.spots import DISC, POLYGON, SQUARE

RECIPE = {"patients": 2, "sections_per_patient": 2, "spots": 6, "um_per_px": 3.0, "seed": 5}
OF_CELLS = ("xenium", "merscope")  # as read by default


@pytest.fixture(scope="module", params=sorted(demo.LAYOUTS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = demo.make_demo(tmp_path_factory.mktemp(request.param) / "source", layout=request.param, **RECIPE)
    return request.param, root


def truths(layout: str) -> list[DemoSection]:
    recipe, life = demo.Recipe(layout, **RECIPE), demo_tissue.biology()
    return [demo.make_section(recipe, life, *numbers) for numbers in np.ndindex(2, 2)]


def test_every_layout_has_a_reader_and_a_demo() -> None:
    assert layout_names() == sorted(demo.LAYOUTS)


def test_layout_reads_back_identically(made: tuple[str, Path]) -> None:
    layout, root = made
    module, reason = find_layout(root)
    assert module.name == layout
    assert reason
    sections = list(module.read_sections(root))
    assert [section.name for section in sections] == module.list_sections(root)
    expected = truths(layout)
    sizes = demo_space_ranger.BIN_UM if layout == "visium_hd" else (0,)
    assert len(sections) == len(expected) * len(sizes)
    for index, section in enumerate(sections):
        truth, size = expected[index // len(sizes)], sizes[index % len(sizes)]
        check_facts(section, layout, size, truth)
        if layout == "visium_hd":
            _, centre_um, inside, counts = demo_space_ranger.bin_counts(truth, size)
            check_spots(section, truth, centre_um[inside] / truth.um_per_px, counts)
        elif layout in OF_CELLS:
            check_spots(section, truth, truth.tissue.cells.xy_um.astype(float) / truth.um_per_px, cell_counts(truth))
        else:
            check_spots(section, truth, truth.spot_xy[truth.in_tissue], scipy.sparse.csr_array(truth.counts))


def check_facts(section: Section, layout: str, size: int, truth: DemoSection) -> None:
    assert section.layout == layout
    assert section.synthetic
    assert section.um_per_px == pytest.approx(truth.um_per_px, rel=1e-9)
    sizes_um = {"her2st": 50.0, "stnet": 50.0, "cscc": 55.0} | dict.fromkeys(OF_CELLS, 0.0)
    np.testing.assert_allclose(
        section.spots.size_px * truth.um_per_px, sizes_um.get(layout, float(size) or 27.5), rtol=1e-6
    )
    assert set(section.spots.kind) == {POLYGON if layout in OF_CELLS else SQUARE if size else DISC}
    assert "patient not stated" not in " ".join(section.notes)
    assert not any("symbol" in note for note in section.notes)


def cell_counts(truth: DemoSection) -> scipy.sparse.csr_array:
    cells = truth.tissue.cells
    owner = demo_cells.owner(cells, truth.molecule_xy_um)
    return demo_cells.counts(owner, truth.molecule_gene, (len(cells.type), len(truth.genes)))


def check_spots(section: Section, truth: DemoSection, spot_xy: np.ndarray, counts: scipy.sparse.csr_array) -> None:
    order = np.lexsort(np.round(section.spots.xy, 3).T)  # files may list spots in any order
    other = np.lexsort(np.round(spot_xy, 3).T)
    np.testing.assert_allclose(section.spots.xy[order], spot_xy[other], rtol=0, atol=1e-9)
    column = {key: index for index, key in enumerate(truth.genes.ensembl_id)}
    columns = [column[key] for key in section.genes.ensembl_id]
    assert section.genes.symbol.tolist() == truth.genes.symbol[columns].tolist()
    assert abs(section.counts[order] - counts[other][:, columns]).sum() == 0
    assert section.counts.sum() == counts.sum()  # legacy tables drop only genes without counts


def test_patients_are_kept_apart(made: tuple[str, Path]) -> None:
    root = made[1]
    patients = [section.patient for section in find_layout(root)[0].read_sections(root)]
    assert len(set(patients)) == 2
    assert patients == sorted(patients)


def test_demo_layout_is_the_same_bytes_again(made: tuple[str, Path], tmp_path: Path) -> None:
    layout, root = made
    again = demo.make_demo(tmp_path / "again", layout=layout, workers=1, **RECIPE)
    for file in sorted(file for file in root.rglob("*") if file.is_file()):
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, again / file.relative_to(root))]
        assert digests[0] == digests[1], file.name


def test_bins_of_all_sizes_hold_the_same_molecules() -> None:
    truth = truths("visium_hd")[0]
    totals = {size: demo_space_ranger.bin_counts(truth, size)[3].sum() for size in demo_space_ranger.BIN_UM}
    assert len(set(totals.values())) == 1
    assert totals[2] > 0.8 * len(truth.molecule_gene)


def test_sections_are_the_same_tissue_in_every_layout() -> None:
    images = [truths(layout)[3].image for layout in ("her2st", "visium", "visium_hd")]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])
