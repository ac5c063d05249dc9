"""What a prediction says of genes and gene sets: marks, scores, wider intervals, and that nothing is dropped."""

import dataclasses

import anndata
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.errors import InputError
from stjax import gene_sets, predict, trained
from stjax.intervals import Intervals, Widening
from stjax.tables import write_csv
from stjax.trust import FIGURES, MARK, RESTS_ON, Trust
from tests.inference.fake_predictor import GENES, MeanColour
from tests.inference.test_slide_prediction import picture

LOW = (0.3, 0.1, np.nan)
WIDENING = Widening(usual=0.05, per_distance=2.0, depth=5000.0, depth_power=0.5)


def known():
    table = {"gene": GENES, "ensembl_id": ["ENSG1", "ENSG2", "ENSG3"], **{name: [0.5] * 3 for name in FIGURES}}
    table |= {"pcc_normalised_low": LOW, **{name: [4] * 3 for name in RESTS_ON}}
    about = {"resampled": "patients", "units": "stjax: log1p_library", "symmetries": 0, "model_sha256": "m" * 64}
    return Trust(pd.DataFrame(table | about))


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Predicts a slide with a model of which all is known, and returns the folder of the results."""
    Image.fromarray(picture()).save(tmp_path / "S1.png")
    (tmp_path / "sets.gmt").write_text("LIGHT\t-\tRED\tGREEN\tBLUE\tERBB2\n")
    intervals = Intervals(np.array([1.0, 2.0, np.nan]), 0.9, 3, False, 20.0, False, "m" * 64, WIDENING)
    model = MeanColour(trust=known(), intervals=intervals, folder=tmp_path)

    def call(*arguments, **changed):
        monkeypatch.setattr(trained, "load", lambda *_, **__: dataclasses.replace(model, **changed))
        grid = ("--spot-um=20", "--pitch-um=80", "--source-um-per-px=1", f"--source={tmp_path / 'S1.png'}")
        predict.main(["--workdir=fake", *grid, f"--out={tmp_path / 'out'}", "--overwrite", *arguments])
        return tmp_path / "out"

    return call


def test_genes_below_the_floor_are_marked_everywhere_and_written(job, capsys, monkeypatch):
    titles = []
    monkeypatch.setattr(matplotlib.figure.FigureBase, "suptitle", lambda _, text, **kw: titles.append((text, kw)))
    out = job("--formats=h5ad,csv,png", "--genes=RED,GREEN,BLUE")
    said = capsys.readouterr().out
    assert "units: log(1 + 10,000 counts / total); 2 of 3 genes are below the floor of 0.2 and marked" in said
    table, adata = pd.read_csv(out / "trust.csv"), anndata.read_h5ad(out / "S1.h5ad")
    assert table["gene"].tolist() == list(adata.var_names) == list(GENES)
    assert table[MARK].tolist() == adata.var[MARK].tolist() == [False, True, True]
    assert (table["floor"] == 0.2).all()
    np.testing.assert_allclose(adata.var["pcc_normalised_low"], LOW)
    assert set(GENES) <= set(pd.read_csv(out / "S1.csv").columns)
    assert [kw["color"] is None for _, kw in titles] == [True, False, False]
    assert titles[1][0].endswith("below the floor of 0.2: PCC 0.50, at least 0.10 on held-out sections")
    assert titles[2][0].endswith("PCC not known on held-out sections")


def test_another_floor_is_another_result(job, capsys):
    job("--formats=csv")
    out = job("--formats=csv", "--floor=0.05", "--genes=GREEN")
    assert "0 of 1 genes are below the floor of 0.05" in capsys.readouterr().out
    assert pd.read_csv(out / "trust.csv")[["gene", MARK]].to_numpy().tolist() == [["GREEN", False]]


def test_a_model_of_which_nothing_is_known_says_so_and_takes_no_floor(job, capsys):
    out = job("--formats=h5ad", trust=None)
    assert "note: which genes to believe is not known" in capsys.readouterr().out
    assert MARK not in anndata.read_h5ad(out / "S1.h5ad").var
    assert not (out / "trust.csv").exists()
    with pytest.raises(InputError, match=r"--floor 0\.3: .* has no trust\.csv of such predictions"):
        job("--formats=h5ad", "--floor=0.3", trust=None)


def test_intervals_widen_with_the_distance_from_the_training_slides(job):
    about, layers = {}, {}
    for name, mean in (("near", [190.0, 110.0, 176.0]), ("far", [150.0, 70.0, 136.0])):
        fold = dataclasses.replace(MeanColour().fold, image_mean=np.array(mean))
        adata = anndata.read_h5ad(job("--formats=h5ad", fold=fold) / "S1.h5ad")
        about[name], layers[name] = adata.uns["stjax"], (adata.layers["upper"] - adata.layers["lower"]) / 2
    for name in about:
        factor = WIDENING.factor(about[name]["training_distance"], np.nan)
        assert about[name]["interval_factor"] == pytest.approx(factor)
        np.testing.assert_allclose(layers[name][0], [factor, 2 * factor, np.nan], rtol=1e-4)
    assert about["far"]["interval_factor"] > about["near"]["interval_factor"] + 0.5
    assert about["near"]["interval_guaranteed"] == pytest.approx(0.675)  # of three patients


def test_gene_sets_are_scored_drawn_and_say_how_far_they_can_be_believed(job, tmp_path, capsys):
    sets = gene_sets.GeneSets.read(tmp_path / "sets.gmt", MeanColour().fold)
    of_set = sets.table().assign(**dict.fromkeys(gene_sets.FIGURES, 0.75), **dict.fromkeys(RESTS_ON, 4))
    of_set = of_set.assign(resampled="patients", units=gene_sets.UNITS, symmetries=0, model_sha256="m" * 64)
    write_csv(tmp_path / gene_sets.FILE, of_set)
    out = job("--formats=h5ad,csv,geojson,png", f"--gene-sets={tmp_path / 'sets.gmt'}")
    assert "gene sets: 1; 3 of their 4 genes are predicted, the others count nothing" in capsys.readouterr().out
    adata = anndata.read_h5ad(out / "S1.h5ad")
    score = adata.obsm["gene_sets"]["LIGHT"]
    np.testing.assert_allclose(score, adata.X.mean(axis=1), rtol=1e-5)  # training means 0, deviations 1
    assert "gene_sets_truth" not in adata.obsm
    assert adata.uns["gene_sets"].loc["LIGHT", ["pcc", "genes_predicted"]].tolist() == [0.75, 3]
    np.testing.assert_allclose(pd.read_csv(out / "S1.csv")["set:LIGHT"], score, rtol=1e-5)
    assert '"set:LIGHT"' in (out / "S1.geojson").read_text()
    assert (out / "S1_set_LIGHT.png").stat().st_size > 10_000


def test_a_file_that_is_none_is_refused_before_anything_is_predicted(tmp_path, monkeypatch):
    path = tmp_path / "sets.gmt"
    path.write_text("LIGHT\n")
    monkeypatch.setattr(trained, "load", lambda *_, **__: MeanColour())
    with pytest.raises(InputError, match="line 1 has no genes"):
        predict.predict(tmp_path, tmp_path / "none.png", tmp_path / "out", options=predict.Options(gene_sets=path))
