"""torchvision's models with weights by rule: what stjax's are compared with."""

import copy
from typing import Any

import numpy as np

from stjax.benchmarks import pytorch as bench_torch
from tests.models import rule_weights

_CLASSIFIERS = ("fc", "classifier", "heads")
_STAGES = {
    "efficientnet": [f"features.{i}" for i in range(9)],
    "resnet": [f"layer{i}" for i in range(1, 5)],
    "inception": ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"],
    "vit": [f"encoder.layers.encoder_layer_{i}" for i in range(12)],
    "densenet": [f"features.denseblock{i}" for i in range(1, 4)],
}


def build(name: str, tensors: dict[str, np.ndarray], features: int) -> Any:
    """torchvision's model, its weights set, its classifier one linear layer, no randomness even in training."""
    import torch

    module, _, side = rule_weights.MODELS[name]
    options = {"aux_logits": False, "init_weights": False} if module == "inception" else {}
    options |= {"image_size": side} if module == "vit" else {}
    model = getattr(bench_torch.import_torchvision().models, name)(**options)
    linear = torch.nn.Linear(features, rule_weights.OUTPUTS)
    with torch.no_grad():
        for parameter, value in zip((linear.weight, linear.bias), rule_weights.head(features), strict=True):
            parameter.copy_(torch.from_numpy(value))
    classifier = next(part for part in _CLASSIFIERS if hasattr(model, part))
    setattr(model, classifier, torch.nn.Identity())
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}, strict=True)
    setattr(model, classifier, linear)
    for part in model.modules():
        if type(part).__name__ in ("Dropout", "StochasticDepth"):
            part.p = 0.0
    return model


def run(name: str, model: Any, *, train: bool, precision: str = "float64") -> dict[str, Any]:
    """One pass, which leaves the model as it was.

    Returns:
        {"stages", "main"}, and in training {"gradients", "statistics"} by torch's names.
    """
    import torch

    model = copy.deepcopy(model).to(getattr(torch, precision))
    module, _, side = rule_weights.MODELS[name]
    stages = []
    parts = [model.get_submodule(part) for part in _STAGES[module]]
    hooks = [part.register_forward_hook(lambda *call: stages.append(call[2])) for part in parts]
    images = torch.from_numpy(rule_weights.images(side)).permute(0, 3, 1, 2).to(next(model.parameters()).dtype)
    model.train(train)
    if module == "densenet":
        hooks.append(
            model.features.register_forward_hook(lambda *call: stages.append(torch.nn.functional.relu(call[2])))
        )
    main = model(images)
    loss = ((main - torch.from_numpy(rule_weights.wanted()).to(main.dtype)) ** 2).mean()
    for hook in hooks:
        hook.remove()
    found = {"stages": [_nhwc(stage.detach()) for stage in stages], "main": main.detach().numpy()}
    if train:
        model.zero_grad()
        loss.backward()
        found["gradients"] = {key: value.grad.numpy() for key, value in model.named_parameters()}
        found["statistics"] = {key: value.numpy() for key, value in model.named_buffers() if "running" in key}
    return found


def _nhwc(stage: Any) -> np.ndarray:
    array = stage.numpy()
    if array.ndim == 3:  # tokens [B, 1 + N, D]
        side = round((array.shape[1] - 1) ** 0.5)
        return array[:, 1:].reshape(array.shape[0], side, side, -1)
    return array.transpose(0, 2, 3, 1)
