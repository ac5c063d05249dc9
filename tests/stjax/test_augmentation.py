import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from data_prep.errors import InputError
from stjax import augmentation, parallel, protocols, views
from stjax import config as configs
from stjax import state as states
from stjax.config import built_in
from stjax.data.panel import Panel
from stjax.training import steps
from tests.inference.fake_predictor import made_fold

OFF = dict(built_in("default").augmentation)
PUBLISHED = {
    "stain": 0.2, "brightness": 0.35, "gamma": 0.2, "blur_px": 2.0, "sharpen": 0.9, "jpeg": 30, "scale": 0.2,
    "rotate": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    """uint8 [6, 36, 29, 3], smooth, of many colours, none 0: its density counts as that of 1."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(6, 36, 29, 3)), (0, 2, 2, 0))
    return np.clip(160 + 45 * noise / noise.std(), 1, 255).astype(np.uint8)


def some(settings, images, seed=0):
    return np.asarray(augmentation.augment(jnp.asarray(images), settings, jax.random.key(seed)))


def test_every_setting_is_off_and_has_a_step_a_range_and_a_published_value():
    assert set(OFF) == set(augmentation.STEPS) == set(PUBLISHED)
    assert not augmentation.active(OFF)
    assert all(augmentation.active(OFF | {name: value}) for name, value in PUBLISHED.items())
    assert set(configs.HIGHEST_AUGMENTATION) == set(OFF) - {"rotate"}


def test_the_middle_of_each_range_leaves_every_bit(images):
    still = {"rotate": 0, "scale": 1, "blur_px": 0, "sharpen": 0, "brightness": 1, "gamma": 1}
    drawn = {name: jnp.full(len(images), float(value)) for name, value in still.items()}
    drawn["stain"] = jnp.broadcast_to(jnp.array([1.0, 0.0])[None, :, None], (len(images), 2, 3))
    np.testing.assert_array_equal(augmentation.changed(jnp.asarray(images), drawn, most_blur_px=2), images)
    np.testing.assert_array_equal(some(OFF, images), images)


def test_draws_fill_their_ranges():
    drawn = augmentation.draw(PUBLISHED, 4000, jax.random.key(0))
    drawn["factor"], drawn["shift"] = jnp.moveaxis(drawn.pop("stain"), 1, 0)
    found = {name: (float(value.min()), float(value.max())) for name, value in drawn.items()}
    expected = {
        "rotate": (-np.pi, np.pi), "scale": (0.8, 1.2), "factor": (0.8, 1.2), "shift": (-0.2, 0.2), "blur_px": (0, 2),
        "sharpen": (0, 0.9), "brightness": (0.65, 1.35), "gamma": (0.8, 1.2), "jpeg": (30, 100),
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, (low, high) in expected.items():
        assert low <= found[name][0] <= low + 0.01 * (high - low), name
        assert high - 0.01 * (high - low) <= found[name][1] <= high + 1e-6, name


def test_a_step_draws_the_same_whatever_else_is_on_and_each_image_its_own():
    every = augmentation.draw(PUBLISHED, 5, jax.random.key(3))
    for name, value in PUBLISHED.items():
        alone = augmentation.draw(OFF | {name: value}, 5, jax.random.key(3))
        assert list(alone) == [name]
        np.testing.assert_array_equal(alone[name], every[name])
        assert len(np.unique(np.asarray(every[name]).reshape(5, -1)[:, 0])) == 5


def test_a_seed_repeats_and_another_does_not(images):
    np.testing.assert_array_equal(some(PUBLISHED, images, 1), some(PUBLISHED, images, 1))
    assert np.mean(some(PUBLISHED, images, 1) != some(PUBLISHED, images, 2)) > 0.9


def test_each_image_of_a_stack_is_changed_as_one_of_a_batch(images):
    settings = OFF | {"brightness": 0.35}
    stacks = some(settings, images.reshape(2, 3, *images.shape[1:]))
    np.testing.assert_array_equal(stacks.reshape(images.shape), some(settings, images))


# ------------------------------------------------------------------------------------------ against a loop in NumPy


def looped(image, drawn, i):
    """What `augmentation.changed` makes of image `i`, by SciPy and Pillow, one step after another."""
    x = image.astype(np.float64)
    height, width = x.shape[:2]
    if "rotate" in drawn:
        angle, scale = float(drawn["rotate"][i]), float(drawn["scale"][i])
        result = np.empty_like(x)
        for row in range(height):
            for column in range(width):
                r, c = (row - (height - 1) / 2) / scale, (column - (width - 1) / 2) / scale
                from_row = np.cos(angle) * r + np.sin(angle) * c + (height - 1) / 2
                from_column = np.cos(angle) * c - np.sin(angle) * r + (width - 1) / 2
                for channel in range(3):
                    result[row, column, channel] = scipy.ndimage.map_coordinates(
                        x[..., channel], [[from_row], [from_column]], order=1, mode="mirror"
                    )[0]
        x = result
    if "stain" in drawn:
        factor, shift = np.asarray(drawn["stain"][i], np.float64)
        haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
        stains = np.stack([haematoxylin, eosin, np.cross(haematoxylin, eosin)])
        stains /= np.sqrt(np.square(stains).sum(axis=1, keepdims=True))
        for pixel in x.reshape(-1, 3):  # a view
            amounts = np.linalg.solve(stains.T, -np.log(np.maximum(pixel, 1) / 255)) * factor + shift
            pixel[:] = 255 * np.exp(-stains.T @ amounts)
    if "blur_px" in drawn:
        x = blurred(x, float(drawn["blur_px"][i]), 6)
    if "sharpen" in drawn:
        x = x + float(drawn["sharpen"][i]) * (x - blurred(x, 1.0, 3))
    if "brightness" in drawn:
        x = x * float(drawn["brightness"][i])
    if "gamma" in drawn:
        x = 255 * (np.clip(x, 0, 255) / 255) ** float(drawn["gamma"][i])
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def blurred(x, sigma, radius):
    for axis in (0, 1):
        x = scipy.ndimage.gaussian_filter1d(x, sigma, axis=axis, mode="nearest", radius=radius)
    return x


@pytest.mark.parametrize(
    "names",
    [("rotate", "scale"), ("stain",), ("blur_px",), ("sharpen",), ("brightness",), ("gamma",), augmentation.STEPS[:-1]],
    ids=lambda names: "+".join(names) if len(names) < 3 else "all",
)
def test_a_batch_is_changed_as_a_loop_over_images_is(names, images):
    settings = OFF | {name: PUBLISHED[name] for name in names}
    drawn = augmentation.draw(settings, len(images), jax.random.key(5))
    expected = np.stack([looped(image, drawn, i) for i, image in enumerate(images)])
    found = some(settings, images, 5)
    assert np.abs(found.astype(int) - expected).max() <= 1  # float32 rounds otherwise at the last bit
    assert np.mean(found != expected) < 0.01
    assert np.mean(found != images) > 0.5


@pytest.mark.parametrize("quality", [10, 30, 60, 90])
def test_compression_leaves_what_jpeg_files_leave(quality, images):
    found = augmentation.changed(jnp.asarray(images), {"jpeg": jnp.full(len(images), float(quality))})
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
        files.append(np.asarray(Image.open(file)))
    error = np.abs(np.asarray(found, np.float64) - np.stack(files)).mean()
    assert error < 0.6  # a decoder's arithmetic is of whole numbers
    assert error < 0.25 * np.abs(np.stack(files).astype(np.float64) - images).mean()


# ------------------------------------------------------------------------------------------------- within training


@pytest.fixture(scope="module")
def training():
    """Config, fold and a batch of 16 patches."""
    config = configs.resolve(built_in("tiny"), protocols.stjax, demo=True).copy_and_resolve_references()
    with config.unlocked():
        config.augmentation.update(PUBLISHED)
    rng, names = np.random.default_rng(0), np.array([f"G{g}" for g in range(6)])
    fold = made_fold(
        panel=Panel(names, names, num_main=4, num_genes=6), target_mean=np.zeros(6), target_std=np.ones(6),
        train_mean=np.zeros(4), image_mean=np.full(3, 180.0), image_std=np.full(3, 40.0), image_size_px=32,
    )  # fmt: skip
    counts = rng.poisson(3.0, (16, 1, 6)).astype(np.float32)
    batch = {
        "image": rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8), "counts": counts,
        "total": counts.sum(axis=-1, keepdims=True) + 100, "mask": np.ones((16, 1), np.float32),
    }  # fmt: skip
    return config, fold, batch


def trained(training, train_step, begun, *, stop_after=None, num_steps=3):
    """Losses of some steps, and the state after them; after `stop_after` the state is taken to the host and back."""
    mesh, batch, losses = parallel.make_mesh(jax.devices()[:1]), training[2], []
    state = jax.tree.map(jnp.array, begun[1])  # steps donate theirs
    for step in range(num_steps):
        if step == stop_after:
            state = jax.device_put(jax.tree.map(np.array, state), parallel.replicated(mesh))
        state, parts = train_step(state, parallel.put_batch(batch, mesh), np.uint32(step), np.float32(1e-3))
        losses.append(float(parts["loss"]))
    return losses, state


@pytest.mark.slow
def test_a_resumed_run_repeats_an_uninterrupted_one_of_images_that_change(training):
    config, fold, _ = training
    mesh = parallel.make_mesh(jax.devices()[:1])
    begun = states.init_state(config, fold, mesh=mesh)
    train_step = steps.make_train_step(begun[0], config, fold, protocols.stjax, mesh)
    losses, state = trained(training, train_step, begun)
    again, resumed = trained(training, train_step, begun, stop_after=2)
    assert losses == again
    jax.tree.map(np.testing.assert_array_equal, state, resumed)

    plain = config.copy_and_resolve_references()
    with plain.unlocked():
        plain.augmentation.update(OFF)
    without = steps.make_train_step(begun[0], plain, fold, protocols.stjax, mesh)
    assert trained(training, without, begun, num_steps=1)[0] != losses[:1]


def test_draws_do_not_depend_on_how_many_devices_share_a_batch(training):
    images = training[2]["image"]
    mesh = parallel.make_mesh()
    assert mesh.size == 8
    sharded = jax.jit(
        lambda images: augmentation.augment(images, PUBLISHED, jax.random.key(0)),
        in_shardings=parallel.split_batch(mesh),
        out_shardings=parallel.replicated(mesh),
    )
    found = np.asarray(sharded(parallel.put_batch({"image": images}, mesh)["image"])).astype(int)
    assert np.mean(np.abs(found - some(PUBLISHED, images)) > 1) < 0.01  # JPEG rounds what is near a half up or down


def test_what_items_cannot_have_is_refused():
    views.get("patches").check_augmentation(PUBLISHED)
    views.get("tiles").check_augmentation(PUBLISHED | {"scale": 0.0, "rotate": False})
    for name in augmentation.MOVES:
        with pytest.raises(InputError, match=rf"augmentation\.{name} moves .* spots of tiles would not follow"):
            views.get("tiles").check_augmentation(OFF | {name: PUBLISHED[name]})
    with pytest.raises(InputError, match="features have none"):
        views.get("features").check_augmentation(OFF | {"stain": 0.1})


@pytest.mark.parametrize(
    ("name", "value"), [("stain", -0.1), ("brightness", 1.0), ("jpeg", 101), ("scale", 0.6), ("gamma", float("nan"))]
)
def test_strengths_out_of_range_are_refused(name, value):
    config = built_in("tiny")
    config.augmentation[name] = value
    with pytest.raises(InputError, match=rf"config\.augmentation\.{name} is {value}, expected 0, which is off, to "):
        configs.resolve(config, protocols.stjax, demo=True)


def test_a_closed_form_has_no_steps_to_augment():
    config = built_in("probe_linear")
    config.fit, config.model.aux, config.augmentation.stain = "closed_form", False, 0.1
    with pytest.raises(InputError, match="takes images as they are"):
        configs.resolve(config, protocols.stjax, demo=False)
