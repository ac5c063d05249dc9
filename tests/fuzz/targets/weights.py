"""Weights files, read into a dictionary of arrays, every number looked at."""

import shutil
from pathlib import Path

import h5py
import numpy as np

from stjax.models import weight_files
from tests.fuzz.targets import Facts, Target, facts
from tests.models import onnx_writer

DATA = Path(__file__).parents[2] / "models" / "data"


class _Weights(Target):
    name = ""

    def use(self, folder: Path) -> Facts:
        found = weight_files.read(folder / self.name)
        return facts({name: np.ascontiguousarray(array) for name, array in found.items()})


class Safetensors(_Weights):
    """.safetensors."""

    name = "weights.safetensors"

    def make(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        tensors = {
            "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
            "norm.bias": rng.normal(size=7).astype(np.float16),
            "empty": np.zeros((0, 3), np.float32),
            "steps": np.array(7, np.int64),
        }
        weight_files.write_safetensors(folder / self.name, tensors, metadata={"format": "pt"})


class PthZip(_Weights):
    """torch.save since 1.6."""

    name = "weights.pth"

    def make(self, folder: Path) -> None:
        shutil.copyfile(DATA / "zip.pth", folder / self.name)


class PthLegacy(_Weights):
    """torch.save before 1.6."""

    name = "weights.pth"

    def make(self, folder: Path) -> None:
        shutil.copyfile(DATA / "legacy.pth", folder / self.name)


class Checkpoint(_Weights):
    """Lightning's, with classes of its own."""

    name = "weights.pth"

    def make(self, folder: Path) -> None:
        shutil.copyfile(DATA / "lightning.ckpt", folder / self.name)


class Onnx(_Weights):
    """An ONNX model, some of its numbers in a file beside it."""

    name = "weights.onnx"

    def make(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        arrays = {
            "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
            "norm.bias": rng.normal(size=7).astype(np.float16),
            "steps": np.array(7, np.int64),
        }
        onnx_writer.model(folder / self.name, arrays, beside=frozenset({"norm.bias"}))


class Keras(_Weights):
    """Keras' .weights.h5."""

    name = "weights.h5"

    def make(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        with h5py.File(folder / self.name, "w") as file:
            file["block1/layers/conv2d/vars/0"] = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
            file["block1/layers/conv2d/vars/1"] = rng.normal(size=4).astype(np.float32)
            file["top/vars/0"] = rng.normal(size=(4, 2)).astype(np.float32)
