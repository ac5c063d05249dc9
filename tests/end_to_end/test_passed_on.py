"""What is handed to others, of a run that was stopped, in folders whose names are nobody's business: every file says
that the run is not finished, and none names a folder."""

import contextlib
import io
import json
import shutil
import warnings

import anndata
import h5py
import pyarrow.parquet
import pytest
from PIL import Image

import stjax
from stjax import audit, evaluate, export, predict, report
from tests.stopped_run import change, make_stopped

TELLTALE = "jane-doe-privat"
SAID = "2 of 30 epochs"
FORMATS = ("h5ad", "geojson", "csv", "parquet", "png", "svg")


@pytest.fixture(scope="module")
def home(trained, dataset, source, tmp_path_factory):
    """The stopped run, its data and raw sections in a folder with a telltale name."""
    folder = tmp_path_factory.mktemp("home") / TELLTALE
    run = make_stopped(trained[0], folder / "run")
    shutil.copytree(dataset, folder / "data")
    shutil.copytree(source, folder / "raw")
    for name, values in (
        ("data.json", {"data_dir": str(folder / "data")}),
        ("config.json", {"data_dir": str(folder / "data"), "init_from": str(folder / "weights.safetensors")}),
    ):
        change(run, name, values)
    return folder


@pytest.fixture(scope="module")
def said(home):
    """What each command printed, by its name; the files lie in `home / "out"`."""
    printed = {}

    def keep(name, function, *arguments, **options):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            result = function(*arguments, **options)
        printed[name] = out.getvalue()
        return result

    run, out = home / "run", home / "out"
    keep("evaluate", evaluate.evaluate, run)
    keep("report", report.report, [run], out / "report.html")
    keep("export", export.export, run, out / "model")
    keep("predict", predict.predict, run, home / "raw", out / "predictions", options=predict.Options(formats=FORMATS))
    keep("predict from the exported model", predict.predict, out / "model", home / "raw", out / "more")
    keep("audit", audit.main, [f"--workdir={run}"])
    return printed


@pytest.mark.parametrize(
    "command", ["evaluate", "report", "export", "predict", "predict from the exported model", "audit"]
)
def test_every_command_says_that_the_run_was_stopped(said, command):
    assert SAID in said[command]
    assert "NOT FINISHED" in said[command]


@pytest.mark.usefixtures("said")
def test_every_file_says_that_the_run_was_stopped(home):
    metrics = json.loads((home / "run" / "evaluation" / "stjax" / "metrics.json").read_text())
    scored = home / "run" / "predictions" / "C1.h5ad"
    (predicted,) = (home / "out" / "predictions").glob("*.h5ad")
    parquet = pyarrow.parquet.read_schema(predicted.with_suffix(".parquet")).metadata[b"stjax"]
    config = json.loads((home / "out" / "model" / "config.json").read_text())
    assert config["training"]["progress"] == {"epochs": 2.0, "planned": 30, "finished": False}
    for about in (
        metrics,
        anndata.read_h5ad(scored).uns["stjax"],
        anndata.read_h5ad(predicted).uns["stjax"],
        anndata.read_h5ad(next((home / "out" / "more").glob("*.h5ad"))).uns["stjax"],
        json.loads(parquet),
        json.loads(predicted.with_suffix(".geojson").read_text())["stjax"],
    ):
        assert about["trained"] == SAID
        assert not about["training_finished"]
    record = json.loads(predicted.with_suffix(".prediction.json").read_text())  # what speaks for a CSV file
    assert record["of"]["trained"] == SAID
    card = (home / "out" / "model" / "MODEL_CARD.md").read_text()
    assert f"NOT FINISHED: trained for {SAID}" in card
    page = (home / "out" / "report.html").read_text()
    assert "NOT FINISHED." in page
    assert SAID in page


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("place", ["run", "out/model"])
def test_python_says_so_too(home, place):
    with pytest.warns(UserWarning, match=f"is trained for {SAID}.*NOT FINISHED"):
        model = stjax.load(home / place)
    assert (model.trained, model.finished) == (SAID, False)
    assert f"NOT FINISHED: {SAID}" in repr(model)


def test_a_finished_run_needs_no_word(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = stjax.load(trained[0])
    assert (model.trained, model.finished) == ("2 of 2 epochs", True)
    assert "FINISHED" not in repr(model)
    assert "FINISHED" not in trained[1]


def texts(path):
    """What a file holds, as bytes to look through: of HDF5 all names, attributes and texts besides."""
    yield path.read_bytes()
    if path.suffix == ".h5ad":
        found = []
        with h5py.File(path) as file:

            def visit(name, node):
                found.extend([name, *map(str, node.attrs.values())])
                if isinstance(node, h5py.Dataset) and node.dtype.kind in "OS":
                    found.append(str(node[()].tolist() if node.shape else node[()]))

            file.visititems(visit)
        yield "\n".join(found).encode()
    if path.suffix == ".png":
        with Image.open(path) as picture:
            yield str(picture.info).encode()
    if path.suffix == ".parquet":
        yield str(pyarrow.parquet.read_schema(path).metadata).encode()


@pytest.mark.usefixtures("said")
def test_no_file_that_is_passed_on_names_a_folder_of_the_machine(home):
    files = [path for path in (home / "out").rglob("*") if path.is_file()]
    files += [path for path in (home / "run" / "evaluation").rglob("*") if path.is_file()]
    files += list((home / "run" / "predictions").iterdir())
    assert {path.suffix for path in files} >= {f".{name}" for name in FORMATS} | {".html", ".json", ".stablehlo", ".md"}
    for path in files:
        for text in texts(path):
            assert TELLTALE.encode() not in text, path.relative_to(home)
