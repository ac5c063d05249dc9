"""Spot pooling against PyTorch done naively: `interpolate`, then a sum over a boolean mask."""

import numpy as np
import pytest

from data_prep.spots import Spots
from stjax.ops import spot_pool as ops
from stjax.ops import spot_table as tables
from stjax.ops.spot_weights import spot_masks

torch = pytest.importorskip("torch", reason="the oracle of this parity test")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

IMAGE, GRID = (64, 56), (16, 14)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_pool_equals_torch_interpolate_and_boolean_mask(dtype, tolerance):
    rng = np.random.default_rng(0)
    parts = [
        Spots.discs(rng.uniform(-4, 66, (12, 2)), rng.uniform(0, 20, 12)),
        Spots.discs([[7, 9], [7.5, 9.5], [300, 0]], [0, 0.4, 5]),
        Spots.squares(rng.uniform(-4, 66, (6, 2)), rng.uniform(0, 15, 6)),
        Spots.polygons([[[[3, 3], [50, 5], [30, 60], [5, 40.5]], [[12, 12], [25, 12], [25, 30], [12, 30]]]]),
    ]
    spots = Spots.concatenate(parts).within((-0.5, -0.5), 1.0)  # whole coordinates become centres of pixels
    masks = spot_masks(spots, IMAGE)
    features, gradient = (
        rng.standard_normal((*GRID, 5)).astype(dtype),
        rng.standard_normal((len(spots), 5)).astype(dtype),
    )

    theirs = torch.tensor(features.transpose(2, 0, 1)[None], requires_grad=True)  # [1, C, h, w]
    dense = torch.nn.functional.interpolate(theirs, size=IMAGE, mode="bilinear", align_corners=False)[0]
    sums = torch.stack([dense[:, torch.tensor(mask)].sum(dim=1) for mask in masks])
    sums.backward(torch.tensor(gradient))

    with jax.enable_x64(dtype == "float64"):
        table = tables.spot_table(spots, image_hw=IMAGE, grid_hw=GRID, outside="zero", dtype=dtype)
        ours, vjp = jax.vjp(lambda x: ops.spot_pool(x, table), jnp.asarray(features))
        change = vjp(jnp.asarray(gradient))[0]
    for found, expected in ((ours, sums.detach()), (change, theirs.grad[0].permute(1, 2, 0))):
        scale = float(expected.abs().max())
        assert str(found.dtype) == dtype
        assert float(np.abs(np.asarray(found) - expected.numpy()).max()) <= tolerance * scale
