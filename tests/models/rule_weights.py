"""Weights made by a rule from their names, so that a reference's outputs can be stored without its weights."""

import zlib
from pathlib import Path

import numpy as np

from stjax.models import weight_files, weights

# {name: (module, variant, image side)}: small images, but such that BatchNorm has something to average at the end.
MODELS = {
    **{f"efficientnet_b{i}": ("efficientnet", f"b{i}", 96) for i in range(6)},
    "resnet18": ("resnet", "18", 96),
    "resnet50": ("resnet", "50", 96),
    "resnet101": ("resnet", "101", 96),
    "inception_v3": ("inception", "v3", 107),
    "vit_b_16": ("vit", "b16", 64),
    "vit_b_32": ("vit", "b32", 64),
    "densenet121": ("densenet", "121", 96),
}
BATCH, OUTPUTS = 4, 10


def array(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The weights called `name` in torch."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if dtype.kind == "i":
        return np.zeros(shape, dtype)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(dtype)
    if len(shape) < 2 or "pos_embedding" in name or "class_token" in name:
        # A deep random network multiplies rounding errors a thousandfold, in torch as here: most ReLUs on keep it calm.
        shift = 2.0 if name.endswith("bias") and "encoder" not in name else 0.0
        return (shift + 0.1 * rng.standard_normal(shape)).astype(dtype)
    return (rng.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[1:]))).astype(dtype)


def tensors(backbone: object) -> weight_files.Tensors:
    """All weights of a backbone by the rule, under torchvision's names and in torch's shapes."""
    return {name: array(name, value.shape, value.dtype) for name, value in weights.tensors(backbone).items()}


def load(backbone: object, folder: Path) -> weight_files.Tensors:
    """Gives a backbone its weights by the rule; returns them."""
    made = tensors(backbone)
    weight_files.write_safetensors(folder / "rule.safetensors", made, metadata={})
    weights.load(backbone, folder / "rule.safetensors")
    return made


def images(side: int) -> np.ndarray:
    """[B, side, side, 3] float32, smooth enough to look like images."""
    coarse = np.random.default_rng(0).standard_normal((BATCH, side // 8 + 1, side // 8 + 1, 3))
    fine = np.random.default_rng(1).standard_normal((BATCH, side, side, 3))
    return (coarse.repeat(8, 1).repeat(8, 2)[:, :side, :side] + 0.5 * fine).astype(np.float32)


def wanted() -> np.ndarray:
    """[B, outputs] float32."""
    return np.random.default_rng(2).standard_normal((BATCH, OUTPUTS)).astype(np.float32)


def head(features: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight [outputs, D] and bias [outputs] of the linear head."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((OUTPUTS, features)) / np.sqrt(features)
    return weight.astype(np.float32), rng.standard_normal(OUTPUTS).astype(np.float32)
