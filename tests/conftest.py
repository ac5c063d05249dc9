"""Tests run on eight virtual CPU devices, without network, with implicit rank promotion an error.

Fixtures shared by all: a small demo data set and a run trained on it, made once a session by the command lines.
"""

import os
import subprocess
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from data_prep import demo

jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
# Where compiled programs are kept from one run of the tests to the next, if anywhere: those of the tests themselves and
# of `command`; not of processes that are killed, which would leave halves of programs there.
PROGRAMS = {}
if kept := os.environ.get("STJAX_TEST_PROGRAMS"):
    PROGRAMS = {"JAX_COMPILATION_CACHE_DIR": kept, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    jax.config.update("jax_compilation_cache_dir", kept)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def command(module, *arguments, cache, check=True, **options):
    """Runs `python -m module` as a user would, on one CPU device."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environment | PROGRAMS | {"STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    if check and result.returncode:
        raise AssertionError(f"exit {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, cache):
    """The work directory of a run on the tiny demo, and what training printed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    result = command("stjax.train", "--config=configs/tiny.py", f"--workdir={folder}", cache=cache)
    return folder, result.stdout


@pytest.fixture(scope="session")
def dataset(trained, cache):  # noqa: ARG001 -- training makes it
    """The data set that run was trained on."""
    return next(cache.glob("demo-*"))


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Raw demo sections in the her2st layout."""
    return demo.make_demo(tmp_path_factory.mktemp("raw") / "source", patients=1, sections_per_patient=1, spots=30)


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory):
    """The file of a small encoder's weights, while it is one of `stjax.encoders`; see `tests/small_encoder.py`."""
    from stjax import encoders
    from tests import small_encoder as made

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoders.ENCODERS, made.NAME, made.ENTRY)
        yield made.write_weights(tmp_path_factory.mktemp("encoder") / "small.safetensors", seed=3)


@pytest.fixture
def tiny_sections(monkeypatch):
    """Puts `tests/section_models/tiny_sections.py` among the models."""
    from stjax import models
    from tests.section_models import FOLDER

    monkeypatch.setattr(models, "__path__", [*models.__path__, FOLDER])
