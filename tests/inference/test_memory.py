"""Peak memory does not grow with the slide: the command line on slides of 1,000 and 20,000 px a side, no pyramids."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

TILE_PX = 512


@pytest.fixture
def tifffile():
    return pytest.importorskip("tifffile", reason="the extra wsi is not installed")


def write_slide(tifffile, path, side):
    """A tiled slide of tissue, 0.7 um per px, written tile by tile, without smaller levels."""
    rows, columns = np.mgrid[:TILE_PX, :TILE_PX]
    tissue = np.stack([190 + 30 * np.sin(columns / 20), 110 + 30 * np.cos(rows / 30), 165 + columns / 20], axis=2)
    tile = tissue.astype(np.uint8)
    count = (-(-side // TILE_PX)) ** 2
    tifffile.imwrite(
        path, (tile for _ in range(count)), shape=(side, side, 3), dtype=np.uint8, photometric="rgb",
        tile=(TILE_PX, TILE_PX), compression="zlib", resolution=(1e4 / 0.7, 1e4 / 0.7), resolutionunit="CENTIMETER",
    )  # fmt: skip


def peak_mb(*arguments, environment):
    """Of a process that runs them."""
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024); sys.exit(done.returncode)"
    )
    command = [sys.executable, "-c", code, sys.executable, *map(str, arguments)]
    return int(subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("pitches_um", [(200, 200), (50, 1_400)], ids=["same pitch", "as many spots"])
def test_a_slide_of_twenty_thousand_px_takes_the_memory_of_one_of_a_thousand(
    trained, cache, tmp_path, tifffile, pitches_um
):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"STJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    peaks = {}
    for side, pitch_um in zip((1_000, 20_000), pitches_um, strict=True):
        write_slide(tifffile, tmp_path / f"{side}.tif", side)
        peaks[side] = peak_mb(
            "-m", "stjax.predict", f"--workdir={trained[0]}", f"--source={tmp_path / f'{side}.tif'}",
            f"--out={tmp_path / 'out'}", f"--pitch-um={pitch_um}", environment=environment,
        )  # fmt: skip
    print(pitches_um, peaks)
    assert peaks[20_000] < 1.2 * peaks[1_000]
