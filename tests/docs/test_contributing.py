"""Each example of CONTRIBUTING.md, applied to a copy of the repository: what it touches, and that it works."""

import ast
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import readers
from tests.docs import contributions
from tests.docs.run_tutorial import ROOT

her2st = readers.reader("her2st")

SECTIONS = contributions.sections()
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 400, 60, 10
LARGER = {  # and why
    "configs/default.py get_config": "the settings, in order",
    "stjax/encoders.py": "each encoder with what is known of it",
    "stjax/models/bleep.py build": "a parameter for each fact of sections and each key of config.model.options",
    "stjax/models/eggn.py build": "a parameter for each fact of sections and each key of config.model.options",
    "stjax/models/egn.py build": "a parameter for each fact of sections and each key of config.model.options",
    "stjax/models/histogene.py build": "a parameter for each fact of sections and each key of config.model.options",
    "stjax/models/pixnet.py build": "a parameter for each key of config.model.options",
    "stjax/models/triplex.py __call__": "a parameter for each array that the view gives",
    "stjax/models/sgn.py build": "a parameter for each fact of sections and each key of config.model.options",
    "stjax/models/triplex.py build": "a parameter for each fact of sections and each key of config.model.options",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return contributions.clone(tmp_path_factory.mktemp("contributing") / "clone")


@pytest.fixture
def applied(clone):
    """Applies the diff under a heading; undone afterwards."""

    def apply(heading):
        contributions.apply(clone, SECTIONS[heading][1])
        return clone

    yield apply
    contributions.restore(clone)


def run(clone, *arguments, cache, check=True):
    """`python ...` with the copy's stjax, on one CPU device."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(clone), "STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def test_there_is_an_example_of_each_kind():
    assert list(SECTIONS) == [
        "A backbone", "An encoder", "A reader", "A loss", "A metric", "A protocol", "An output format"
    ]  # fmt: skip


def test_folders_import_one_way_as_the_map_says():
    (line,) = re.findall(r"^ops <.*$", contributions.PAGE.read_text(), re.MULTILINE)
    order = line.split(" < ")
    assert len(order) == 9
    backwards, imports = [], 0
    for place, folder in enumerate(order):
        for path in (ROOT / "stjax" / folder).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:  # at once: what a function imports, it imports when called
                for name in imported(node):
                    to = name.split(".")[1:2]
                    imports += bool(to) and to[0] in order[:place]
                    if name.startswith("stjax.") and to[0] in order[place + 1 :]:
                        backwards.append(f"{path.name} of {folder} imports {name}")
    assert not backwards
    assert imports > 50


def imported(node):
    """Modules, or what is taken from them, that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_files_and_functions_are_no_larger_than_the_page_says():
    text = " ".join(contributions.PAGE.read_text().split())
    says = f"longer than {MOST_LINES} lines, no function than {MOST_LINES_OF_A_FUNCTION} without its docstring, "
    assert f"{says}and none takes more than {MOST_PARAMETERS} parameters" in text
    found = [
        larger
        for folder in ("stjax", "data_prep", "configs", "launch")
        for path in (ROOT / folder).rglob("*.py")
        for larger in too_large(path)
    ]
    assert set(found) == LARGER.keys()


def too_large(path):
    """A file, and those of its functions, that are."""
    name, text = str(path.relative_to(ROOT)), path.read_text()
    if len(text.splitlines()) > MOST_LINES:
        yield name
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = 0 if ast.get_docstring(node) is None else length(node.body[0])
            given = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            parameters = len([name for name in given if name not in ("self", "cls")])
            lines = length(node) - said
            if lines > MOST_LINES_OF_A_FUNCTION or parameters > MOST_PARAMETERS:
                yield f"{name} {node.name}"


def length(node):
    """Lines of a statement."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("heading", SECTIONS)
def test_each_applies_and_touches_what_it_names(heading, clone):
    try:
        assert contributions.apply(clone, SECTIONS[heading][1]) == sorted(SECTIONS[heading][0])
    finally:
        contributions.restore(clone)


def test_all_apply_together_and_name_what_there_is(clone, cache):
    new = ("configs.plain", "data_prep.readers.tables", "stjax.models.plain", "stjax.outputs.feather")
    try:
        for _, diff in SECTIONS.values():
            contributions.apply(clone, diff)
        run(clone, "-c", f"import {', '.join(new)}", cache=cache)
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", "stjax", "data_prep", "configs"], cwd=clone, check=True
        )
    finally:
        contributions.restore(clone)


@pytest.mark.slow
def test_the_new_backbone_trains_and_is_exported(applied, cache, tmp_path):
    clone = applied("A backbone")
    small = ["demo.patch_size_px=32", "demo.patients=3", "demo.num_epochs=1"]
    arguments = ["-m", "stjax.train", "--config=configs/plain.py", f"--workdir={tmp_path / 'run'}"]
    output = run(clone, *arguments, *(f"--config.{setting}" for setting in small), cache=cache).stdout
    assert "plain small" in output
    assert (tmp_path / "run" / "evaluation" / "stjax" / "metrics.json").is_file()
    run(clone, "-m", "stjax.export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'exported'}", cache=cache)
    assert (tmp_path / "exported" / "backbone.safetensors").stat().st_size


def test_the_new_encoder_is_listed_and_has_a_network(applied, cache):
    clone = applied("An encoder")
    assert "download checkpoint.ckpt from the page above" in run(
        clone, "-m", "stjax.encoders", "our_b16", cache=cache
    ).stdout.replace("\n" + " " * 12, " ")
    script = (
        "from flax import nnx; from stjax.models import encoder; "
        "print(nnx.eval_shape(lambda: encoder.build('our_b16', rngs=nnx.Rngs(0))).num_features)"
    )
    assert run(clone, "-c", script, cache=cache).stdout.split() == ["768"]
    run(clone, "-m", "tests.docs.encoder_table", cache=cache)
    assert "| `our_b16` |" in (clone / "docs" / "encoders.md").read_text()


@pytest.mark.slow
def test_the_new_reader_is_recognised_and_reads_what_was_measured(applied, source, cache, tmp_path):
    (name,) = her2st.list_sections(source)
    section = her2st.read_section(source, name)
    folder = tmp_path / "raw"
    folder.mkdir()
    Image.open(section.image_path).save(folder / f"{name}.png")
    counts = pd.DataFrame(section.counts.toarray(), index=section.spots.id, columns=section.genes.names)
    counts.to_csv(folder / f"{name}.counts.tsv", sep="\t")
    spots = pd.DataFrame(section.spots.xy, columns=pd.Index(["x", "y"]), index=pd.Index(section.spots.id, name="spot"))
    spots.assign(diameter=2 * section.spots.size_px).iloc[::-1].to_csv(folder / f"{name}.spots.csv")  # another order
    with pytest.raises(Exception, match="layout not recognised"):
        readers.find_layout(folder)
    clone = applied("A reader")
    script = (
        "import sys, numpy as np; from data_prep import readers; reader, reason = readers.find_layout(sys.argv[1]); "
        "section = reader.read_section(sys.argv[1], sys.argv[2], um_per_px=1.4); "
        "np.savez(sys.argv[3], xy=section.spots.xy, total=section.counts.sum(axis=1), layout=section.layout)"
    )
    run(clone, "-c", script, folder, name, tmp_path / "read.npz", cache=cache)
    found = np.load(tmp_path / "read.npz")
    assert found["layout"] == "tables"
    np.testing.assert_allclose(found["xy"], section.spots.xy)
    np.testing.assert_array_equal(found["total"], section.counts.sum(axis=1))


@pytest.mark.slow
def test_the_new_loss_trains(applied, cache, tmp_path):
    clone = applied("A loss")
    arguments = ["--config=configs/tiny.py", "--config.loss=huber", "--config.num_epochs=1"]
    run(clone, "-m", "stjax.train", *arguments, f"--workdir={tmp_path / 'run'}", cache=cache)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loss"] == "huber"


@pytest.mark.slow
def test_the_new_metric_stands_in_the_results(applied, cache, trained):
    clone = applied("A metric")
    run(clone, "-m", "stjax.evaluate", f"--workdir={trained[0]}", cache=cache)
    methods = json.loads((trained[0] / "evaluation" / "stjax" / "metrics.json").read_text())["methods"]
    model, mean = methods["model"]["concordance_median"], methods["mean"]["concordance_median"]
    assert 0 < abs(model) <= 1
    assert mean is None or abs(mean) < 1e-6


@pytest.mark.slow
def test_the_new_protocol_trains_and_its_page_can_be_written(applied, cache, tmp_path):
    clone = applied("A protocol")
    arguments = ["--config=configs/tiny.py", "--config.protocol=stjax_raw", "--config.num_epochs=1"]
    run(clone, "-m", "stjax.train", *arguments, f"--workdir={tmp_path / 'run'}", cache=cache)
    assert (tmp_path / "run" / "evaluation" / "stjax_raw" / "metrics.json").is_file()
    run(clone, "-m", "tests.docs.protocol_tables", cache=cache)
    assert "`stjax_raw`" in (clone / "docs" / "protocols.md").read_text()


@pytest.mark.slow
def test_the_new_format_holds_the_predictions(applied, cache, tmp_path, trained, source):
    clone = applied("An output format")
    arguments = [f"--workdir={trained[0]}", f"--source={source}", f"--out={tmp_path / 'out'}", "--formats=feather,csv"]
    run(clone, "-m", "stjax.predict", *arguments, cache=cache)
    (path,) = (tmp_path / "out").glob("*.feather")
    found, as_csv = pd.read_feather(path), pd.read_csv(path.with_suffix(".csv"))
    assert list(found.columns) == list(as_csv.columns)
    np.testing.assert_allclose(found.iloc[:, 7:], as_csv.iloc[:, 7:], rtol=1e-5, atol=1e-6)
