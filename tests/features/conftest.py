"""A small data set and a small encoder, which learnt nothing."""

import jax
import pytest

from data_prep.build import build
from data_prep.dataset import PatchDataset
from stjax import encoders, parallel
from tests.data_prep.tiny_source import write_source

NAME = "tiny"
SPEC = {"patch_px": 16, "width": 32, "layers": 2, "heads": 2, "mlp": 64, "grid": 4, "rule": "R1"}
UM_PER_PX = 0.5


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("raw") / "source")


@pytest.fixture(scope="session")
def built(raw, tmp_path_factory):
    """Patches of 64 px at 0.5 um per px, 61 to 64 a section."""
    out = tmp_path_factory.mktemp("data") / "patches"
    build(raw, out, patch_size_px=64, min_counts=0, source_um_per_px=UM_PER_PX)
    return out


@pytest.fixture(scope="session")
def tiles(raw, tmp_path_factory):
    """Tiles of 416 px."""
    out = tmp_path_factory.mktemp("data") / "tiles"
    build(raw, out, tile_size_px=416, min_counts=0, source_um_per_px=UM_PER_PX)
    return out


@pytest.fixture
def dataset(built, tmp_path):
    """The patches, in a folder of one's own whose features are the test's alone."""
    return own(built, tmp_path)


def own(built, folder):
    """A data set whose files are links to those of another."""
    for path in built.iterdir():
        (folder / path.name).symlink_to(path)
    return PatchDataset.open(folder)


@pytest.fixture(scope="session")
def mesh():
    return parallel.make_mesh(jax.devices()[:2])


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    """A vision transformer of two blocks for 64 px at 0.5 um per px."""
    options = {"um_per_px": (0.5, 0.5), "mean": (0.7, 0.55, 0.7), "std": (0.2, 0.25, 0.2), "px": 64}
    entry = encoders.Encoder("Tiny", SPEC, ("timm",), ("tiny.pth",), "nowhere", "MIT", **options)
    monkeypatch.setitem(encoders.ENCODERS, NAME, entry)
    return entry
