import json

import numpy as np

from data_prep.spots import Spots
from stjax import bench
from stjax.benchmarks import spot_pool as bench_spot_pool


def test_each_way_through_the_map_is_a_row_beside_ours(tmp_path, monkeypatch):
    centres = np.random.default_rng(0).uniform(0, 32, (12, 2))
    monkeypatch.setattr(bench_spot_pool, "IMAGE_PX", 32)
    monkeypatch.setattr(bench_spot_pool, "FEATURES", 6)
    monkeypatch.setattr(bench_spot_pool, "GENES", 4)
    monkeypatch.setattr(bench_spot_pool, "MASKS", 3)
    monkeypatch.setattr(bench_spot_pool, "PIXELS", 200)
    spots = {"few": Spots.discs(centres[:3], 9), "many": Spots.discs(centres, 2), "large": Spots.discs(centres, 9)}
    monkeypatch.setattr(bench_spot_pool, "cases", lambda _: spots)
    path = tmp_path / "bench.json"
    bench.main(["--what=spot_pool", "--rounds=1", f"--json={path}"])
    rows = json.loads(path.read_text())
    assert [row["case"] for row in rows[::2]] == list(spots)
    assert [row["method"] for row in rows[:2]] == ["dense map", "spot_pool"]
    for row in rows:
        assert {"what", "case", "method", "seconds", "speedup", "temp_bytes", "machine"} <= set(row)
        assert row["error"] < 1e-5
