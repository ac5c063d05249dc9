"""A small vision transformer among the encoders, and features of a data set that it made."""

from pathlib import Path
from typing import Any

from flax import nnx

from data_prep.dataset import PatchDataset
from stjax import encoders, parallel
from stjax.inference import embedding
from stjax.models import encoder as networks
from stjax.models import weights

NAME = "small_vit"
NETWORK = {"width": 32, "layers": 2, "heads": 2, "patch_px": 8, "mlp": 64, "grid": 4, "rule": "R1"}
ENTRY = encoders.Encoder(
    "Small ViT",
    NETWORK,
    (encoders.TIMM,),
    ("small.safetensors",),
    "https://example.org",
    "CC-BY-NC-ND-4.0",
    None,
    px=32,
)


def write_weights(path: Path, *, seed: int) -> Path:
    """Random weights of the small encoder as a file."""
    weights.save(networks.build(NAME, rngs=nnx.Rngs(seed), image_size_px=ENTRY.px), path)
    return path


def embed(data: Path, name: str, file: Path | None, **given: Any) -> None:
    """Makes features of a data set with the small encoder."""
    options = embedding.Options(NAME, weights=file, **given)
    embedding.embed(PatchDataset.open(data), name, options, mesh=parallel.make_mesh())
