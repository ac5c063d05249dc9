"""PyTorch's side of `stjax.bench`: the same models from torchvision, where both are installed."""

import argparse
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

_OPERATORS = ("nms", "qnms")  # that torchvision looks for as it is imported


@functools.cache
def import_torchvision() -> Any:
    """torchvision, or None where it or torch is not installed.

    Its wheel built for GPUs does not import with a torch without them: its own operators are then not loaded, which
    it looks for. It does once these have a name; classification models use neither. Where they are loaded a second
    definition would abort the process, so that the plain import is tried first.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None:
        return None
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what of it was imported before it failed
    torch = importlib.import_module("torch")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)  # the names live as long as it does
    return importlib.import_module("torchvision")


_kept: list[Any] = []


def version() -> str:
    """For the report's first line."""
    if import_torchvision() is None:
        return "; PyTorch and torchvision are not both installed: nothing to compare with"
    import torch

    return f", torch {torch.__version__} on {os.environ['OMP_NUM_THREADS']} threads"


def methods(
    name: str, given: argparse.Namespace, *, batch_size: int, train: bool, outputs: int, gpu: bool
) -> dict[str, Callable[[], None]]:
    """{"torch": one step, "torch.compile": the same compiled} of a torchvision model with a linear head, channels_last.

    Args:
        name: torchvision's.
        given: options of `stjax.bench`.
    """
    torchvision = import_torchvision()
    if torchvision is None:
        return {}
    import torch

    device = "cuda" if gpu else "cpu"
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    if name.startswith("vit"):
        options["image_size"] = given.image_size_px
    model = getattr(torchvision.models, name)(num_classes=outputs, **options).to(device)
    model = model.to(memory_format=torch.channels_last).train(train)
    images = torch.randn(batch_size, 3, given.image_size_px, given.image_size_px, device=device)
    images = images.to(memory_format=torch.channels_last)
    wanted = torch.randn(batch_size, outputs, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    half = torch.autocast(device, torch.bfloat16, enabled=given.dtype == "bfloat16")

    def method_of(network: Any) -> Callable[[], None]:
        def step() -> None:
            if train:
                optimizer.zero_grad(set_to_none=True)
                with half:
                    loss = ((network(images) - wanted) ** 2).mean()
                loss.backward()
                optimizer.step()
                loss.item()  # waits
            else:
                with torch.inference_mode(), half:
                    network(images).sum().item()

        return step

    found = {"torch": method_of(model)}
    if given.torch_compile:
        found["torch.compile"] = method_of(torch.compile(model))
    return found
