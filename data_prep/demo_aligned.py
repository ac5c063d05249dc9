"""What the demo's instruments share that take no H&E image themselves: one that is turned against their own images."""

from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.demo_layouts import NOTICE, DemoSection

_TURN = np.deg2rad(92.0)  # of the H&E image against the instrument's


def alignment(section: DemoSection, pixel_um: float) -> np.ndarray:
    """[3, 3]: from pixels of the slide to pixels of the instrument's images, as `*_he_imagealignment.csv` has it."""
    scale = section.um_per_px / pixel_um
    cos, sin = scale * np.cos(_TURN), scale * np.sin(_TURN)
    moved = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    corners = np.array([[0, 0, 1], [*section.image.shape[1::-1], 1], [0, section.image.shape[0], 1]])
    moved[:2, 2] = 100.0 - (corners @ moved.T)[:, :2].min(axis=0)
    return moved


def to_um(section: DemoSection, pixel_um: float) -> np.ndarray:
    """[2, 3]: from um of the slide to um of the instrument, counted from the corner of its images."""
    return pixel_um * alignment(section, pixel_um)[:2] @ np.diag([1 / section.um_per_px, 1 / section.um_per_px, 1.0])


def write_he(folder: Path, section: DemoSection, pixel_um: float) -> None:
    """The H&E image and its alignment."""
    write_matrix(folder / f"{section.name}_he_imagealignment.csv", alignment(section, pixel_um), ",")
    Image.fromarray(section.image).save(
        folder / f"{section.name}_he_image.tif", compression="jpeg", quality=92, description=NOTICE
    )


def write_matrix(path: Path, matrix: np.ndarray, mark: str) -> None:
    """Numbers, a line a row."""
    path.write_text("\n".join(mark.join(map(repr, row)) for row in matrix.tolist()) + "\n")


def write_parquet(path: Path, columns: dict[str, np.ndarray | list[bytes]]) -> None:
    """A table that says that it is synthetic."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns).replace_schema_metadata({"notice": NOTICE})
    pyarrow.parquet.write_table(table, path)
