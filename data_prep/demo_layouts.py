"""Write synthetic sections as each real layout has them, so that the readers are exercised on what they will meet."""

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.demo_tissue import Cells
from data_prep.section import GeneTable

NOTICE = "SYNTHETIC tissue by data_prep.demo; not a patient's"


@dataclasses.dataclass(frozen=True)
class DemoSection:
    """A synthetic section before it takes a layout.

    Attributes:
        patient, section: numbers, from 0.
        image: [H, W, 3] uint8.
        um_per_px: its scale.
        genes: [G] real gene names.
        cells: the truth.
        array_xy: [S, 2] int spot positions on the array, from 1.
        grid_xy: [S, 2] the same with printing error, in units of the pitch.
        spot_xy: [S, 2] float64 spot centres in pixels.
        counts: [S, G] int32.
        rng: for what only a writer decides, such as the order of rows.
    """

    patient: int
    section: int
    image: np.ndarray
    um_per_px: float
    genes: GeneTable
    cells: Cells
    array_xy: np.ndarray
    grid_xy: np.ndarray
    spot_xy: np.ndarray
    counts: np.ndarray
    rng: np.random.Generator


def letters(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA."""
    return (letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def save_jpeg(image: np.ndarray, path: Path) -> None:
    """A slide that says in its own metadata that it is synthetic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=92, subsampling=0, comment=NOTICE.encode())


def write_gzip(path: Path, text: str) -> None:
    """Gzipped text, the same bytes on every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))


def count_table(rows: list[str], columns: np.ndarray, counts: np.ndarray) -> str:
    """Tab-separated spots x genes; as legacy tables do, genes without a count in the section are left out."""
    seen = counts.sum(axis=0) > 0
    lines = ["\t".join([row, *map(str, values)]) for row, values in zip(rows, counts[:, seen].tolist(), strict=True)]
    return "\n".join(["\t".join(["", *columns[seen]]), *lines]) + "\n"


def write_her2st(root: Path, section: DemoSection) -> str:
    """Gene-symbol columns; count and selection rows in orders of their own."""
    patient = letters(section.patient)
    name = f"{patient}{section.section + 1}"
    save_jpeg(section.image, root / "ST-imgs" / patient / name / f"synthetic_{name}.jpg")
    ids = [f"{x}x{y}" for x, y in section.array_xy]
    order = section.rng.permutation(len(ids))
    table = count_table([ids[row] for row in order], section.genes.symbol, section.counts[order])
    write_gzip(root / "ST-cnts" / f"{name}.tsv.gz", table)
    rows = [
        f"{x}\t{y}\t{new_x:.3f}\t{new_y:.3f}\t{float(pixel_x)!r}\t{float(pixel_y)!r}\t1"
        for (x, y), (new_x, new_y), (pixel_x, pixel_y) in zip(
            section.array_xy, section.grid_xy, section.spot_xy, strict=True
        )
    ]
    path = root / "ST-spotfiles" / f"{name}_selection.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected", *rows]) + "\n")
    return name


WRITERS: dict[str, Callable[[Path, DemoSection], str]] = {"her2st": write_her2st}
