"""The cache folder."""

import os
import time

from stjax.data import demo_data


def test_only_what_was_left_for_a_day_is_removed(tmp_path):
    for name in ("making-old", "making-new", "demo-v1"):
        (tmp_path / name / "source").mkdir(parents=True)
        (tmp_path / name / "source" / "image.jpg").write_bytes(b"x")
    old = time.time() - 2 * demo_data.ABANDONED_S
    for name in ("making-old", "demo-v1"):
        for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
            os.utime(path, (old, old))
    demo_data.remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"making-new", "demo-v1"}
