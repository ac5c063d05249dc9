"""Exported models as `hf://NAME/MODEL`, from a server on this machine that answers as the Hub does."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import InputError
from stjax import hub, trained
from tests.conftest import ROOT
from tests.stjax.hub_server import commit_of, serving

constants = pytest.importorskip("huggingface_hub.constants", reason="pip install 'stjax[hub]'")

GIVEN = ROOT / "tests/stjax/data/exported"


@pytest.fixture
def repositories(tmp_path):
    """An exported model in two revisions, of which the older is damaged; and a repository of something else."""
    main, damaged, other = (tmp_path / "hub" / name for name in ("main", "damaged", "other"))
    for folder in (main, damaged):
        shutil.copytree(GIVEN, folder)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")  # the Hub puts it into each
    (main / "training_data.zip").write_bytes(bytes(1000))
    data = bytearray((damaged / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "weights.safetensors").write_bytes(data)
    other.mkdir()
    (other / "model.safetensors").write_bytes(bytes(10))
    return {"lab/model": {"main": main, "v1": damaged}, "lab/other": {"main": other}}


@pytest.fixture
def asked(repositories, tmp_path, monkeypatch):
    """What the server is asked for, while it is the Hub."""
    with serving(repositories) as (address, found):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


def load(address):
    return trained.load(Path(address))


def test_a_model_of_the_hub_predicts_as_its_folder_does(asked, repositories):
    ours, theirs = trained.load(GIVEN), load("hf://lab/model")
    size = ours.fold.image_size_px
    images = np.random.default_rng(0).integers(0, 255, (8, size, size, 3)).astype(np.uint8)
    expected, found = (np.asarray(each.predict({"image": images})["expression"]) for each in (ours, theirs))
    np.testing.assert_array_equal(found, expected)
    fetched = {line.rpartition("/")[2] for line in asked if "/resolve/" in line}
    assert fetched == {path.name for path in GIVEN.iterdir()}  # and nothing that its manifest does not name
    asked.clear()
    commit = commit_of(repositories["lab/model"]["main"])
    assert load(f"hf://lab/model@{commit}").model_sha256 == ours.model_sha256
    assert [line for line in asked if line.startswith("GET") and "/resolve/" in line] == []  # it is in the cache


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://lab/model@v1", r"weights\.safetensors has changed since it was written"),
        ("hf://lab/model@v2", "^hf://lab/model@v2: lab/model has no revision v2$"),
        ("hf://lab/nothing", "there is no such repository, or you may not read it; log in with: hf auth login"),
        ("hf://lab/other", r"^hf://lab/other holds no exported model: it has no manifest\.json$"),
        ("hf://model", "^hf://model is no address of a model, expected hf://NAME/MODEL or"),
        ("hf://lab/model@", "is no address of a model"),
        ("hf://lab/../x", "is no address of a model"),
    ],
)
def test_what_is_no_sound_model_is_refused(address, message):
    with pytest.raises(InputError, match=message):
        load(address)


@pytest.mark.usefixtures("asked")
def test_without_a_network_a_model_comes_from_the_cache_or_not_at_all(monkeypatch):
    online = load("hf://lab/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("hf://lab/model").folder == online.folder
    with pytest.raises(InputError, match="the Hub cannot be reached, and the model is not in its cache"):
        load("hf://lab/model@v3")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"huggingface_hub is not installed: pip install 'stjax\[hub\]'"):
        load("hf://lab/model")


def test_only_an_address_is_one():
    assert hub.is_address(Path("hf://lab/model"))
    assert not hub.is_address(Path("runs/hf:"))
    assert not hub.is_address(Path("/hf:/lab/model"))
