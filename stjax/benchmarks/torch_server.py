"""PyTorch's side of `stjax.bench --what=embed`, in an interpreter of its own that has torch, timm and torchvision.

Each line of the input is answered by one of the output: "MODEL BATCH" once the network is built, "" after a batch.
Nothing of stjax is imported.
"""

import importlib
import os
import sys
from typing import Any


def serve() -> None:
    """Builds networks and runs batches as it is told."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run: Any = None
    for line in sys.stdin:
        if words := line.split():
            run = _embedding(torch, words[0], int(words[1]))
        run()
        print(f"torch {torch.__version__}", flush=True)


def _embedding(torch: Any, name: str, batch_size: int) -> Any:
    """A function that embeds a batch of uint8 images with random weights: normalised, run, pooled."""
    if name.startswith("resnet"):
        network = getattr(importlib.import_module("torchvision").models, name)()
        network.fc = torch.nn.Identity()
        network = network.to(memory_format=torch.channels_last)
    else:
        network = importlib.import_module("timm").create_model(name, num_classes=0)
    network = network.eval()
    images = torch.randint(0, 256, (batch_size, 224, 224, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def run() -> None:
        with torch.inference_mode():
            x = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)  # in memory as channels_last
            network(x if name.startswith("resnet") else x.contiguous()).sum().item()

    return run


if __name__ == "__main__":
    serve()
