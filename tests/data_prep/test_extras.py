"""What a command says where a package is missing that an extra of stjax brings, and that it names the right one."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from data_prep import extras
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def brought(extra):
    """The packages of an extra, and of those that it brings along."""
    for text in PROJECT["optional-dependencies"][extra]:
        need = Requirement(text)
        if need.name == "stjax":
            for further in need.extras:
                yield from brought(further)
        else:
            yield canonicalize_name(need.name)


@pytest.mark.parametrize("extra", ["hub", "maps", "prep", "train"])
def test_each_package_of_an_extra_is_known_by_the_name_it_is_imported_by(extra):
    known = metadata.packages_distributions()
    listed = {
        canonicalize_name(distribution)
        for name, ways in extras.EXTRAS.items()
        if extra in ways
        for distribution in known[name]
    }
    assert listed == set(brought(extra))
    assert not listed & {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}


def test_the_smallest_extra_is_named_first():
    size = {extra: len(set(brought(extra))) for extra in extras.PURPOSES}
    for ways in extras.EXTRAS.values():
        assert sorted(ways, key=size.get) == list(ways)


def test_other_errors_are_not_explained():
    assert extras.explain(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert extras.explain(ImportError("cannot import name 'x' from 'flax'", name="flax")) is None
    assert extras.explain(ValueError("flax")) is None


@pytest.mark.parametrize("words", [("-m", "stjax.export"), ("-m", "stjax", "export")])
def test_a_command_that_lacks_a_package_ends_with_one_line_and_exit_code_2(words, tmp_path):
    (tmp_path / "orbax").mkdir()
    (tmp_path / "orbax/__init__.py").write_text("raise ModuleNotFoundError('No module named orbax', name='orbax')")
    done = subprocess.run(
        [sys.executable, *words, "--workdir=run", "--out=model"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    says = "error: orbax is not installed: pip install 'stjax[train]' to train, score and export\n"
    assert (done.stdout, done.stderr) == ("", says)
