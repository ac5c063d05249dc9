"""What released files call the arrays of a vision transformer: torchvision, timm, DINOv2, and transformers' two.

`weights.load` asks for the names here; whatever else a family does to a file's names and arrays is here too.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stjax.models.weight_files import Stored

Layers = dict[str, str | tuple[str, ...]]

# Arrays of released files that only their training needs: masked tokens, projection heads, a pooled class token.
DROPPED = ("mask_token", "embeddings.mask_token", "dino_head.", "ibot_head.", "pooler.")
# Fully sharded training numbers blocks within chunks.
_CHUNK = re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.")


def weight_names(model: Any) -> dict[str, Layers]:
    """{source: {layer or array of stjax: that of the source, or several, one after the other along its outputs}}."""
    spec, found = model.spec, {}
    plain = spec.positions == "a" and not (spec.layer_scale or spec.gated or spec.registers)
    if plain:
        found["torchvision"] = _torchvision(spec.layers)
    found["timm"] = timm(spec)
    if spec.gated or spec.registers:  # else it is timm's
        found["DINOv2"] = _dinov2(spec)
    if plain:
        found["transformers' ViT"] = _transformers_vit(spec.layers)
    if spec.layer_scale:
        found["transformers' Dinov2"] = _transformers_dinov2(spec)
    return found


def unchunked(name: str) -> str:
    """A name without the chunk: `blocks.1.17.norm1.bias` is `blocks.17.norm1.bias`."""
    return _CHUNK.sub(r"\1blocks.\2.", name)


def folded(model: Any, names: Mapping[str, tuple[str, ...]], given: Mapping[str, Stored]) -> dict[str, Stored]:
    """The arrays of a file whose positions begin with the class token's where the model has none for it: added to it.

    Args:
        names: {path here: name in the file}.
        given: the file's arrays; positions [1, 1 + N, D].
    """
    (token,), (positions,) = names["token"], names["positions"]
    if model.spec.positions != "d" or token not in given or positions not in given:
        return dict(given)
    rows, expected = given[positions], len(model.positions)
    if len(rows.shape) != 3 or rows.shape[1] != 1 + expected or given[token].shape != (1, 1, rows.shape[2]):
        return dict(given)

    def added() -> np.ndarray:
        return given[token].read().astype(np.float32) + rows.read()[:, :1].astype(np.float32)

    return {
        **given,
        token: Stored(np.dtype(np.float32), given[token].shape, added),
        positions: Stored(rows.dtype, (1, expected, rows.shape[2]), lambda: rows.read()[:, 1:]),
    }


TIMM_BLOCK = {  # layers of a block: here, and timm's
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "gamma1": "ls1.gamma",
    "norm2": "norm2",
    "mlp1": "mlp.fc1",
    "mlp2": "mlp.fc2",
    "gamma2": "ls2.gamma",
}


def of_block(ours: str, theirs: str, parts: Mapping[str, str]) -> Layers:
    """The names of a block's layers, of the block `ours` here and `theirs` in a file."""
    return {f"{ours}.{here}": f"{theirs}.{there}" for here, there in parts.items()}


def _torchvision(layers: int) -> Layers:
    names: Layers = {"embed": "conv_proj", "token": "class_token", "norm": "encoder.ln"}
    names["positions"] = "encoder.pos_embedding"
    parts = {"norm1": "ln_1", "attention.qkv": "self_attention.in_proj", "attention.out": "self_attention.out_proj"}
    parts |= {"norm2": "ln_2", "mlp1": "mlp.0", "mlp2": "mlp.3"}
    for i in range(layers):
        names |= of_block(f"blocks.{i}", f"encoder.layers.encoder_layer_{i}", parts)
    return names


def timm(spec: Any) -> Layers:
    """timm's names, which those of larger models contain."""
    names: Layers = {"embed": "patch_embed.proj", "token": "cls_token", "positions": "pos_embed", "norm": "norm"}
    names["registers"] = "reg_token"
    for i in range(spec.layers):
        names |= of_block(f"blocks.{i}", f"blocks.{i}", TIMM_BLOCK)
    return names


def _dinov2(spec: Any) -> Layers:
    names = timm(spec) | {"registers": "register_tokens"}
    if spec.gated:
        for i in range(spec.layers):
            names |= {f"blocks.{i}.mlp1": f"blocks.{i}.mlp.w12", f"blocks.{i}.mlp2": f"blocks.{i}.mlp.w3"}
    return names


def _transformers(layers: int) -> Layers:
    names: Layers = {"embed": "embeddings.patch_embeddings.projection", "token": "embeddings.cls_token"}
    names |= {"positions": "embeddings.position_embeddings", "norm": "layernorm"}
    for i in range(layers):
        attention = f"encoder.layer.{i}.attention"
        names[f"blocks.{i}.attention.qkv"] = tuple(
            f"{attention}.attention.{part}" for part in ("query", "key", "value")
        )
        names[f"blocks.{i}.attention.out"] = f"{attention}.output.dense"
    return names


def _transformers_vit(layers: int) -> Layers:
    names = _transformers(layers)
    parts = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp1": "intermediate.dense",
        "mlp2": "output.dense",
    }
    for i in range(layers):
        names |= of_block(f"blocks.{i}", f"encoder.layer.{i}", parts)
    return names


def _transformers_dinov2(spec: Any) -> Layers:
    names = _transformers(spec.layers) | {"registers": "embeddings.register_tokens"}
    first, second = ("weights_in", "weights_out") if spec.gated else ("fc1", "fc2")
    parts = {"norm1": "norm1", "gamma1": "layer_scale1.lambda1", "mlp1": f"mlp.{first}"}
    parts |= {"norm2": "norm2", "gamma2": "layer_scale2.lambda1", "mlp2": f"mlp.{second}"}
    for i in range(spec.layers):
        names |= of_block(f"blocks.{i}", f"encoder.layer.{i}", parts)
    return names
