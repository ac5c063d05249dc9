"""Batches as models of sections are called with, of random numbers, and what is done to them."""

import jax
import jax.numpy as jnp
import numpy as np

from stjax import models

GENES, FEATURES, SIDE_PX, WINDOWS, GRID = 3, 6, 64, 3, (5, 7)  # windows along a side; columns and rows
KEYWORDS = {
    "image": ("images",),
    "features": ("features",),
    "grid": ("grid",),
    "near": ("near",),
    "context": ("context", "context_mask"),
    "bank": ("group",),
    "genes": (),
}
OF_SECTION = ("features", "present", "grid", "near")  # [B, N, ...]; all others are [B, S, ...]
BANK = 12  # training spots


def facts(seed=0):
    """What builds of models are told."""
    rng = np.random.default_rng(seed)
    return {
        "feature_mean": rng.normal(size=FEATURES),
        "feature_std": rng.uniform(0.5, 2, FEATURES),
        "image_size_px": SIDE_PX,
        "grid_size": GRID,
        "context": WINDOWS,
        "bank": {
            "features": rng.normal(size=(BANK, FEATURES)).astype(np.float32),
            "targets": rng.normal(size=(BANK, GENES)).astype(np.float32),
            "group": np.repeat(np.arange(3, dtype=np.int32), BANK // 3),
        },
        "gene_vectors": rng.normal(size=(GENES, 2, 5)).astype(np.float32),
    }


def batch(sizes=(7, 4), *, most=8, seed=0):
    """Whole sections of so many spots, filled up to `most`."""
    rng = np.random.default_rng(seed)
    b = len(sizes)
    mask = np.arange(most)[None] < np.array(sizes)[:, None]
    places = [rng.permutation(GRID[0] * GRID[1])[:most] for _ in sizes]
    inside = rng.random((b, most, WINDOWS**2)) < 0.7
    inside[:, :, WINDOWS**2 // 2] = True  # its own
    return {
        "images": rng.normal(size=(b, most, SIDE_PX, SIDE_PX, 3)).astype(np.float32),
        "features": rng.normal(size=(b, most, FEATURES)).astype(np.float32),
        "present": mask,
        "rows": np.tile(np.arange(most, dtype=np.int32), (b, 1)),
        "grid": np.stack([np.stack([at % GRID[0], at // GRID[0]], axis=-1) for at in places]).astype(np.int32),
        "context": rng.normal(size=(b, most, WINDOWS**2, FEATURES)).astype(np.float32),
        "context_mask": inside,
        "group": np.repeat(rng.integers(-1, 3, (b, 1)).astype(np.int32), most, axis=1),  # a section has one
        "spots_mask": mask.copy(),
        "near": np.stack([_near(rng, count, most) for count in sizes]),
    }


def _near(rng, count, most):
    """[most, 8] none to eight of the other spots beside each."""
    near = np.full((most, 8), -1, np.int32)
    for spot in range(count):
        others = rng.permutation([other for other in range(count) if other != spot])[: rng.integers(0, 9)]
        near[spot, : len(others)] = others
    return near


def filled_up(batch, more):
    """With `more` spots after the last of each item that are none: of large numbers, everywhere and nowhere."""
    wild = {"images": 1e3, "features": 1e3, "context": 1e3, "grid": 10**6, "rows": 0, "group": -1, "near": -1}

    def add(name, array):
        rest = np.full((len(array), more, *array.shape[2:]), wild.get(name, 0), array.dtype)
        return np.concatenate([array, rest], axis=1)

    mask, found = batch["spots_mask"], {name: np.array(array) for name, array in batch.items()}
    for name, value in wild.items():
        found[name][~mask] = value
    return {name: add(name, array) for name, array in found.items()}


def asked(batch, spots):
    """Of some spots of each item alone, beside all that is known of its section."""
    return {name: array if name in OF_SECTION else array[:, spots] for name, array in batch.items()}


def reordered(batch, order):
    """The same spots in another order; their rows, and those of their neighbours, are those of the new one."""
    found = {name: array if name == "rows" else array[:, order] for name, array in batch.items()}
    return found | {"near": np.where(found["near"] < 0, -1, np.argsort(order)[found["near"]]).astype(np.int32)}


def build(module, variant, *, genes=GENES, given=None, **options):
    from flax import nnx

    return models.build(
        module=module, variant=variant, num_main=genes, num_aux=0, dtype="float32", rngs=nnx.Rngs(0),
        facts=given or facts(), options=options,
    )  # fmt: skip


def keywords(module, variant, batch):
    """Those of a batch that a model is called with."""
    from stjax.models import _module

    needs = _module(module).needs(variant)
    names = [name for need in needs for name in KEYWORDS[need]]
    of_section = ["present", "rows"] if set(needs) & set(OF_SECTION) else []
    return {name: jnp.asarray(batch[name]) for name in (*names, *of_section, "spots_mask")}


def runner(model, module, variant):
    """A jitted prediction of "main" [B, S, M] for batches."""
    graphdef, params, statistics = models.split(model)

    @jax.jit
    def program(inputs):
        return models.apply(graphdef, params, statistics, inputs, train=False, key=None)[0]["main"]

    return lambda batch: np.asarray(program(keywords(module, variant, batch)))
