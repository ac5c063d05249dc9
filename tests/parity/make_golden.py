"""Writes tests/models/data: what torchvision computes from weights by rule, and small files as torch.save writes them.

python -m tests.parity.make_golden     (needs torch and torchvision, see test_torchvision.py)
"""

import importlib
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
from flax import nnx

from stjax import encoders
from tests.models import rule_weights, small_vits
from tests.parity import torch_models, vit_models

FOLDER = Path(__file__).parents[1] / "models" / "data"


def golden() -> None:
    """Head outputs, mean size of each stage, in evaluation and training; size of every gradient and statistic."""
    arrays = {}
    for name, (module, variant, side) in rule_weights.MODELS.items():
        build = importlib.import_module(f"stjax.models.{module}").build
        backbone = build(variant, rngs=nnx.Rngs(0), image_size_px=side)
        tensors = rule_weights.load(backbone, Path(tempfile.mkdtemp()))
        twin = torch_models.build(name, tensors, backbone.num_features)
        evaluated = torch_models.run(name, twin, train=False)
        trained = torch_models.run(name, twin, train=True)
        for mode, found in (("evaluation", evaluated), ("training", trained)):
            arrays[f"{name}/{mode}/main"] = found["main"]
            arrays[f"{name}/{mode}/stages"] = np.array([np.abs(stage).mean() for stage in found["stages"]])
        for what in ("gradients", "statistics"):
            kept = {key: value for key, value in sorted(trained[what].items()) if key in tensors}
            arrays[f"{name}/training/{what}"] = np.array([np.linalg.norm(value) for value in kept.values()])
        print(name)
    np.savez_compressed(FOLDER / "golden.npz", **{key: value.astype(np.float32) for key, value in arrays.items()})


def torch_files() -> None:
    """A state dict with views, kinds of numbers and a parameter, in both formats of torch.save."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "conv.weight": torch.nn.Parameter(base.t()),  # not contiguous
        "part.weight": base[1:3, 2:],  # shares its storage, begins inside
        "half.weight": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "brain.weight": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "norm.num_batches_tracked": torch.tensor(7),
    }
    torch.save(state, FOLDER / "zip.pth")
    torch.save({"state_dict": state, "epoch": 3}, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)


def lightning_file() -> None:
    """A checkpoint as Lightning writes it: a state dict, and an optimiser, callbacks and settings of classes' own."""
    trainer = types.ModuleType("pytorch_lightning_stand_in")
    sys.modules[trainer.__name__] = trainer

    def foreign(name: str, base: type = object) -> type:
        made = type(name, (base,), {"__module__": trainer.__name__})
        setattr(trainer, name, made)
        return made

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.ones(1, 3, 5, 5)).sum().backward()
    optimiser.step()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + number)
    settings = foreign("AttributeDict", dict)(depth=18, path=Path("data"), means=np.ones(3), kinds={"a", "b"})
    settings.extra = 1  # pyright: ignore[reportAttributeAccessIssue]
    content = {
        "epoch": 3,
        "state_dict": {f"model.{name}": tensor for name, tensor in network.state_dict().items()},
        "optimizer_states": [optimiser.state_dict()],
        "callbacks": {foreign("ModelCheckpoint"): {"best": torch.tensor(0.5), "dtype": torch.float32}, (1, 2): None},
        "hyper_parameters": settings,
        "loops": foreign("Loop")(),
    }
    torch.save(content, FOLDER / "lightning.ckpt")


def published_vits() -> None:
    """What a shrunken copy of each published vision transformer makes of an image, in float64."""
    found = {}
    for name, entry in encoders.ENCODERS.items():
        if entry.module != "vit":
            continue
        family = entry.families[0]
        twin = vit_models.build(name, family, small=True)
        with torch.no_grad():
            published = vit_models.published(twin, family)
        shapes = {key: tuple(tensor.shape) for key, tensor in published.items()}
        vit_models.fill(twin, {key: small_vits.array(key, shape) for key, shape in shapes.items()}, family)
        images = small_vits.images(small_vits.native_px(entry), 1)
        tokens = vit_models.run(twin, images, family, precision="float64")
        first = 1 + entry.network.get("registers", 0)
        pooled = [tokens[:, 0]] + ([tokens[:, first:].mean(1)] if entry.pooling == "class+mean" else [])
        found[name] = np.concatenate(pooled, axis=1).astype(np.float32)
    np.savez_compressed(FOLDER / "vits.npz", **found)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    torch_files()
    lightning_file()
    published_vits()
    golden()
