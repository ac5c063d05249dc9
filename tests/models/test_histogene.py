"""HisToGene against NumPy, its size, what it sees of patches, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_prep.errors import InputError
from stjax import models
from stjax.models import histogene
from tests.models import in_numpy
from tests.models import section_batches as sections


def reference(p, spec, tokens, grid):
    """[N, inputs] at places [N, 2] to genes."""
    x = in_numpy.linear(tokens, p, "embed") + p["columns"][grid[:, 0]] + p["rows"][grid[:, 1]]
    for number in range(spec.layers):
        x = in_numpy.block(x, p, f"blocks.{number}", heads=spec.heads)
    return in_numpy.linear(in_numpy.norm(x, p, "norm", 1e-5), p, "main")


@pytest.mark.parametrize("crop_px", [0, 30])
@pytest.mark.parametrize("variant", ["pixels_tiny", "features_tiny"])
def test_it_computes_what_numpy_does(variant, crop_px):
    options = {"crop_px": crop_px} if variant == "pixels_tiny" else {}
    model, batch = in_numpy.shaken(sections.build("histogene", variant, **options)), sections.batch()
    found, p = sections.runner(model, "histogene", variant)(batch), in_numpy.parameters(model)
    side = crop_px or sections.SIDE_PX
    edge = (sections.SIDE_PX - side) // 2
    for item, count in enumerate((7, 4)):
        seen = batch["images"][item, :count, edge : edge + side, edge : edge + side].reshape(count, -1)
        tokens = seen if variant == "pixels_tiny" else in_numpy.standardised(batch["features"][item, :count], p)
        wanted = reference(p, histogene.SPECS[variant], tokens.astype(np.float64), batch["grid"][item, :count])
        np.testing.assert_allclose(found[item, :count], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_it_is_as_large_as_the_published_one():
    def parameters():
        options = {"grid_size": (64, 64), "image_size_px": 112, "rngs": nnx.Rngs(0)}
        return nnx.state(histogene.build("pixels", num_main=785, **options), nnx.Param)

    assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(parameters))) == 106_648_337


def test_a_place_beyond_the_tables_is_never_taken_for_another():
    model, batch = sections.build("histogene", "features_tiny"), sections.batch()
    batch["grid"][0, 2] = (sections.GRID[0], 0)
    found = sections.runner(model, "histogene", "features_tiny")(batch)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1, :4]).all()


def test_pixels_may_be_wanted_as_released():
    assert models.normalisation("histogene", "pixels", {"pixels": "as_released"}) == ((0.0,) * 3, (1.0,) * 3)
    assert models.normalisation("histogene", "pixels", {}) is None


def test_it_needs_pixels_or_features_and_places():
    assert models.view_of("histogene") == "sections"
    assert histogene.needs("pixels") == ("image", "grid")
    assert histogene.needs("features") == ("features", "grid")


@pytest.mark.parametrize(
    ("variant", "options", "says"),
    [
        ("patches", {}, "'patches'; histogene has pixels, features, pixels_tiny, features_tiny"),
        ("pixels", {"crop_px": 65}, "crop_px is 65, of patches of 64 px; choose a smaller crop"),
        ("pixels_tiny", {"crop_px": -1}, "crop_px is -1, of patches of 64 px"),
        ("features_tiny", {"pixels": "raw"}, "pixels is 'raw'; choose one of normalised, as_released"),
        ("features_tiny", {"tune": "frozen"}, "options has tune; histogene has no backbone to tune"),
        ("features_tiny", {"layers": 4}, "options has layers; histogene takes .*crop_px"),
    ],
)
def test_what_cannot_be_built_is_refused(variant, options, says):
    with pytest.raises(InputError, match=says):
        sections.build("histogene", variant, **options)


def test_the_head_starts_at_the_mean_where_it_is_given():
    mean = np.arange(3.0)
    model = histogene.build(
        "features_tiny", num_main=3, rngs=nnx.Rngs(0), main_mean=mean,
        **{name: sections.facts()[name] for name in ("grid_size", "feature_mean", "feature_std")},
    )  # fmt: skip
    found = sections.runner(model, "histogene", "features_tiny")(sections.batch())
    np.testing.assert_array_equal(found, jnp.broadcast_to(jnp.asarray(mean, jnp.float32), found.shape))
