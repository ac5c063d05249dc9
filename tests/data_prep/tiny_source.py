"""A small her2st source, written by hand: what a build should make of it is known to the last count."""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 400
PITCH_PX = 40


def slide_pixels(seed: int) -> np.ndarray:
    """uint8 [400, 400, 3]: smooth purple tissue on the left three quarters, white glass on the right."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(90, 190, (10, 10, 3)).astype(np.uint8)
    image = np.array(Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
    image[:, SIDE_PX * 3 // 4 :] = 245
    return image


def write_source(root: Path, *, sections: tuple[str, ...] = ("A1", "A2", "B1"), seed: int = 0) -> Path:
    """A her2st folder: 8 x 8 spots a section, 40 px apart from (40, 40) on, 12 genes.

    Spot 1x1 has 3 counts. Each section lacks one gene's column; gene NEVER is zero throughout.
    """
    rng = np.random.default_rng(seed)
    for number, name in enumerate(sections):
        genes = [f"GENE{index}" for index in range(11) if index != number] + ["NEVER"]
        spots = [(x, y) for x in range(1, 9) for y in range(1, 9)]
        counts = rng.poisson(20, (len(spots), len(genes)))
        counts[:, -1] = 0
        counts[0] = 0
        counts[0, :3] = 1
        lines = ["\t".join(["", *genes])]
        order = rng.permutation(len(spots))
        lines += ["\t".join([f"{spots[i][0]}x{spots[i][1]}", *(str(c) for c in counts[i])]) for i in order]
        folder = root / "ST-cnts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
        rows = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
        rows += [f"{x}\t{y}\t{x}\t{y}\t{x * PITCH_PX}\t{y * PITCH_PX}\t1" for x, y in spots]
        (root / "ST-spotfiles").mkdir(exist_ok=True)
        (root / "ST-spotfiles" / f"{name}_selection.tsv").write_text("\n".join(rows) + "\n")
        images = root / "ST-imgs" / name[0] / name
        images.mkdir(parents=True)
        Image.fromarray(slide_pixels(seed + number)).save(images / "slide.png")
    return root
