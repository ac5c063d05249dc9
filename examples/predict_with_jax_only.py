"""Runs a model that stjax exported, without stjax: pip install jax numpy flatbuffers (which jax.export itself needs).

usage: python predict_with_jax_only.py MODEL_FOLDER IMAGES.npy OUT.npy

IMAGES.npy: uint8 [N, H, W, 3] RGB patches, of the size, scale (um per px) and stain normalisation that config.json
says. OUT.npy: float32 [N, genes], in the order of genes.csv and the units that config.json says; of a model of tiles
[N, H / 4, W / 4, genes], a map, of which config.json says what to do with it.
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export


def read_safetensors(path):
    """All tensors of a file of float32 numbers: the header's length, the header as JSON, the numbers."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = {name: about for name, about in json.loads(data[8:start]).items() if name != "__metadata__"}
    ends = {name: [start + offset for offset in about["data_offsets"]] for name, about in header.items()}
    numbers = {name: np.frombuffer(data[first:last], np.float32) for name, (first, last) in ends.items()}
    return {name: array.reshape(header[name]["shape"]) for name, array in numbers.items()}


folder, images, out = Path(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3]
for name, sha256 in json.loads((folder / "manifest.json").read_text())["files"].items():
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
        sys.exit(f"{folder / name} is damaged; copy the folder again")
config = json.loads((folder / "config.json").read_text())
weights = jax.device_put(read_safetensors(folder / "weights.safetensors"))
function = jax.jit(export.deserialize(bytearray((folder / "model.stablehlo").read_bytes())).call)
size = config["batch_size"]
batches = [images[i : i + size] for i in range(0, len(images), size)]
np.save(out, np.concatenate([np.asarray(function(weights, batch)) for batch in batches]))
print(f"{out}: {len(images)} images, {config['output']['meaning']}, in {config['output']['units']}")
