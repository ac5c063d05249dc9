import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax import losses, models
from stjax.models import pixnet
from stjax.models.pixnet import PixNet, Upsample
from stjax.ops.spot_pool import spot_pool_reference
from stjax.ops.spot_table import spot_table, stack_tables
from stjax.ops.spot_weights import spot_masks

SIDE, GENES = 64, 5
SPOTS = Spots.discs([[20.5, 30.5], [46, 12.7], [63.5, 63.5]], [14, 3, 9])


def table(batch=2, spots=SPOTS):
    one = spot_table(spots, image_hw=(SIDE, SIDE), grid_hw=(SIDE // 4, SIDE // 4))
    return stack_tables([one] * batch)


def images(batch=2):
    return jax.random.normal(jax.random.key(1), (batch, SIDE, SIDE, 3))


def make(aggregation, **options):
    return pixnet.build(
        "efficientnet_tiny", num_main=GENES, width=16, aggregation=aggregation, rngs=nnx.Rngs(0), **options
    )


def predict(model, spots=SPOTS, x=None, **options):
    """The outputs for two tiles with the same spots, and the map they come from."""
    graphdef, params, statistics = models.split(model)

    @jax.jit
    def program(params, statistics, x, table):
        model = nnx.merge(graphdef, params, statistics)
        return model(x, table, train=False, key=None, **options), model.gene_map(x)

    return program(params, statistics, images() if x is None else x, table(2, spots))


@pytest.mark.parametrize("aggregation", ["sum", "mean", "additive"])
def test_spots_are_aggregates_of_the_resized_map(aggregation):
    outputs, maps = predict(make(aggregation))
    found = outputs["rates" if aggregation == "additive" else "main"]
    masks = jnp.asarray(spot_masks(SPOTS, (SIDE, SIDE)))
    how = "mean" if aggregation == "mean" else "sum"
    expected = jax.vmap(lambda m: spot_pool_reference(m, masks, aggregation=how))(maps)
    assert found.shape == (2, 3, GENES + (aggregation == "additive"))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))


def test_rates_of_bins_add_up_to_those_of_the_bins_they_make_up():
    model = make("additive")
    centres = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2)
    fine = Spots.squares(centres * 8 + 4, 8)
    coarse = Spots.squares(centres[(centres % 2 == 0).all(axis=1)] * 8 + 8, 16)
    of_fine, of_coarse = (predict(model, spots)[0]["rates"][0] for spots in (fine, coarse))
    assert float(of_fine.min()) > 0
    grouped = of_fine.reshape(4, 2, 4, 2, -1).sum(axis=(1, 3)).reshape(16, -1)
    np.testing.assert_allclose(grouped, of_coarse, rtol=1e-5)


def test_additive_head_starts_near_the_base_rates():
    base = np.array([0.2, 1e-4, 3.0, 0.01, 0.5, 2.0])
    model = make("additive", base_rates=base)
    model.head.linear.kernel[...] = jnp.zeros((16, GENES + 1))
    model.head.linear.bias[...] = jnp.zeros(GENES + 1)
    rates = predict(model)[0]["rates"][0]
    np.testing.assert_allclose(rates, table(1).count[0][:, None] * base[None, :], rtol=1e-5)
    with pytest.raises(InputError, match="6 positive numbers"):
        make("additive", base_rates=base[1:])


def test_pixels_per_spot_scales_the_sum():
    whole, scaled = (predict(make("sum", pixels_per_spot=pixels)) for pixels in (1.0, 50.0))
    np.testing.assert_allclose(whole[0]["main"], scaled[0]["main"] * 50, rtol=1e-4)
    np.testing.assert_allclose(whole[1], scaled[1] * 50, rtol=1e-4)


def test_features_turned_back_give_the_spots_of_the_tile_as_it_is():
    """Pooling after the inverse symmetry is pooling mirrored spots on the mirrored tile."""
    model = make("mean")
    mirrored = Spots.discs(SPOTS.xy * [-1, 1] + [SIDE, 0], SPOTS.size_px)
    undone, _ = predict(model, undo=lambda f: jnp.flip(f, axis=2))
    direct, _ = predict(model, mirrored)
    np.testing.assert_allclose(undone["main"], direct["main"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["sum", "additive"])
def test_training_gradients_are_finite_and_reach_every_parameter(aggregation):
    graphdef, params, statistics = models.split(make(aggregation))
    key = jax.random.key(3)
    counts = jax.random.poisson(key, 3.0, (2, 3, GENES)).astype(jnp.float32)
    mask = jnp.asarray([[1.0, 1, 0], [1, 1, 1]])

    def loss_of(params):
        model = nnx.merge(graphdef, params, statistics, copy=True)
        outputs = model(images(), table(), train=True, key=key)
        if aggregation == "additive":
            return losses.additive_nll(outputs, counts, counts.sum(-1, keepdims=True) + 9, mask)[0]
        return losses.mse_pcc(outputs, {"main": counts}, mask)[0]

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(params)
    assert np.isfinite(loss)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.all(jnp.isfinite(leaf))), path
        if "backbone" not in str(path):
            assert bool(jnp.any(leaf != 0)), path

    name = "rates" if aggregation == "additive" else "main"

    def frozen(params):
        model = nnx.merge(graphdef, params, statistics, copy=True)
        return jnp.sum(model(images(), table(), train=True, key=key, frozen_backbone=True)[name] ** 2)

    of_backbone = nnx.to_pure_dict(jax.jit(jax.grad(frozen))(params))["backbone"]
    assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(of_backbone))


@pytest.mark.parametrize(
    ("variant", "strides", "channels"),
    [
        ("resnet18", (4, 8, 16, 32), (64, 128, 256, 512)),
        ("efficientnet_b0", (4, 8, 16, 32), (24, 40, 112, 1280)),
        ("densenet121", (4, 8, 16, 32), (256, 512, 1024, 1024)),
        ("vit_b16", (4, 8, 16, 32), (192, 384, 768, 768)),
    ],
)
def test_every_encoder_makes_a_pyramid_and_a_map_at_stride_4(variant, strides, channels):
    def build():
        model = pixnet.build(variant, num_main=GENES, width=8, rngs=nnx.Rngs(0), image_size_px=SIDE)
        found = [stage.project.kernel.shape[2] for stage in model.stages]
        assert model.strides == strides
        assert (*reversed(found), model.bottom.kernel.shape[2]) == channels
        return model.gene_map(jnp.zeros((1, SIDE, 2 * SIDE, 3)))

    assert jax.eval_shape(build).shape == (1, SIDE // 4, SIDE // 2, GENES)


def test_parameters_of_the_papers_network():
    def build():
        return nnx.state(pixnet.build("resnet18", num_main=250, rngs=nnx.Rngs(0)), nnx.Param)

    def conv(size, inputs, outputs):
        return size * size * inputs * outputs + outputs

    stage = 4 * 512 * 512 + 512 + 1 + 2 * 512 + 2 * conv(3, 512, 512)
    decoder = conv(1, 512, 512) + 3 * stage + sum(conv(1, skip, 512) for skip in (64, 128, 256))
    expected = 11176512 + decoder + 512 * 250 + 250  # torchvision's ResNet18 less its classifier
    assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(build))) == expected


def test_upsample_puts_each_tap_in_its_quarter():
    layer = Upsample(3, 4, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(4.0)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    taps = jnp.einsum("bhwi,ipqo->bhwpqo", x, layer.kernel[...]) + jnp.arange(4.0)[None, None, None, None, None]
    y = layer(x)
    for p in range(2):
        for q in range(2):
            np.testing.assert_allclose(y[:, p::2, q::2], taps[:, :, :, p, q], rtol=1e-4, atol=1e-5)


def test_half_precision_encoder_and_decoder_give_float32_genes():
    (found, _), (expected, _) = (predict(make("mean", dtype=dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    assert found["main"].dtype == jnp.float32
    error = float(jnp.abs(found["main"] - expected["main"]).max())
    assert 0 < error < 0.1 * float(jnp.abs(expected["main"]).max())


def test_what_does_not_fit_is_refused():
    model = make("sum")
    with pytest.raises(InputError, match=r"60 x 60 px, expected multiples of 8"):
        model(jnp.zeros((1, 60, 60, 3)), table(1), train=False, key=None)
    with pytest.raises(InputError, match=r"'b7'.*resnet18"):
        pixnet.build("b7", num_main=1, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="choose sum, mean, additive"):
        pixnet.build("resnet18", num_main=1, aggregation="max", rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="positive numbers"):
        pixnet.build("resnet18", num_main=1, pixels_per_spot=0, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"needs features of 1/4, 1/8"):
        jax.eval_shape(lambda: PixNet(Stub(), None, width=4, dtype=jnp.float32, rngs=nnx.Rngs(0)).bottom.kernel[...])


class Stub(nnx.Module):
    """A backbone whose features do not halve the image's side."""

    def __call__(self, x, *, train, key):
        del train, key
        return {"stages": (x[:, ::3, ::3],)}
