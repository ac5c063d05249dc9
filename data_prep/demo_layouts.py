"""Write synthetic sections as each real layout has them, so that the readers are exercised on what they will meet."""

import dataclasses
import gzip
import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse
from PIL import Image

from data_prep import h5_file
from data_prep.demo_tissue import Tissue
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
        tissue: the truth.
        rng: for what only a writer decides, such as the order of rows.
        array_xy: [S, 2] int (column, row) on the array; from 1 in legacy arrays, from 0 in hexagonal ones.
        grid_xy: [S, 2] the same with printing error.
        spot_xy: [S, 2] float64 spot centres in pixels.
        in_tissue: [S] bool.
        counts: [spots in tissue, G] int32.
        molecule_gene: [N] int16, for layouts of molecules.
        molecule_xy_um: [N, 2] float32.
    """

    patient: int
    section: int
    image: np.ndarray
    um_per_px: float
    genes: GeneTable
    tissue: Tissue
    rng: np.random.Generator
    array_xy: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2), int))
    grid_xy: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    spot_xy: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    in_tissue: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int32))
    molecule_gene: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int16))
    molecule_xy_um: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2), np.float32))

    @property
    def patient_letter(self) -> str:
        """A, B, ..., Z, AA, ..."""
        return letters(self.patient)

    @property
    def name(self) -> str:
        """A1, A2, B1, ..."""
        return section_name(self.patient, self.section)


def section_name(patient: int, section: int) -> str:
    """A1, A2, B1, ..."""
    return f"{letters(patient)}{section + 1}"


def letters(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA."""
    return (letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def save_jpeg(image: np.ndarray, path: Path) -> None:
    """A slide that says in its own metadata that it is synthetic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=92, subsampling=0, comment=NOTICE.encode())


def reduced(image: np.ndarray, max_side_px: int) -> tuple[np.ndarray, float]:
    """A small copy, uint8 [h, w, 3], and its pixels per full-resolution pixel."""
    scale = min(1.0, max_side_px / max(image.shape[:2]))
    small = Image.fromarray(image).resize((round(image.shape[1] * scale), round(image.shape[0] * scale)))
    return np.asarray(small), scale


def write_gzip(path: Path, text: str) -> None:
    """Gzipped text, the same bytes on every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))


def write_patients(root: Path, patients: dict[str, str]) -> None:
    """`patients.csv`, for layouts whose files do not say whose tissue it is."""
    rows = [f"{section},{patient}" for section, patient in patients.items()]
    (root / "patients.csv").write_text("\n".join(["section,patient", *rows]) + "\n")


def count_table(rows: list[str], columns: np.ndarray, counts: np.ndarray) -> str:
    """Tab-separated spots x genes; as legacy tables do, genes without a count in the section are left out."""
    seen = counts.sum(axis=0) > 0
    lines = ["\t".join([row, *map(str, values)]) for row, values in zip(rows, counts[:, seen].tolist(), strict=True)]
    return "\n".join(["\t".join(["", *columns[seen]]), *lines]) + "\n"


def selection_table(section: DemoSection) -> str:
    """The spots under tissue, their printed and their pixel positions."""
    rows = [
        f"{x}\t{y}\t{new_x:.3f}\t{new_y:.3f}\t{float(pixel_x)!r}\t{float(pixel_y)!r}\t1"
        for (x, y), (new_x, new_y), (pixel_x, pixel_y) in zip(
            section.array_xy, section.grid_xy, section.spot_xy, strict=True
        )
    ]
    return "\n".join(["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected", *rows]) + "\n"


def write_her2st(root: Path, section: DemoSection) -> str:
    """Gene-symbol columns; count and selection rows in orders of their own."""
    name = section.name
    save_jpeg(section.image, root / "ST-imgs" / section.patient_letter / name / f"synthetic_{name}.jpg")
    ids = [f"{x}x{y}" for x, y in section.array_xy]
    order = section.rng.permutation(len(ids))
    table = count_table([ids[row] for row in order], section.genes.symbol, section.counts[order])
    write_gzip(root / "ST-cnts" / f"{name}.tsv.gz", table)
    path = root / "ST-spotfiles" / f"{name}_selection.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(selection_table(section))
    return name


def write_stnet(root: Path, section: DemoSection) -> str:
    """Ensembl columns; image and spot file called BT for every other patient; the label file of the first only."""
    number, replicate = 90001 + section.patient, f"{letters(2 + section.section // 2)}{section.section % 2 + 1}"
    name, other = f"BC{number}_{replicate}", f"{'BT' if section.patient % 2 else 'BC'}{number}_{replicate}"
    save_jpeg(section.image, root / f"HE_{other}.jpg")
    ids = [f"{x}x{y}" for x, y in section.array_xy]
    order = section.rng.permutation(len(ids))
    table = count_table([ids[row] for row in order], section.genes.ensembl_id, section.counts[order])
    write_gzip(root / f"{name}_stdata.tsv.gz", table)
    rows = [f"{spot},{float(x)!r},{float(y)!r}" for spot, (x, y) in zip(ids, section.spot_xy, strict=True)]
    write_gzip(root / f"spots_{other}.csv.gz", "\n".join([",X,Y", *rows]) + "\n")
    if section.patient == section.section == 0:
        (root / f"{name}_Coords.tsv").write_text("xcoord\tycoord\tlab\ttumor\n")
    return name


def finish_stnet(root: Path, patients: dict[str, str]) -> None:
    """`metadata.csv`."""
    rows = [",".join(["synthetic", *name.split("_")]) for name in patients]
    (root / "metadata.csv").write_text("\n".join(["type,patient,replicate", *rows]) + "\n")


def write_cscc(root: Path, section: DemoSection) -> str:
    """Gene-symbol columns; counts of the array around the tissue too; GEO's numbers before the names."""
    name = f"P{section.patient + 1}_ST_rep{section.section + 1}"
    geo = f"GSM9{section.patient:03d}{section.section:03d}"
    save_jpeg(section.image, root / f"{geo}_{name}.jpg")
    order = section.rng.permutation(len(section.array_xy))
    around = {(x + 1, y) for x, y in section.array_xy.tolist()} - set(map(tuple, section.array_xy.tolist()))
    ids = [f"{x}x{y}" for x, y in [*section.array_xy[order].tolist(), *sorted(around)]]
    few = section.rng.poisson(0.1, (len(around), len(section.genes))).astype(np.int32)
    table = count_table(ids, section.genes.symbol, np.concatenate([section.counts[order], few]))
    write_gzip(root / f"{geo}_{name}_stdata.tsv.gz", table)
    write_gzip(root / f"{geo}_spot_data-selection-{name}.tsv.gz", selection_table(section))
    return name


def barcodes(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count] str: distinct barcodes such as AAACAACGAATAGTTC-1."""
    numbers = rng.choice(4**12, count, replace=False)
    digits = numbers[:, None] // 4 ** np.arange(12) % 4
    return np.array(["".join(row) + "ACGT-1" for row in np.array(list("ACGT"))[digits]])


def spot_table(section: DemoSection, name: str, ids: np.ndarray) -> anndata.AnnData:
    """Spots in tissue as scanpy keeps them: symbols, Ensembl ids, (x, y) in full-resolution pixels."""
    on = section.in_tissue
    obs = pd.DataFrame(
        {"in_tissue": 1, "array_row": section.array_xy[on, 1], "array_col": section.array_xy[on, 0]}, index=ids
    )
    var = pd.DataFrame({"gene_ids": section.genes.ensembl_id}, index=section.genes.symbol)
    table = anndata.AnnData(scipy.sparse.csr_matrix(section.counts.astype(np.float32)), obs=obs, var=var)
    table.obsm["spatial"] = section.spot_xy[on]
    table.uns["notice"] = NOTICE
    table.uns["spatial"] = {name: {"images": {}, "scalefactors": {"spot_diameter_fullres": 65.0 / section.um_per_px}}}
    return table


def write_anndata(root: Path, section: DemoSection) -> str:
    """One .h5ad per section with its slide next to it."""
    name = section.name
    save_jpeg(section.image, root / f"{name}.jpg")
    table = spot_table(section, name, barcodes(section.rng, int(section.in_tissue.sum())))
    table.obs["patient"] = section.patient_letter
    small, scale = reduced(section.image, 600)
    table.uns["spatial"][name]["images"]["lowres"] = small
    table.uns["spatial"][name]["scalefactors"]["tissue_lowres_scalef"] = scale
    h5_file.write_anndata(root / f"{name}.h5ad", table)
    return name


def write_hest(root: Path, section: DemoSection) -> str:
    """st, wsis, metadata and patches of one sample; spot names are zero padded, patches hold their corner."""
    name = f"DEMO{section.patient + 1}{letters(section.section)}"
    for folder in ("st", "wsis", "metadata", "patches"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(section.image).save(root / f"wsis/{name}.tif", compression="jpeg", quality=92, description=NOTICE)
    on = section.in_tissue
    ids = np.array([f"{x:03d}x{y:03d}" for x, y in section.array_xy[on]])
    table = spot_table(section, "ST", ids)
    small, scale = reduced(section.image, 1000)
    table.uns["spatial"]["ST"]["images"]["downscaled_fullres"] = small
    table.uns["spatial"]["ST"]["scalefactors"]["tissue_downscaled_fullres_scalef"] = scale
    h5_file.write_anndata(root / f"st/{name}.h5ad", table)
    metadata = {
        "id": name,
        "dataset_title": "stjax demo",
        "patient": f"Patient {section.patient + 1}",
        "st_technology": "Visium",
        "inter_spot_dist": 100.0,
        "spot_diameter": 55.0,
        "pixel_size_um_embedded": None,
        "pixel_size_um_estimated": section.um_per_px,
        "fullres_px_width": section.image.shape[1],
        "fullres_px_height": section.image.shape[0],
        "notice": NOTICE,
    }
    (root / f"metadata/{name}.json").write_text(json.dumps(metadata, indent=1) + "\n")
    side = round(112 / section.um_per_px)
    corner = np.round(section.spot_xy[on] - side / 2).astype(int)[:8]
    with h5_file.create(root / f"patches/{name}.h5") as file:
        patches = [section.image[y : y + side, x : x + side] for x, y in np.maximum(corner, 0)]
        file["img"] = np.stack([np.asarray(Image.fromarray(patch).resize((224, 224))) for patch in patches])
        file["coords"], file["barcode"] = corner, ids[:8, None].astype("S")
    return name


def write_bundle(root: Path, section: DemoSection) -> str:
    """Patches and counts of one sample as HEST-Benchmark has them: centres (y, x), and rows in orders of their own."""
    name = section.name
    for folder in ("st", "patches"):
        (root / folder).mkdir(exist_ok=True)
    ids = barcodes(section.rng, int(section.in_tissue.sum()))
    h5_file.write_anndata(root / f"st/{name}.h5ad", spot_table(section, "ST", ids))
    order, image = section.rng.permutation(len(ids)), Image.fromarray(section.image)
    side = round(112 / section.um_per_px)
    centre = np.round(section.spot_xy[section.in_tissue][order]).astype(np.int64)
    images = [
        image.resize((224, 224), box=(x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        for x, y in centre.tolist()
    ]
    with h5_file.create(root / f"patches/{name}.h5") as file:
        pixels = file.create_dataset(
            "img", data=np.stack([np.asarray(each) for each in images]), chunks=(1, 224, 224, 3)
        )
        pixels.attrs.update({"patch_size": side, "factor": 0.5 / section.um_per_px})
        file["coords"] = centre[:, ::-1]
        file.create_dataset("barcode", data=ids[order, None].astype(object), dtype=h5py.string_dtype())
    return name


def finish_bundle(root: Path, patients: dict[str, str]) -> None:
    """`ids.csv`."""
    rows = [f"{section},{patient}" for section, patient in patients.items()]
    (root / "ids.csv").write_text("\n".join(["sample_id,case_id", *rows]) + "\n")
