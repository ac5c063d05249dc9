"""Compiled programs are kept, and found again by the next process."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

PROGRAM = """
import collections, json
import jax
from stjax import cache

seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.rpartition("/")[2]]))
cache.keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # this one compiles in no time
jax.block_until_ready(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8))))
print(json.dumps(seen))
"""


def events(folder):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"STJAX_CACHE": str(folder), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_process_compiles_nothing_anew(tmp_path):
    first, second = events(tmp_path), events(tmp_path)
    assert first["cache_misses"] > 0
    assert "cache_hits" not in first
    assert second["cache_hits"] == first["cache_misses"]
    assert "cache_misses" not in second
    assert oct((tmp_path / "compiled").stat().st_mode)[-3:] == "700"
