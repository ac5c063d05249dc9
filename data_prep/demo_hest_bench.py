"""A synthetic HEST-Benchmark: the folders, files, data types and attributes of the real one, and nobody's tissue.

Genes depend on two hidden fields of each sample, which also tint its patches, so that an encoder has something to find.

python -m data_prep.demo_hest_bench --out tiny_bench
"""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse

from data_prep import cli, files, h5_file, json_files, system_errors
from data_prep.errors import InputError
from data_prep.hest_bench import GENES
from data_prep.readers._sections import SYNTHETIC_MARK

_NOTE = "SYNTHETIC DATA in the form of HEST-Benchmark, by data_prep.demo_hest_bench: no score on it means anything.\n"
_SIDE_PX = 448  # of a patch at full resolution: 112 um
TASKS = {"TINY_VISIUM": ("TINY1", "TINY2", "TINY3"), "TINY_XENIUM": ("TINY4", "TINY5")}  # Xenium by its name


def write(
    root: Path, *, spots: int = 48, genes: int = 50, size_px: int = 224, corners: bool = False, seed: int = 0
) -> Path:
    """Writes two tasks, each sample of which is held out in turn.

    Args:
        spots: of a sample; of Xenium the patches are nine tenths of them, in another order.
        size_px: of the patches; 224 in the real one.
        corners: have HEST-1k's coordinates, in place of the benchmark's.

    Returns:
        The folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / SYNTHETIC_MARK).write_text(_NOTE)
    for task, samples in TASKS.items():
        rng = np.random.default_rng([seed, len(samples)])
        names = sorted(f"GENE{place:03d}" for place in range(genes))
        loadings = rng.normal(size=(2, genes))
        for folder in ("patches", "adata", "splits"):
            (root / task / folder).mkdir(parents=True, exist_ok=True)
        json_files.write(root / task / GENES, {"genes": names})
        for sample in samples:
            _write_sample(
                root / task, sample, names, loadings, rng, spots=spots, size_px=size_px, corners=corners
            )  # fmt: skip
        rows = pd.DataFrame({
            "sample_id": samples,
            "patches_path": [f"patches/{sample}.h5" for sample in samples],
            "expr_path": [f"adata/{sample}.h5ad" for sample in samples],
        })  # fmt: skip
        for place, sample in enumerate(samples):
            held = rows["sample_id"] == sample
            rows[~held].to_csv(root / task / "splits" / f"train_{place}.csv", index=False)
            rows[held].to_csv(root / task / "splits" / f"test_{place}.csv", index=False)
    return root


def _write_sample(
    folder: Path,
    name: str,
    genes: list[str],
    loadings: np.ndarray,
    rng: np.random.Generator,
    *,
    spots: int,
    size_px: int,
    corners: bool,
) -> None:
    xenium = folder.name.endswith("XENIUM")
    place = np.arange(spots)
    width = int(np.ceil(np.sqrt(spots)))
    grid = np.column_stack([place % width, place // width])  # column, row
    centre_xy = 600 + 400 * grid  # [S, 2]
    hidden = np.column_stack([np.sin(grid[:, 0] * 0.9 + rng.uniform(0, 6)), np.cos(grid[:, 1] * 0.7)])
    counts = rng.poisson(np.exp(1.0 + hidden @ loadings * 0.5 + rng.normal(0, 0.2, size=(spots, 1))))
    letters = np.array(list("ACGT"))[place[:, None] // 4 ** np.arange(8)[::-1] % 4]
    visium = [f"{''.join(row)}ACGTACGT-1" for row in letters]
    barcodes = [f"{column:03d}x{row:03d}" for column, row in grid] if xenium else visium
    obs = pd.DataFrame({
        "in_tissue": np.ones(spots, np.int64), "array_row": grid[:, 1], "array_col": grid[:, 0],
        "pxl_col_in_fullres": centre_xy[:, 0] * 1.0, "pxl_row_in_fullres": centre_xy[:, 1] * 1.0,
    }, index=pd.Index(barcodes))  # fmt: skip
    order = rng.permutation(len(genes) + 10)  # of the genes in the file, ten of which the task leaves out
    every = np.array([*genes, *(f"OTHER{place}" for place in range(10))])
    matrix = np.column_stack([counts, rng.poisson(1.0, size=(spots, 10))])[:, order]
    table = anndata.AnnData(
        scipy.sparse.csr_matrix(matrix.astype(np.uint16 if xenium else np.float32)),
        obs=obs,
        var=pd.DataFrame(index=every[order]),
        obsm={"spatial": centre_xy.astype(np.int64)},  # pyright: ignore[reportArgumentType]
    )
    h5_file.write_anndata(folder / "adata" / f"{name}.h5ad", table)
    kept = rng.permutation(spots)[: spots * 9 // 10] if xenium else place
    tint = np.column_stack([hidden, hidden.sum(axis=1)])[kept, None, None, :]  # [N, 1, 1, 3]
    noise = rng.normal(0, 12, size=(len(kept), size_px, size_px, 3)).astype(np.float32)
    images = np.clip(170 + 25 * tint.astype(np.float32) + noise, 0, 255).astype(np.uint8)
    coords = centre_xy[kept] - _SIDE_PX // 2 if corners else centre_xy[kept][:, ::-1]
    with h5_file.create(folder / "patches" / f"{name}.h5") as file:
        img = file.create_dataset("img", data=images, chunks=(1, size_px, size_px, 3))
        img.attrs.update({"patch_size": _SIDE_PX, "factor": _SIDE_PX / 224})
        file.create_dataset("coords", data=coords.astype(np.int64))
        file.create_dataset(
            "barcode", data=np.array(barcodes, dtype=object)[kept][:, None], dtype=h5py.string_dtype()
        )  # fmt: skip


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser("python -m data_prep.demo_hest_bench", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist or be empty")
    parser.add_argument("--spots", type=int, default=48, help="of a sample")
    given = parser.parse_args(arguments)
    system_errors.check_folder(given.out, "--out")
    if given.out.is_dir() and any(given.out.iterdir()):
        raise InputError(f"{given.out} is not empty; choose another --out")
    with files.whole(given.out) as made:
        write(made, spots=given.spots)
    print(given.out)


if __name__ == "__main__":
    cli.program(main)
