"""What shifts cost a model: the unshifted figures are evaluation's, a shift that changes nothing costs nothing."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data_prep import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import bench, shifts
from stjax.benchmarks.shift_images import FromSlides, Stored
from stjax.benchmarks.shift_results import Outcome, summary
from stjax.data.images import Images
from stjax.shifts import NONE, Shift

STAIN = Shift("stain", "ImageJ H&E 2", np.array(shifts.STAINS["ImageJ H&E 2"]))
DARKER = Shift("intensity", "x 2", 2)


def test_a_run_is_tried_on_shifted_images_of_its_held_out_sections(trained, dataset, tmp_path, monkeypatch, capsys):
    chosen = [Shift("scale", "none", 1), Shift("blur", "none", 0), STAIN, DARKER]
    asked = []
    monkeypatch.setattr(shifts, "every", lambda own: asked.append(own) or chosen)
    bench.main(["--what=shift", f"--workdir={trained[0]}", f"--out={tmp_path / 'out'}", f"--json={tmp_path / 'rows'}"])
    of_genes = pd.read_csv(tmp_path / "out/shift_genes.csv")
    of_shifts = pd.read_csv(tmp_path / "out/shift.csv")

    evaluated = pd.read_csv(next(trained[0].glob("evaluation/*/per_gene.csv")))
    assert of_genes["gene"].tolist() == evaluated["gene"].tolist()
    apart = (of_genes["pcc"] - evaluated["pcc"]).abs()  # on other devices: genes that hardly vary are rounded otherwise
    assert apart.notna().sum() >= 0.9 * evaluated["pcc"].notna().sum() > 0
    assert apart.median() < 1e-3
    for nothing in ("lost, scale none", "lost, blur none"):
        assert np.array_equal(of_genes[nothing].dropna(), np.zeros(of_genes["pcc"].notna().sum()))
    assert of_genes["lost, intensity x 2"].abs().max() > 0.001
    np.testing.assert_array_equal(of_genes["lost, worst of stains"], of_genes[f"lost, {STAIN.title}"])

    assert of_shifts["shift"].tolist() == ["unshifted", *(shift.name for shift in chosen)]
    assert of_shifts["pcc_mean"][0] == of_shifts["pcc_mean"][1] == of_shifts["pcc_mean"][2]
    assert of_shifts["pcc_mean"][0] == pytest.approx(of_genes["pcc"].mean())
    darker = of_shifts[["red_distance", "green_distance", "blue_distance"]].iloc[-1]
    assert (darker < of_shifts[darker.index].iloc[0] - 0.3).all()

    rows, printed = json.loads((tmp_path / "rows").read_text()), capsys.readouterr().out
    assert [row["case"] for row in rows] == ["unshifted", *(shift.title for shift in chosen)]
    tried = json.loads((trained[0] / "data.json").read_text())["split"]["test"]
    others = {section["name"] for section in PatchDataset.open(dataset).sections} - set(tried)
    assert asked[0].keys() == {f"of section {name}" for name in others}
    assert "images as the data set stores them\n" in printed
    assert printed.splitlines()[-2].endswith("shift.svg")
    assert all((tmp_path / "out" / name).stat().st_size > 1000 for name in ("shift.png", "shift.svg"))


def test_what_cannot_be_tried_is_said_in_one_line(tmp_path, trained):
    with pytest.raises(InputError, match="--what=shift needs --workdir"):
        bench.parse(["--what=shift"])
    with pytest.raises(InputError, match="is no work directory; name a folder for the results with --out"):
        bench.main(["--what=shift", f"--workdir={tmp_path}"])
    with pytest.raises(InputError, match="--sections names Z9; "):
        bench.main(["--what=shift", f"--workdir={trained[0]}", "--sections=Z9", f"--out={tmp_path}"])


# ------------------------------------------------------------------------------------------------ images of a section


@pytest.fixture(scope="module")
def normalised(source, tmp_path_factory):
    """A data set whose one section is normalised to itself, of windows of 1.5 px of the slide a pixel."""
    folder = tmp_path_factory.mktemp("normalised") / "data"
    how = {"stain": "macenko", "stain_target": "A1", "image_format": "raw", "patch_size_px": 32, "min_counts": 0}
    build.build(source, folder, um_per_px=1.5 * 1.4, **how)
    return PatchDataset.open(folder)


def images_of(dataset):
    (section,) = dataset.sections
    return Images(dataset.source((section["name"],)), np.arange(section["records"]))


def test_slides_are_shifted_before_they_are_normalised(normalised, source):
    images, manifest = images_of(normalised), normalised.manifest
    model = SimpleNamespace(
        fold=SimpleNamespace(stain_target=manifest["stain_target"], parameters=manifest["parameters"])
    )
    stored = Stored(normalised)
    assert "macenko normalised BEFORE the shift" in stored.origin
    with FromSlides.found(normalised, source, model) as slides:
        assert slides.origin == "slides, shifted, then normalised by macenko"
        for index in (0, len(images) - 1):
            cut = slides.image(NONE, images, index).astype(int)  # from where the record says, in float32
            assert np.abs(cut - images[index]).max() <= 1
            assert np.mean(cut != images[index]) < 0.01
            np.testing.assert_array_equal(stored.image(NONE, images, index), images[index])
            after = np.abs(slides.image(DARKER, images, index).astype(int) - images[index]).mean()
            before = np.abs(stored.image(DARKER, images, index).astype(int) - images[index]).mean()
            assert after < before / 2  # the fit of the darker slide undoes most of it


def test_a_slide_that_is_enlarged_shows_what_lies_around_a_patch(normalised, source):
    images = images_of(normalised)
    model = SimpleNamespace(fold=SimpleNamespace(stain_target=None, parameters={"stain": "none"}))
    with FromSlides.found(normalised, source, model) as slides:
        whole, smaller = (slides.image(shift, images, 0) for shift in (NONE, Shift("scale", "-50 %", 0.5)))
    assert smaller.shape == whole.shape
    halved = whole.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.corrcoef(smaller[8:24, 8:24].ravel(), halved.ravel())[0, 1] > 0.95


# --------------------------------------------------------------------------------------------------------- figures


def outcome(kind, name, pcc, before):
    return Outcome(Shift(kind, name, 1), np.array(pcc), np.array(before), spots=9, distance=np.zeros(3), seconds=0.0)


def test_the_share_kept_is_of_the_genes_that_have_a_pcc_before_and_after():
    before = [0.4, 0.2, 0.6, np.nan]
    known = outcome("stain", "a", [0.2, 0.1, np.nan, np.nan], before)
    assert known.share_kept == pytest.approx(0.5)
    assert known.genes_lost == 1
    assert "1 of 4 genes predicted the same everywhere" in known.note
    lines = summary(
        [outcome("", "unshifted", before, before), known, outcome("stain", "b", before, before),
         outcome("stain", "c", [0.36, 0.18, 0.54, np.nan], before), outcome("jpeg", "d", before, [-0.1, 0.0, 0.0, 0.0])]
    )  # fmt: skip
    assert lines[0] == "unshifted: PCC mean 0.400, median 0.400"
    assert lines[1] == "stain: 90% of the mean PCC kept at the median of 3, 50% at the worst (a)"
    assert lines[2].startswith("jpeg: no share kept to speak of")
