"""A run's config.json: settings it is too old to name are at their defaults, damage is told in one line. And the
command line it comes of: configs of stjax and of the user, options with a blank, options given twice."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from data_prep import json_files
from data_prep.errors import InputError
from stjax import config as configs
from stjax import protocols
from tests.mutated_json import mutants, refusal

ROOT = Path(__file__).resolve().parents[2]


def test_settings_that_came_later_are_at_their_defaults(trained, tmp_path):
    saved = json.loads((trained[0] / "config.json").read_text())
    del saved["sha256"], saved["step_timeout_s"], saved["model"]["options"], saved["demo"]["spots"]
    saved["learning_rate"] = 0.125
    json_files.write(tmp_path / "config.json", json_files.sealed(saved))
    config = configs.load(tmp_path / "config.json")
    assert (config.step_timeout_s, config.model.options.rematerialise, config.demo.spots) == (0, False, 104)
    assert (config.learning_rate, config.model.variant) == (0.125, "tiny")
    with pytest.raises(InputError, match=r"learning_rate was 0\.125"):
        configs.check_same_run(config, configs.load(trained[0] / "config.json"), tmp_path)


def test_a_config_that_lacks_nothing_is_read_as_it_is(trained):
    path = trained[0] / "config.json"
    assert json_files.sealed(configs.load(path).to_dict()) == json.loads(path.read_text())


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"config"'])
def test_damage_is_told(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json: .*; restore it, or train in a new work directory"):
        configs.load(tmp_path / "config.json")


def parse(*arguments):
    return configs.parse(arguments, usage="")


def installed(folder):
    """A copy of what an installation puts into site-packages, as pyproject.toml says it."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in setuptools["packages"]:
        source = ROOT / setuptools["package-dir"].get(package, package.replace(".", "/"))
        target = folder / package.replace(".", "/")
        shutil.copytree(source, target, ignore=lambda at, names: [n for n in names if (Path(at) / n).is_dir()])
    return folder


def test_an_installation_has_no_package_configs_and_is_not_misled_by_the_users(tmp_path):
    site = installed(tmp_path / "site")
    assert sorted(path.name for path in site.iterdir()) == ["data_prep", "stjax"]
    (tmp_path / "mine/configs").mkdir(parents=True)
    (tmp_path / "mine/configs/__init__.py").write_text("raise SystemExit('the package configs was imported')")
    code = (
        "from stjax import config, doctor\n"
        "print(config.parse(['--config=configs/enet_b1_aux.py'], usage='')[0].model.variant, config.__file__)\n"
        "doctor._settings()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "mine",
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"b1 {site / 'stjax/config.py'}"


@pytest.mark.parametrize("name", ["tiny", "tiny.py", "configs/tiny.py", "configs/tiny"])
def test_configs_of_stjax_are_found_by_name_where_no_such_file_is_here(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config, folder = parse(f"--config={name}")
    assert (config.model.variant, folder) == ("tiny", Path("runs/tiny"))
    assert f"note: {name} is no file here; the config tiny that comes with stjax is used" in capsys.readouterr().out


def test_a_file_that_is_here_comes_before_the_config_of_that_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/tiny.py").write_text(
        "from stjax.config import built_in\n"
        "def get_config():\n    config = built_in('enet_b2_aux')\n    config.fold = 3\n    return config\n"
    )
    config, folder = parse("--config=configs/tiny.py")
    assert (config.model.variant, config.fold, folder) == ("b2", 3, Path("runs/tiny"))
    assert not capsys.readouterr().out
    with pytest.raises(InputError, match=r"enet_b9\.py does not exist; those that come with stjax are bleep, "):
        parse("--config=configs/enet_b9.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from configs import nothing_there", r"built_in, then built_in\('default'\)"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config():\n    return 1 / 0", "ZeroDivisionError: division by zero"),
        ("config = {}", "get_config"),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_fault(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(text)
    with pytest.raises(InputError, match=rf"config file mine\.py fails: .*{message}"):
        parse("--config=mine.py")


def test_a_blank_does_for_the_equals_sign():
    config, folder = parse(
        *("--config", "configs/tiny.py", "--workdir", "runs/a b", "--config.num_epochs", "3"),
        *("--config.learning_rate", "-1", "--config.augment=False"),
    )
    assert (config.num_epochs, config.learning_rate, config.augment) == (3, -1, False)
    assert folder == Path("runs/a b")
    assert parse("--config=configs/tiny.py", "--noconfig.augment")[0].augment is False


@pytest.mark.parametrize("key", ["data_dir", "data-dir"])
def test_hyphens_and_underscores_in_keys_are_the_same(key):
    config, _ = parse("--config", "configs/tiny.py", f"--config.{key}", "my-data", "--config.demo.patch-size-px=7")
    assert (config.data_dir, config.demo.patch_size_px) == ("my-data", 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=A", "--workdir=B"], "--workdir is given twice, with A and B; give it once"),
        (["--workdir=A", "--workdir", "B"], "--workdir is given twice, with A and B"),
        (["--config=configs/pixnet.py"], r"--config is given twice, with configs/tiny\.py and configs/pixnet\.py"),
        (["--config.fold=1", "--config.fold=2"], r"--config\.fold is given twice, with 1 and 2"),
        (["--config.augment=True", "--noconfig.augment"], r"--config\.augment is given twice, with True and no value"),
        (["fold=1"], "argument 'fold=1' is not understood"),
        (["--config.data_dir=1", "--config.data-dir=2"], r"--config\.data_dir is given twice, with 1 and 2"),
        (["--workdi=A"], r"there is no option --workdi; did you mean --workdir\?"),
        (["--data-dir=A"], r"there is no option --data_dir; did you mean --config\.data_dir\?"),
        (["--confg.seed=1"], r"there is no option --confg\.seed; did you mean --config\.seed\?"),
        (["--config.fould=1"], "config has no key 'fould'; did you mean 'fold'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse("--config=configs/tiny.py", *arguments)


@pytest.mark.parametrize("arguments", [["--config"], ["--workdir", "x"]])
def test_a_config_must_be_given(arguments):
    with pytest.raises(InputError, match="no config is given"):
        parse(*arguments)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A, B", ("A", "B")),
        ("Study, part 2: P1", ("Study, part 2: P1",)),
        ("Study,part 2: P1, B", ("Study, part 2: P1", "B")),
        ('B, "Study, part 2: P1"', ("B", "Study, part 2: P1")),
        ('"Other, unknown", A', ("Other, unknown", "A")),
        ("Study, part 3: P1", ("Study", "part 3: P1")),
        ("", ()),
        (" , ", ()),
    ],
)
def test_names_with_commas_in_them_are_found(text, found):
    assert configs.names(text, ["A", "B", "Study, part 2: P1"]) == found


def test_any_settings_are_read_or_refused(tmp_path):
    path = tmp_path / "config.json"
    saved = configs.resolve(configs.built_in("tiny"), protocols.get_protocol("stjax"), demo=True).to_dict()
    path.write_text(json.dumps(json_files.sealed(saved)))
    assert configs.load(path).to_dict() == saved
    for what, mutant in mutants(saved):
        path.write_text(json.dumps(json_files.sealed(mutant)))
        refusal(what, lambda: configs.load(path))
    path.write_text(json.dumps(json_files.sealed(saved) | {"seed": 7}))
    with pytest.raises(InputError, match="has changed since it was written"):
        configs.load(path)
