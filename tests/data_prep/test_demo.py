"""Demo data: repeatable, plausible, loudly synthetic, and with a truth that explains the counts."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import demo, demo_slide, demo_tissue, readers
from data_prep.errors import InputError
from data_prep.section import Section

her2st = readers.reader("her2st")

SMALL = {"patients": 2, "sections_per_patient": 1, "spots": 24, "um_per_px": 2.0, "seed": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.make_demo(tmp_path_factory.mktemp("demo") / "out", **SMALL)


@pytest.fixture(scope="module")
def sections(root: Path) -> list[Section]:
    return list(her2st.read_sections(root))


def hashes(root: Path) -> dict[str, str]:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_demo_says_it_is_synthetic_everywhere(root: Path, sections: list[Section]) -> None:
    assert "SYNTHETIC" in (root / "SYNTHETIC.txt").read_text()
    assert all(section.synthetic for section in sections)
    with Image.open(sections[0].image_path) as image:
        assert b"SYNTHETIC" in image.info["comment"]


def test_demo_sections_have_plausible_spots_and_depth(sections: list[Section]) -> None:
    assert [section.name for section in sections] == ["A1", "B1"]
    for section in sections:
        depth = section.counts.sum(axis=1)
        assert 12 <= len(section.spots.id) <= 36
        assert 1000 < np.median(depth) < 30_000
        assert section.um_per_px == pytest.approx(2.0, rel=1e-9)
        assert {"ERBB2", "KRT8", "COL1A1", "CD3D", "IGKC", "ADIPOQ"} <= set(section.genes.symbol)
        assert np.all(np.char.startswith(section.genes.ensembl_id, "ENSG"))


def test_demo_truth_explains_the_counts(root: Path, sections: list[Section]) -> None:
    for section in sections:
        cells, life = demo.load_truth(root, section.name)
        discs = demo_tissue.cells_in_discs(cells, section.spots.xy * section.um_per_px, 50)
        column = {name: index for index, name in enumerate(life.genes.ensembl_id)}
        truth = demo_tissue.expected_expression(cells, life, discs)[:, [column[key] for key in section.genes.keys]]
        counts = section.counts.toarray()
        top = np.argsort(-counts.mean(axis=0))[:250]
        logs = [np.log1p(1e4 * table / table.sum(axis=1, keepdims=True))[:, top] for table in (truth, counts)]
        ceiling = [np.corrcoef(a, b)[0, 1] for a, b in zip(logs[0].T, logs[1].T, strict=True)]
        assert np.nanmedian(ceiling) > 0.7


def test_demo_patients_are_stained_differently(sections: list[Section]) -> None:
    means = []
    for section in sections:
        with Image.open(section.image_path) as image:
            pixels = np.asarray(image, dtype=float).reshape(-1, 3)
        means.append(pixels[pixels.mean(axis=1) < 210].mean(axis=0))
        assert means[-1][1] == means[-1].min()  # pink and purple: green is what both stains absorb most
    assert np.abs(means[0] - means[1]).max() > 2


def test_demo_is_the_same_bytes_whatever_the_workers(root: Path, tmp_path: Path) -> None:
    assert hashes(demo.make_demo(tmp_path / "again", **SMALL, workers=1)) == hashes(root)


def test_demo_refuses_a_folder_in_use(root: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        demo.make_demo(root, **SMALL)


@pytest.mark.parametrize(
    ("option", "value"), [("patients", 0), ("um_per_px", -1.0), ("seed", -1), ("layout", "nope"), ("spots", 0)]
)
def test_demo_refuses_impossible_numbers(tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(InputError, match=option.replace("_", "-")):
        demo.make_demo(tmp_path / "out", **{option: value})
    assert not any(tmp_path.iterdir())


def test_command_line_prints_where_the_data_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    demo.main(
        ["--out", str(out), "--patients", "1", "--sections-per-patient", "1", "--spots", "4", "--source-um-per-px", "4"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["Synthetic data, for trying out only: no patient, no biology", str(out)]
    assert her2st.list_sections(out) == ["A1"]


def test_the_rna_of_every_cell_is_shared_out_among_squares_that_partition_the_slide(tmp_path):
    demo.make_demo(tmp_path / "raw", layout="visium_hd", patients=1, sections_per_patient=1, spots=2)
    cells, life = demo.load_truth(tmp_path / "raw", "A1")
    side = 200.0
    low, high = cells.xy_um.min(axis=0) - 100, cells.xy_um.max(axis=0) + 100
    x, y = np.meshgrid(*(np.arange(a + side / 2, b + side, side) for a, b in zip(low, high, strict=True)))
    members = demo_tissue.cells_in_squares(cells, np.column_stack([x.ravel(), y.ravel()]), side)
    np.testing.assert_allclose(members.sum(axis=0), 1, atol=1e-12)
    everything = demo_tissue.expected_expression(cells, life, members).sum(axis=0)
    whole = demo_tissue.cells_in_discs(cells, np.array([[0.0, 0.0]]), 1e6)
    np.testing.assert_allclose(everything, demo_tissue.expected_expression(cells, life, whole)[0], rtol=1e-9)


def test_stains_can_lie_outside_what_laboratories_usually_have() -> None:
    usual = [demo_slide.patient_staining(np.random.default_rng(seed)).stains for seed in range(200)]
    of_usual = np.stack([np.linalg.norm(stains, axis=1) for stains in usual])
    for seed in range(5):
        staining = demo_slide.patient_staining(np.random.default_rng(seed))
        other = demo_slide.shifted(np.random.default_rng([seed, 2]), staining, 1.0).stains
        strength = np.linalg.norm(other, axis=1)
        np.testing.assert_allclose(np.abs(np.log(strength / of_usual[seed])), 0.5)
        turned = (other / strength[:, None] * staining.stains / of_usual[seed][:, None]).sum(axis=1)
        assert np.degrees(np.arccos(turned)).max() > 5
    with pytest.raises(InputError, match="--stain-shift is -1"):
        demo.make_demo("nowhere", stain_shift=-1)
