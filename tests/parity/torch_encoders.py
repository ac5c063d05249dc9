"""PyTorch's twins of the encoders that are no plain vision transformers: timm's and torchvision's networks where there
are such, torch's own layers put together as the encoders' authors do elsewhere.

python -m tests.parity.torch_encoders     writes tests/models/data/encoders.npz (needs torch, timm and torchvision)
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stjax.benchmarks import pytorch as bench_torch
from stjax.models import efficientnet, segresnet
from tests.models import small_encoders

FOLDER = Path(__file__).parents[1] / "models" / "data"
Outputs = tuple[list[Any], Any]  # stages [B, h, w, C], and features [B, D]


def run(name: str, network: Any, tensors: dict[str, np.ndarray], precision: str) -> dict[str, Any]:
    """What the twin of our network makes of the images: {"stages", "features"}, of NumPy."""
    import torch

    dtype = getattr(torch, precision)
    given = {key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}
    images = torch.from_numpy(small_encoders.images(name)).to(dtype)
    twin = _TWINS[name.removesuffix("1").removesuffix("2")]
    with torch.no_grad():
        stages, features = twin(network, given, images)
    return {"stages": [stage.numpy() for stage in stages], "features": features.numpy()}


def swin_module(network: Any, side: int) -> Any:
    """timm's Swin transformer on CTransPath's stem, of the sizes of our network, for images of `side` px."""
    import timm
    import torch

    class Stem(torch.nn.Module):
        def __init__(self, width: int):
            super().__init__()
            steps: list[Any] = []
            for inputs, outputs in ((3, width // 8), (width // 8, width // 4)):
                steps += [torch.nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)]
                steps += [torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]
            self.proj = torch.nn.Sequential(*steps, torch.nn.Conv2d(width // 4, width, 1))
            self.norm = torch.nn.LayerNorm(width)

        def forward(self, x: Any) -> Any:
            return self.norm(self.proj(x).permute(0, 2, 3, 1))

    width = network.embed.kernel.shape[3]
    model = timm.models.swin_transformer.SwinTransformer(
        img_size=side,
        embed_dim=width,
        depths=tuple(len(blocks) for blocks in network.stages),
        num_heads=tuple(blocks[0].attention.heads for blocks in network.stages),
        norm_layer=torch.nn.LayerNorm,
        num_classes=0,
    )
    model.patch_embed = Stem(width)
    return model


def _swin(network: Any, tensors: dict[str, Any], images: Any) -> Outputs:
    model = swin_module(network, images.shape[1])
    later = {  # timm has it at the start of the next stage
        key.replace(f"layers.{s}.downsample", f"layers.{s + 1}.downsample"): value
        for key, value in tensors.items()
        for s in [int(key.split(".")[1]) if key.startswith("layers.") else 0]
    }
    missing, unexpected = model.to(images.dtype).load_state_dict(later, strict=False)
    assert not unexpected
    assert all(key.endswith(("relative_position_index", "attn_mask")) for key in missing)
    model.eval()
    x, stages = model.patch_embed(images.permute(0, 3, 1, 2)), []
    for layer in model.layers:
        x = layer(x)
        stages.append(x)
    return stages, model.norm(x).mean(dim=(1, 2))


def conch_module(network: Any, side: int) -> Any:
    """timm's transformer and the pooler, of the sizes of our network, by the names of its files."""
    import timm
    import torch

    spec, first = network.trunk.spec, network.version == "1"
    context, width = spec.width, network.num_features
    trunk = timm.models.vision_transformer.VisionTransformer(
        img_size=side,
        patch_size=spec.patch_px,
        embed_dim=context,
        depth=spec.layers,
        num_heads=spec.heads,
        mlp_ratio=spec.mlp / context,
        init_values=1.0 if spec.layer_scale else None,
        num_classes=0,
        global_pool="",
    )
    pool = torch.nn.Module()
    pool.query = torch.nn.Parameter(torch.zeros(1, width))
    pool.ln_q, pool.ln_k = torch.nn.LayerNorm(width), torch.nn.LayerNorm(context)
    if first:
        pool.attn = torch.nn.MultiheadAttention(width, 8, kdim=context, vdim=context, batch_first=True)
    else:
        pool.to_q = torch.nn.Linear(width, width, bias=False)
        pool.to_kv = torch.nn.Linear(context, 2 * width, bias=False)
        pool.to_out = torch.nn.Linear(width, width, bias=False)
    visual, whole = torch.nn.Module(), torch.nn.Module()
    visual.trunk, visual.attn_pool_contrast, visual.ln_contrast = trunk, pool, torch.nn.LayerNorm(width)
    whole.visual = visual
    return whole if first else visual


def _conch(network: Any, tensors: dict[str, Any], images: Any) -> Outputs:
    import torch

    first, side = network.version == "1", images.shape[1] // network.trunk.patch_px
    whole = conch_module(network, images.shape[1]).to(images.dtype).eval()
    whole.load_state_dict(tensors, strict=True)
    visual = whole.visual if first else whole
    trunk, pool = visual.trunk, visual.attn_pool_contrast
    stages: list[Any] = []
    for block in trunk.blocks:
        block.register_forward_hook(lambda *call: stages.append(call[2]))
    tokens = pool.ln_k(trunk.forward_features(images.permute(0, 3, 1, 2)))
    query = pool.ln_q(pool.query).expand(len(images), -1, -1)
    if first:
        pooled = pool.attn(query, tokens, tokens, need_weights=False)[0]
    else:
        parts = [pool.to_q(query), *pool.to_kv(tokens).chunk(2, dim=-1)]
        q, k, v = (part.unflatten(-1, (8, -1)).transpose(1, 2) for part in parts)
        pooled = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        pooled = pool.to_out(pooled)
    return [stage[:, 1:].unflatten(1, (side, side)) for stage in stages], visual.ln_contrast(pooled[:, 0])


def _segresnet(network: Any, tensors: dict[str, Any], images: Any) -> Outputs:
    import torch
    import torch.nn.functional as F  # noqa: N812 (as everyone calls it)

    white, stains = 240.0, torch.tensor([[0.05, 0.85, 0.52], [0.74, 0.59, 0.33]], dtype=torch.float64)
    stains = stains / stains.norm(dim=1, keepdim=True)
    density = -torch.log((images.double() * 255).clamp(1, white) / white)
    amounts = torch.linalg.lstsq(stains.T, density.reshape(-1, 3).T).solution.T.reshape(*density.shape[:3], 2)
    channels = torch.cat([amounts, density.mean(dim=-1, keepdim=True)], dim=-1)
    channels = (channels / torch.tensor([0.46, 2.4, 1.24], dtype=torch.float64)).clamp(0, 1)
    x, numbers, stages = channels.to(images.dtype).permute(0, 3, 1, 2), iter(segresnet._NORMS), []

    def norm(x: Any) -> Any:
        number = next(numbers)
        scale, bias = (tensors[f"val_{number + more}"].flatten() for more in (0, 2))
        return F.mish(F.group_norm(x, network.stages[0][0].norms[0].groups, scale, bias))

    for s, blocks in enumerate(network.stages):
        name = f"down_layers.{s}"
        x = F.conv2d(
            x,
            tensors[f"{name}.0.conv.weight" if s else "convInit.conv.weight"],
            stride=2 if s else 1,
            padding=1,
        )
        for b in range(len(blocks)):
            block = f"{name}.{b + 1}"
            y = F.conv2d(norm(x), tensors[f"{block}.conv1.conv.weight"], padding=1)
            x = x + F.conv2d(norm(y), tensors[f"{block}.conv2.conv.weight"], padding=1)
        stages.append(x.permute(0, 2, 3, 1))
    return stages, torch.cat([stage.mean(dim=(1, 2)) for stage in stages], dim=-1)


def _vgg(network: Any, tensors: dict[str, Any], images: Any) -> Outputs:
    import torch

    layers: list[Any] = []
    for stage in network.stages:
        layers += ["M"] if layers else []
        layers += [conv.kernel.shape[3] for conv in stage.convs]
    model = bench_torch.import_torchvision().models.vgg.make_layers(layers).to(images.dtype)
    for layer in model:
        layer.ceil_mode = True  # as Keras' padding "same"; counts for pooling alone
    convs = [layer for layer in model if isinstance(layer, torch.nn.Conv2d)]
    names = [
        f"block{s + 1}/layers/conv2d" + (f"_{i}" if i else "")
        for s, stage in enumerate(network.stages)
        for i in range(len(stage.convs))
    ]
    for conv, name in zip(convs, names, strict=True):
        conv.load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})
    x, stages = images.flip(-1).permute(0, 3, 1, 2), []  # BGR
    for layer in model:
        if isinstance(layer, torch.nn.MaxPool2d):
            stages.append(x)
        x = layer(x)
    return [stage.permute(0, 2, 3, 1) for stage in (*stages, x)], x.mean(dim=(2, 3))


def _lite(network: Any, tensors: dict[str, Any], images: Any) -> Outputs:
    import timm

    variant = "lite1" if network.stages[2][0].project.conv.kernel.shape[3] == 40 else "lite2"
    model = timm.create_model(f"tf_efficientnet_{variant}", num_classes=0).to(images.dtype)
    names = efficientnet.weight_names(network)
    timms = {theirs: names["timm"][ours] for ours, theirs in names["efficientnet_pytorch"].items()}
    renamed = {f"{timms[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in tensors.items()}
    model.load_state_dict(renamed, strict=True)
    model.eval()
    stages: list[Any] = []
    parts = [model.bn1, *model.blocks]
    for part in parts:
        part.register_forward_hook(lambda *call: stages.append(call[2]))
    last = model.forward_features(images.permute(0, 3, 1, 2))
    return [stage.permute(0, 2, 3, 1) for stage in (*stages, last)], last.mean(dim=(2, 3))


_TWINS: dict[str, Callable[..., Outputs]] = {
    "swin": _swin,
    "conch": _conch,
    "conch_v1_5": _conch,
    "segresnet": _segresnet,
    "vgg": _vgg,
    "efficientnet_lite": _lite,
}


def golden() -> None:
    """Features, and the mean size of each stage."""
    arrays = {}
    for name in small_encoders.NETWORKS:
        network, tensors = small_encoders.loaded(name, Path(tempfile.mkdtemp()))
        found = run(name, network, tensors, "float64")
        arrays[f"{name}/features"] = found["features"]
        arrays[f"{name}/stages"] = np.array([np.abs(stage).mean() for stage in found["stages"]])
        print(name)
    np.savez_compressed(FOLDER / "encoders.npz", **{key: value.astype(np.float32) for key, value in arrays.items()})


if __name__ == "__main__":
    golden()
