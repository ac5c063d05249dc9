import base64
import dataclasses
import hashlib
import io
import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.errors import InputError
from stjax import encoders
from stjax.report import main, report
from stjax.reporting import maps, overview, page, read
from tests.mutated_json import reseal
from tests.report.html_reading import Page
from tests.report.made_run import make_run

WICKED = '<script>alert("1")</script>&<b>'


def written(folder, *runs, **options):
    out = folder / "report.html"
    report(runs, out, **options)
    return Page(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def run(folder):
    return make_run(folder / "run")


@pytest.fixture(scope="module")
def other(folder):
    return make_run(folder / "other", seed=1, noise=1.0)


@pytest.fixture(scope="module")
def one(folder, run):
    return written(folder, run)


@pytest.fixture(scope="module")
def two(folder, run, other):
    return written(folder, run, other, labels=["one", "other"])


@pytest.mark.parametrize("which", ["one", "two"])
def test_page_is_sound_and_asks_for_nothing(which, request):
    found = request.getfixturevalue(which)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.elements:
        for name in ("aria-controls", "aria-labelledby", "aria-describedby", "for"):
            assert set(attributes.get(name, "").split()) <= set(ids), (tag, attributes)
        assert "style" not in attributes  # the policy would refuse it
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action", "data", "srcset"):
            assert re.match(r"#|data:|$", attributes.get(name, "")), (tag, attributes)
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert not re.search(r"url\(|@import", "".join(text for tag, _, text in found.raw if tag == "style"))
    assert set(re.findall(r"https?://[^\s\"'<]*", found.text)) == {"http://www.w3.org/2000/svg"}


def test_policy_allows_the_page_its_own_style_and_script_alone(one):
    policy = next(a["content"] for a in one.find("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    for tag, attributes, text in one.raw:
        if "type" in attributes:
            continue  # data, never executed
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_data_round_trips(one, run):
    table = pd.read_csv(run / "evaluation" / "stjax" / "per_gene.csv")
    found = one.data["runs"][0]
    for name in table:
        if name in ("gene", "ensembl_id"):
            assert found["genes"][name] == table[name].tolist()
        else:
            values = np.array([np.nan if value is None else value for value in found["genes"][name]])
            np.testing.assert_allclose(values, table[name], rtol=1e-6)
    assert len(found["aliases"]) == len(table)
    assert one.data["bits"] == 16
    for section in found["sections"]:
        adata = anndata.read_h5ad(run / "predictions" / f"{section['name']}.h5ad")
        assert section["ids"] == adata.obs_names.tolist()
        assert set(section["layers"]) == {"truth", "prediction", "lower", "upper"}
        for name, layer in section["layers"].items():
            values = adata.X if name == "prediction" else adata.layers[name]
            half_a_level = np.ptp(values, axis=0) / (2 * 65534)
            assert np.all(np.abs(one.layer(layer, adata.n_obs) - values) <= half_a_level + 1e-6)
        scale = adata.uns["spatial"][section["name"]]["scalefactors"]
        np.testing.assert_allclose(section["xy"], adata.obsm["spatial"] * scale["tissue_lowres_scalef"], atol=0.006)
        assert section["pcc"][-1] is None  # a constant prediction has none


def test_values_that_are_not_there_stay_so():
    store = maps.Store()
    values = np.array([[0.0, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    layer = maps.quantise(values, bits=8, store=store)
    assert layer["low"] == [0.0, None]
    ((key, codes),) = store.texts.items()
    text = f'<script id="data">{{"bits": 8}}</script><script id="blob-{key}">{codes}</script>'
    np.testing.assert_allclose(Page(text).layer({"codes": key, "low": [0, 0], "high": [1, 1]}, 3), values)


def test_names_from_files_are_text(tmp_path):
    run = make_run(
        tmp_path / "run",
        sections=("<script>x<&'\" S",),
        patients=(WICKED,),
        genes=(WICKED, "</script>", "G", "H"),
        audit=[{"check": WICKED, "verdict": "leak", "detail": WICKED}],
    )
    found = written(tmp_path, run, labels=[WICKED])
    assert not found.find("b") or "alert" not in "".join(found.find("b")[0])
    assert len(found.find("script")) == 2 + len(
        [a for a in found.find("script") if a.get("id", "").startswith("blob-")]
    )
    assert WICKED in found.visible
    assert found.data["runs"][0]["genes"]["gene"][:2] == [WICKED, "</script>"]
    assert found.data["runs"][0]["sections"][0]["name"] == "<script>x<&'\" S"
    assert not any("alert" in text for tag, a, text in found.raw if tag == "script" and a.get("id") != "data")


def test_the_encoder_of_a_model_is_named_with_its_weights_and_licence(one, tmp_path):
    assert "Licence:" not in one.visible
    encoder = dict.fromkeys(encoders.IN_RESULTS, "") | {"title": "UNI", "trained": "not trained", "licence": "MIT"}
    encoder |= {"weights_sha256": "0123456789ab" + "c" * 52, "pooling": "class", "terms": "any use"}
    shown = written(tmp_path, make_run(tmp_path / "run", encoder=encoder))
    assert "UNI, not trained, pooling class, weights SHA-256 0123456789ab. Licence: MIT: any use" in shown.visible
    title = '<b onload="alert(1)">&UNI'
    random = encoder | {"title": title, "weights_sha256": "random:7", "pooling": "", "licence": "none", "terms": ""}
    shown = written(tmp_path, make_run(tmp_path / "random", encoder=random))
    assert f"{title}, not trained, weights random:7. Licence: none" in shown.visible
    with pytest.raises(InputError, match="encoder"):
        written(tmp_path, make_run(tmp_path / "odd" / "run", encoder={"title": 3}))


def test_what_must_be_seen_is_said(one, tmp_path):
    assert "For research. Not a medical device; not for diagnosis." in one.visible
    assert "SYNTHETIC" not in one.visible
    assert "No leak found." in one.visible
    assert "5 too few counts".replace("5 ", "") in one.visible
    assert "section B9 left out: image not found <i>" in one.visible
    assert "does not fit: another target" in one.visible
    assert "divided into 65,534 steps" in one.visible
    leak = {"check": "shared patients", "verdict": "leak", "detail": "patient A"}
    loud = written(tmp_path, make_run(tmp_path / "run", synthetic=True, audit=[leak]))
    main_text = loud.visible.split("Summary", 2)[-1]
    assert "SYNTHETIC DATA" in loud.visible
    assert loud.visible.index("LEAKAGE FOUND.") < loud.visible.index("genes, under protocol")
    assert "1 of 1 checks found a leak" in main_text
    chosen = {"check": "patients", "verdict": "same_patient", "detail": "patient A"}
    amber = written(tmp_path, make_run(tmp_path / "chosen", audit=[chosen]))
    assert "Same patient, by your choice." in amber.visible
    assert "LEAKAGE FOUND." not in amber.visible
    guessed = {"check": "patients", "verdict": "unknown", "detail": "nothing states whose tissue S1 is"}
    unsure = written(tmp_path, make_run(tmp_path / "guessed", audit=[guessed]))
    assert "1 of 1 checks could not be made" in unsure.visible


def edited(run, **values):
    """metrics.json with other values."""
    path = run / "evaluation" / "stjax" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_that_was_stopped_has_a_banner(tmp_path, one):
    run = make_run(tmp_path / "run")
    edited(run, trained="2 of 30 epochs", training_finished=False)
    found = written(tmp_path, run)
    assert "NOT FINISHED. the model is trained for 2 of 30 epochs" in " ".join(found.visible.split())
    assert found.visible.index("NOT FINISHED.") < found.visible.index("genes, under protocol")
    assert "NOT FINISHED" not in one.visible
    edited(run, trained="30 of 30 epochs", training_finished=True)
    assert "NOT FINISHED" not in written(tmp_path, run).visible


def test_predictions_that_do_not_vary_are_said_and_drawn_flat(tmp_path):
    run = make_run(tmp_path / "run", genes=("G1", "G2", "G3", "G4"))
    for path in (run / "predictions").glob("*.h5ad"):
        adata = anndata.read_h5ad(path)
        adata.X[:, 3] = 1.25 + np.random.default_rng(0).normal(scale=1e-7, size=adata.n_obs)
        assert np.ptp(adata.X[:, 3]) > 0
        adata.write_h5ad(path)
    metrics = json.loads((run / "evaluation" / "stjax" / "metrics.json").read_text())
    metrics["methods"]["model"] |= {"genes_constant_prediction": 1, "genes_constant_truth": 0}
    edited(run, methods=metrics["methods"])
    found = written(tmp_path, run)
    assert "Constant predictions. the prediction of 1 of 4 genes is the same at every spot" in found.visible
    for section in found.data["runs"][0]["sections"]:
        layer = section["layers"]["prediction"]
        assert layer["constant"] == [3]
        assert layer["low"][3] == layer["high"][3] == pytest.approx(1.25)
        assert section["layers"]["truth"]["constant"] == []
        assert section["pcc"][3] is None


def test_no_folder_of_this_machine_is_in_the_page(tmp_path):
    home = tmp_path / "jane zarquon"
    home.mkdir()
    run = make_run(home / "run", audit=[{"check": "c", "verdict": "ok", "detail": f"seen in {home}/other.h5ad"}])
    more = {"data_dir": "../jane zarquon/data/her2st/", "init_from": "/home/jane zarquon/w.safetensors"}
    more["encoder_weights"] = "../jane zarquon/uni.bin"
    reseal(run / "config.json", lambda config: config.update(more))
    manifest = home / "run_data" / "manifest.json"
    skipped = {"B9": "image not found under /home/janezarquon/raw/B9.jpg"}
    reseal(manifest, lambda content: content.update(skipped=skipped))
    content_hash = hashlib.sha256(manifest.read_bytes()).hexdigest()
    reseal(run / "data.json", lambda data: data.update(content_hash=content_hash))
    found = written(home, run)
    assert "section B9 left out: image not found under B9.jpg" in found.visible
    assert "her2st" in found.visible
    for part in ("jane", "zarquon", str(tmp_path)):
        assert part not in found.text
    manifest.unlink()
    gone = written(home, run)
    assert "The data set run_data is no longer there" in gone.visible
    assert "jane" not in gone.text


def test_verdict_is_no_kinder_than_the_figures(run):
    results = read.read_run(run, "run")
    assert "and the intervals do not overlap" in page.fragments.verdict(results)
    model, ridge = (results.metrics["methods"][name] for name in ("model", "ridge_colour"))
    model["intervals"]["pcc_median"] = [ridge["pcc_median"], 1]
    assert "but the intervals overlap" in page.fragments.verdict(results)
    ridge["pcc_median"] = model["pcc_median"]
    assert "does <b>not</b> beat it" in page.fragments.verdict(results)
    ridge["pcc_median"], ridge["intervals"]["pcc_median"] = 0.1, None
    assert "Without intervals" in page.fragments.verdict(results)


def test_the_first_screen_says_whether_the_model_is_good_and_shows_its_best_gene(run, one):
    results = read.read_run(run, "run")
    shown = Page(overview.overview(results))
    assert "significantly better than the best baseline (ridge on colour)" in shown.visible
    best = results.genes.dropna(subset=["pcc"]).nlargest(5, "pcc")
    places = [shown.visible.index(gene) for gene in best["gene"]]
    assert places[1:] == sorted(places[1:])
    (image,) = shown.find("img")
    jpeg = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(jpeg)) as opened:
        assert opened.width > 2 * opened.height
    assert one.visible.index("the best baseline") < one.visible.index("More columns")
    model, ridge = (results.metrics["methods"][name] for name in ("model", "ridge_colour"))
    model["intervals"]["pcc_median"] = [ridge["pcc_median"], 1]
    assert "better, but not significantly" in overview.overview(results)
    ridge["pcc_median"] = model["pcc_median"]
    assert "not better than the best baseline" in overview.overview(results)
    assert "<img" not in overview.overview(dataclasses.replace(results, sections=()))


def test_what_is_gone_is_said(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "predictions" / "A1.h5ad").unlink()
    (tmp_path / "run_data" / "manifest.json").write_text("{}")
    (run / "logs" / "train.jsonl").unlink()
    stale = anndata.read_h5ad(run / "predictions" / "A2.h5ad")
    stale.uns["stjax"]["checkpoint_step"] = 6
    stale.write_h5ad(run / "predictions" / "A2.h5ad")
    found = written(tmp_path, run)
    assert "Section A1 has no map here" in found.visible
    assert "Section A2's map is of another checkpoint_step" in found.visible
    assert "has changed since training" in found.visible
    assert [section["name"] for section in found.data["runs"][0]["sections"]] == ["A2"]
    assert "note: run: Section A1" in capsys.readouterr().out


def test_maps_give_way_to_the_size_asked_for(tmp_path):
    genes = [f"G{place}" for place in range(120)]
    run = make_run(tmp_path / "run", spots=900, genes=genes)
    results = read.read_runs([run])
    whole, eight, few = (Page(page.build(results, limit=limit)) for limit in (4_000_000, 1_500_000, 700_000))
    assert whole.data["bits"] == 16
    assert len(eight.text) <= 1_500_000
    assert (eight.data["bits"], eight.data["runs"][0]["mapped"]) == (8, list(range(120)))
    assert len(few.text) <= 700_000
    mapped = few.data["runs"][0]["mapped"]
    assert 10 <= len(mapped) < 120
    pcc = few.data["runs"][0]["genes"]["pcc"]
    assert min(pcc[row] for row in mapped) >= max(pcc[row] or -2 for row in set(range(119)) - set(mapped))
    assert f"the genes of lowest PCC have no map: {120 - len(mapped)} of 120 genes of run" in few.visible


def test_sections_of_very_many_spots_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "MAX_SPOTS", 25)
    run = make_run(tmp_path / "run")
    found = written(tmp_path, run)
    section = found.data["runs"][0]["sections"][0]
    assert len(section["ids"]) == len(set(section["ids"])) == len(section["xy"]) == 25
    assert section["spots"] == 40
    assert "30 spots are not" in found.visible
    adata = anndata.read_h5ad(run / "predictions" / "A1.h5ad")[section["ids"]]
    np.testing.assert_allclose(found.layer(section["layers"]["prediction"], 25), adata.X, atol=1e-3)


def test_several_runs_are_compared(two):
    assert "2 runs compared" in two.visible
    assert "Paired tests: one minus other" in two.visible
    parts = two.find("div", **{"class": "for-run"})
    assert {a["data-run"] for a in parts} == {"0", "1"}
    assert all(("hidden" in a) == (a["data-run"] == "1") for a in parts)
    truths = {s["layers"]["truth"]["codes"] for run in two.data["runs"] for s in run["sections"]}
    assert len(truths) == 2  # of two sections: runs share them


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "config.json").unlink(), "is not a stjax run directory"),
        (lambda run: (run / "data.json").write_text("{"), "no readable JSON"),
        (lambda run: (run / "data.json").write_text("[]"), "holds a list, expected an object"),
        (lambda run: (run / "evaluation/stjax/metrics.json").unlink(), "has no evaluation yet; score the run"),
        (lambda run: (run / "evaluation/stjax/metrics.json").write_text('{"spots": 1}'), "methods is missing"),
        (lambda run: (run / "evaluation/stjax/metrics.json").write_text('{"spots": NaN}'), "NaN is no number"),
        (
            lambda run: (run / "evaluation/stjax/metrics.json").write_text(
                '{"spots": 1, "methods": [], "sections": [], "protocol": ""}'
            ),
            "methods is a list of 0, expected an object",
        ),
        (lambda run: (run / "evaluation/stjax/per_gene.csv").unlink(), "per_gene.csv is not readable"),
        (lambda run: (run / "evaluation/stjax/per_gene.csv").write_text("gene,mae\nA,1\n"), "no column pcc"),
        (lambda run: (run / "evaluation/stjax/per_gene.csv").write_text("gene,pcc\nA,much\n"), "is not readable"),
        (lambda run: (run / "predictions/A1.h5ad").write_bytes(b"no HDF5"), "A1.h5ad is not readable"),
    ],
)
def test_bad_input_is_explained(tmp_path, spoil, said):
    run = make_run(tmp_path / "run")
    spoil(run)
    with pytest.raises(InputError, match=said):
        report([run], tmp_path / "report.html")
    assert not list(tmp_path.glob("report.html*"))


def test_bad_usage_is_explained(tmp_path, run, other):
    for arguments, said in (
        (["--workdir", run, "--workdir", run], "names a folder twice"),
        (["--workdir", run, "--names", "a,b"], "2 names for 1 run"),
        (["--workdir", run, "--workdir", other, "--names", "a,a"], "called the same"),
        (["--workdir", run, "--protocol", "pixnet"], "it is under stjax"),
        (["--workdir", run, "--max-mb", "0"], "give at least 1"),
        (["--workdir", tmp_path / "nowhere"], "is not a stjax run directory"),
    ):
        with pytest.raises(InputError, match=said):
            main([*map(str, arguments), f"--out={tmp_path / 'x.html'}"])
    with pytest.raises(InputError, match="is a folder"):
        main([f"--workdir={run}", f"--out={tmp_path}"])
    with pytest.raises(InputError, match=r"does not end in \.html"):
        main([f"--workdir={run}", f"--out={tmp_path / 'report'}"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no folder"):
        main([f"--workdir={run}", f"--out={tmp_path / 'file' / 'x.html'}"])


def test_training_curves_are_averaged_over_steps():
    entries = [{"kind": "train", "step": step, "loss": float(step), "learning_rate": 0.1} for step in range(1, 1501)]
    entries[0]["loss"] = float("nan")
    log = page._log(entries)
    assert log["steps_per_point"] == 3
    assert len(log["train"]["loss"]) == 500 <= page.LOG_POINTS
    assert log["train"]["loss"][:2] == [2.5, 5.0]
    assert json.dumps(log, allow_nan=False)


@pytest.mark.parametrize("where", ["methods", "model_minus", "targets", "sizes_um", "protocols"])
def test_methods_of_another_version_are_refused_with_what_to_do(tmp_path, where):
    run = make_run(tmp_path / "run")
    path = run / "evaluation" / "stjax" / "metrics.json"
    of = json.loads(path.read_text())["methods"]
    of["ridge on colour"] = of["ridge_colour"]  # as they were called before there were identifiers
    inside = {"targets": {"raw": {"methods": of}}, "sizes_um": {"55": {"spots": 1, "methods": of}}}
    if where == "protocols":
        path = path.parents[1] / "protocols.json"
        path.write_text(json.dumps({"protocols": {"stjax": {"fits": True, "why": "", "methods": of}}}))
    else:
        edited(run, **{where: {"ridge on colour": {}} if where == "model_minus" else inside.get(where, of)})
    with pytest.raises(InputError) as found:
        read.read_run(run, "run")
    assert str(found.value).startswith(f"{path}: {where}")
    assert "key is 'ridge on colour', expected a method that this version of stjax knows" in str(found.value)
    assert str(found.value).endswith(f"score the run again with python -m stjax.evaluate --workdir={run}")


def test_methods_and_checks_are_shown_by_their_names(tmp_path):
    finding = {"check": "gene_panel", "verdict": "unknown", "detail": "gone"}
    found = written(tmp_path, make_run(tmp_path / "run", audit=[finding]))
    said = " ".join(found.visible.split())
    for text in ("ridge on colour", "nearest measured spots", "the mean of the training spots", "spatial blocks"):
        assert text in said
    assert "gene panelcannot tellgone" in said
    for identifier in ("ridge_colour", "nearest_measured", "gene_panel", "spatial_blocks"):
        assert identifier not in said
