"""What is fuzzed: one class for each kind of input, found by its name. Importing this imports none of them."""

import dataclasses
import hashlib
import importlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tests.fuzz import damage

# {name: module and class}
TARGETS = {
    "weights_safetensors": "weights:Safetensors",
    "weights_pth_zip": "weights:PthZip",
    "weights_pth_legacy": "weights:PthLegacy",
    "weights_ckpt": "weights:Checkpoint",
    "feature_files": "features:FeatureFiles",
    "feature_files_structure": "features:FeatureFilesStructure",
    "features": "features:Stored",
    "features_resealed": "features:Resealed",
    "weights_onnx": "weights:Onnx",
    "weights_keras": "weights:Keras",
    "slide_jpeg": "slides:Jpeg",
    "slide_jpeg_cmyk": "slides:JpegBaseline",
    "slide_png": "slides:Png",
    "slide_png_palette": "slides:PngPalette",
    "slide_tiff_tiles": "slides:TiffTiles",
    "slide_tiff_strips": "slides:TiffStrips",
    "slide_tiff_pyramid": "slides:TiffPyramid",
    "slide_tiff_ome": "slides:TiffOme",
    "slide_tiff_jpeg": "slides:TiffJpeg",
    "slide_tiff_lzw": "slides:TiffLzw",
    "slide_ome_zarr": "slides:OmeZarr",
    "slide_svs": "slides:Svs",
    "slide_svs_jpeg2000": "slides:SvsJpeg2000",
    "slide_tiff_tiles_base": "slides:TiffTilesPillow",
    "slide_tiff_strips_base": "slides:TiffStripsPillow",
    "slide_tiff_jpeg_base": "slides:TiffJpegPillow",
    "her2st": "layouts:Her2st",
    "stnet": "layouts:Stnet",
    "cscc": "layouts:Cscc",
    "visium_h5": "layouts:VisiumH5",
    "visium_mtx": "layouts:VisiumMtx",
    "visium_hd": "layouts:VisiumHd",
    "visium_hd_cells": "layouts:VisiumHdCells",
    "visium_hd_nuclei": "layouts:VisiumHdNuclei",
    "xenium": "layouts:Xenium",
    "xenium_pooled": "layouts:XeniumPooled",
    "merscope": "layouts:Merscope",
    "merscope_pooled": "layouts:MerscopePooled",
    "hest": "layouts:Hest",
    "anndata": "layouts:Anndata",
    "spatialdata": "layouts:SpatialData",
    "bundle": "layouts:Bundle",
    "visium_h5_structure": "layouts:VisiumH5Structure",
    "visium_hd_structure": "layouts:VisiumHdStructure",
    "hest_structure": "layouts:HestStructure",
    "anndata_structure": "layouts:AnndataStructure",
    "patients": "layouts:Patients",
    "gene_table": "layouts:GeneTable",
    "dataset": "dataset:Dataset",
    "dataset_resealed": "dataset:Resealed",
    "dataset_unverified": "dataset:Unverified",
    "work_directory": "models:WorkDirectory",
    "work_directory_resealed": "models:WorkDirectoryResealed",
    "checkpoint": "models:Checkpoint",
    "checkpoint_resealed": "models:CheckpointResealed",
    "exported_model": "models:ExportedModel",
    "exported_model_resealed": "models:ExportedModelResealed",
    "report_inputs": "results:ReportInputs",
    "prediction_records": "results:PredictionRecords",
    "dense_map": "maps:DenseMaps",
    "dense_map_unfinished": "maps:Unfinished",
}

Facts = dict[str, str]


class Target:
    """A kind of input.

    Attributes:
        only: patterns of the files that are damaged, each as likely as the others.
        sealed: a damaged input that is accepted and says something else is a finding: hashes vouch for it.
    """

    only: ClassVar[Sequence[str]] = ("*",)
    sealed: ClassVar[bool] = False

    def make(self, folder: Path) -> None:
        """Writes a small sound input to an empty folder; always the same."""
        raise NotImplementedError

    def damage(self, folder: Path, rng: random.Random) -> str:
        """Damages a copy of the input, and says in a few words how."""
        return damage.damage_folder(folder, rng, only=self.only)

    def use(self, folder: Path) -> Facts:
        """Reads the input all the way, as the commands do, through public functions. Returns what was read, in short.

        Raises:
            InputError: it is refused. Whatever else is raised is a finding.
        """
        raise NotImplementedError


def load(name: str) -> Target:
    """The target of a name; its module is imported."""
    module, _, kind = TARGETS[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), kind)()


def short(value: Any) -> str:
    """A text that is the same for equal values, and short: numbers as they are, anything large by its hash."""
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        content = repr(data.tolist()).encode() if data.dtype.hasobject else data.tobytes()
        return f"{value.dtype}{list(value.shape)} {hashlib.sha256(content).hexdigest()[:12]}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: short(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "tocsr"):
        matrix = value.tocsr()
        return f"{matrix.shape} {short(matrix.data)} {short(matrix.indices)} {short(matrix.indptr)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:20]}... {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def facts(values: Mapping[str, Any], prefix: str = "") -> Facts:
    """What was read, each under its name."""
    return {f"{prefix}{name}": short(value) for name, value in values.items()}
