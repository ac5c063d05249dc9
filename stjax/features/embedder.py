"""A published encoder with its weights as a function of images: resized, normalised as it was trained, run, pooled."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from data_prep.errors import InputError
from stjax import encoders, models, parallel
from stjax.data.items import filled
from stjax.features.store import MAPS, RANDOM, VECTORS
from stjax.models import encoder as networks
from stjax.models.weights import locate, sha256
from stjax.ops.colour import colour_statistics
from stjax.ops.cpu.elementwise import compiler_options

SCALE_LIMIT = 1.25  # how far an image's scale may be off what an encoder was trained at
CPU_BATCH, GPU_BATCH = 8, 128  # images a step and device
MOMENTS = "moments"  # a pooling that every network has: see `Embedder._moments`
_SAME_SCALE = 1.02
_MAP_PX = 16  # of a tile's map: a token is as many pixels of the tile, whatever the encoder's patches


class Embedder:
    """An encoder's weights on the devices, and its functions.

    Attributes:
        name: as `stjax.encoders` lists it; `encoder` is that entry.
        weights_sha256: of the file, or "random:SEED".
        pooling: what its vectors are made of: a way of the network's own, or `MOMENTS`.
        width: D, their length.
        parts: how many of the D are of each kind; features of a kind count together as much as those of another.
        dtype: that it computes in.
        state: its weights, a tree of arrays.
        mesh: the devices they are on.
    """

    def __init__(self, name: str, network: Any, *, weights_sha256: str, pooling: str, dtype: str, mesh: Mesh):
        """
        Args:
            network: the encoder's, with its weights; it is not kept.
        """
        self.name, self.encoder = name, encoders.find(name)
        self.weights_sha256, self.pooling, self.dtype, self.mesh = weights_sha256, pooling, dtype, mesh
        self._graph, state = nnx.split(network)
        self.state = parallel.put_replicated(state, mesh)
        self.parts: tuple[int, ...] = (network.num_features,)
        if pooling == MOMENTS:
            patch = jax.ShapeDtypeStruct((1, self.encoder.px, self.encoder.px, 3), np.uint8)
            self.parts = tuple(part.shape[-1] for part in jax.eval_shape(self._moments, self.state, patch))
        self.width = sum(self.parts)

    @classmethod
    def open(
        cls,
        name: str,
        weights: Path | None,
        *,
        dtype: str = "float32",
        pooling: str = "",
        mesh: Mesh,
        seed: int | None = None,
        wanted_sha256: str = "",
    ) -> Self:
        """An encoder with the weights of a file or of its Python package, or random ones. Says once what its licence
        asks for.

        Args:
            dtype: to compute in, a key of `models.DTYPES`.
            pooling: another than the encoder's own, or `MOMENTS`.
            seed: of random weights, in place of a file.
            wanted_sha256: what the file's must be, where features were made with it.

        Raises:
            InputError: no such encoder, dtype or pooling; no file, or another, damaged, or of another network.
        """
        encoder = encoders.find(name)
        if dtype not in models.DTYPES:
            raise InputError(f"{encoder.title} cannot compute in {dtype!r}; choose one of {', '.join(models.DTYPES)}")
        options = {"dtype": models.DTYPES[dtype], "pooling": "" if pooling == MOMENTS else pooling}
        facts = {"pooling": pooling or encoder.pooling, "dtype": dtype, "mesh": mesh}
        weights = find_weights(name, weights, seed)
        if weights is None:
            network = networks.build(name, rngs=nnx.Rngs(seed or 0), image_size_px=encoder.px, **options)
            return cls(name, network, weights_sha256=f"{RANDOM}{seed}", **facts)
        found = sha256(weights)
        if wanted_sha256 and found != wanted_sha256:
            raise InputError(
                f"{weights}: not the weights that the features were made with: its SHA-256 begins with {found[:12]}, "
                f"expected {wanted_sha256[:12]}"
            )
        encoders.say_terms(name)
        network, report = networks.load(name, weights, **options)
        print(f"{encoder.title}: {report}")
        return cls(name, network, weights_sha256=found, **facts)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], weights: Path | None, *, mesh: Mesh) -> Self:
        """The encoder that features were made with.

        Args:
            facts: {"encoder", "weights_sha256", "pooling", "compute"}, as `store.Features.key` has them.
            weights: the same file again; not needed for random ones, and those of a Python package.

        Raises:
            InputError: another file, or none; see `open`.
        """
        name, wanted = facts["encoder"], facts["weights_sha256"]
        if not wanted:
            raise InputError(f"these features of {name} come from another tool: with which weights is not known")
        options = {"dtype": facts["compute"], "pooling": facts["pooling"], "mesh": mesh}
        if wanted.startswith(RANDOM):
            return cls.open(name, None, seed=int(wanted.removeprefix(RANDOM)), **options)
        return cls.open(name, weights, wanted_sha256=wanted, **options)

    def key(self) -> dict[str, Any]:
        """What of it changes its vectors, plain values."""
        encoder = self.encoder
        return {
            "encoder": self.name,
            "weights_sha256": self.weights_sha256,
            "pooling": self.pooling,
            "width": self.width,
            "compute": self.dtype,
            "px": encoder.px,
            "resize_px": encoder.resize_px,
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            **({"parts": list(self.parts)} if len(self.parts) > 1 else {}),
        }

    # --------------------------------------------------------------------------------------------------- functions

    def function(self, state: Any, images: jax.Array) -> jax.Array:
        """The vectors of images, which are resized where they are of another size than the encoder's.

        Args:
            state: weights like `self.state`.
            images: [B, H, H, 3] uint8.

        Returns:
            [B, D] float32.
        """
        if self.pooling == MOMENTS:
            return jnp.concatenate(self._moments(state, images), axis=-1)
        return self._seen(state, images)["features"].astype(jnp.float32)

    def maps(self, state: Any, images: jax.Array) -> jax.Array:
        """The tokens of tiles [B, H, H, 3] uint8 as maps [B, h, w, C] float32: of a vision transformer
        one token for 16 px or fewer, of another network its last stage."""
        return self._of_tiles(state, images)[MAPS]

    def compiled(self, *, tiles: bool, maps: bool = False) -> Callable[[np.ndarray], dict[str, jax.Array]]:
        """A compiled function of a batch of images, of a size that the devices share, to {"vectors": [B, D], and with
        `maps` "maps": [B, h, w, C]}, float32. Of tiles, a vector is pooled over the whole tile."""

        def outputs(state: Any, images: jax.Array) -> dict[str, jax.Array]:
            if not tiles:
                return {VECTORS: self.function(state, images)}
            found = self._of_tiles(state, images)
            return found if maps else {VECTORS: found[VECTORS]}

        whole, split = parallel.replicated(self.mesh), parallel.split_batch(self.mesh)
        options = {"in_shardings": (whole, split), "compiler_options": compiler_options()}
        step = jax.jit(outputs, out_shardings=whole, **options)
        return lambda images: step(self.state, parallel.put_whole(images, self.mesh))

    def vectors(self, images: np.ndarray) -> np.ndarray:
        """[N, D] float32 of any number of images [N, H, H, 3] uint8: of each the same, to the last bits, alone and in
        any company, as all run in batches of one size."""
        size = self.batch_size
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        found = [np.asarray(self.of_patches(filled(part, size))[VECTORS])[: len(part)] for part in parts]
        return np.concatenate([np.zeros((0, self.width), np.float32), *found])

    @functools.cached_property
    def of_patches(self) -> Callable[[np.ndarray], dict[str, jax.Array]]:
        """`compiled` of patches, compiled once."""
        return self.compiled(tiles=False)

    @property
    def batch_size(self) -> int:
        """How many images are best given at a time."""
        return (CPU_BATCH if parallel.on_cpus(self.mesh) else GPU_BATCH) * self.mesh.size

    def _moments(self, state: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and deviation of every channel of every stage, [B, 2 C]: texture from fine to coarse; and the colour
        statistics of the image, [B, 30]."""
        stages = [stage.astype(jnp.float32) for stage in self._seen(state, images)["stages"]]
        moments = [of(stage, axis=(1, 2)) for stage in stages for of in (jnp.mean, jnp.std)]
        return jnp.concatenate(moments, axis=-1), colour_statistics(images)

    def _seen(self, state: Any, images: jax.Array) -> dict[str, Any]:
        """The network on uint8 images, as it was trained to see them."""
        return self._run(state, networks.as_seen(self._normalised(images), self.name))  # [B, px, px, 3]

    def _of_tiles(self, state: Any, images: jax.Array) -> dict[str, jax.Array]:
        side = seen_px(self.encoder, images.shape[1], tiles=True)
        found = self._run(state, networks.resized(self._normalised(images), side, self.name))
        last = found["stages"][-1]
        tokens = found["tokens"].reshape(last.shape) if "tokens" in found else last
        return {VECTORS: found["features"].astype(jnp.float32), MAPS: tokens.astype(jnp.float32)}

    def _normalised(self, images: jax.Array) -> jax.Array:
        """uint8 images [B, H, W, 3] as float32 that the encoder was trained with."""
        mean, std = (jnp.asarray(each, jnp.float32)[None, None, None] for each in (self.encoder.mean, self.encoder.std))
        return (images.astype(jnp.float32) / 255 - mean) / std

    def _run(self, state: Any, x: jax.Array) -> dict[str, Any]:
        """The network on normalised images [B, H, W, 3]."""
        with jax.default_matmul_precision("float32"):  # GPUs would take ten bits for float32
            return nnx.merge(self._graph, state)(x, train=False)


def find_weights(name: str, weights: Path | None, seed: int | None) -> Path | None:
    """The file of an encoder's weights: the one given, as `locate` takes it, or its Python package's; None for random
    ones.

    Raises:
        InputError: no such encoder, or neither file nor seed.
    """
    encoder = encoders.find(name)
    if weights is None and seed is None and encoder.package:
        weights = locate(encoder.package)
    if weights is None and seed is None:
        raise InputError(
            f"{encoder.title} needs its weights: give --weights=FILE (stjax encoders {name} says how to get it), "
            "or --random to see what an untrained network does"
        )
    return weights and locate(str(weights))


def seen_px(encoder: encoders.Encoder, size_px: int, *, tiles: bool) -> int:
    """The side that images of `size_px` are resized to: the encoder's, of which the middle may then be cut out. Tiles
    stay as they are, or become as large as makes a token 16 px where its patches do not divide 16."""
    if not tiles:
        return encoder.resize_px or encoder.px
    patch_px = encoder.network.get("patch_px", _MAP_PX)
    return size_px if _MAP_PX % patch_px == 0 else max(1, round(size_px / _MAP_PX)) * patch_px


def check_scale(name: str, um_per_px: Mapping[str, float], *, any_scale: bool, remedy: str) -> None:
    """Says where an encoder sees images at another scale than it was trained at.

    Args:
        um_per_px: {section: as it sees it}.
        any_scale: only say so, however far it is off.
        remedy: what to do, for the message.

    Raises:
        InputError: off by more than a quarter.
    """
    encoder = encoders.find(name)
    if encoder.um_per_px is None:
        return
    low, high = encoder.um_per_px
    section, scale = max(um_per_px.items(), key=lambda item: max(item[1] / high, low / item[1]))
    off = max(scale / high, low / scale)
    if off <= _SAME_SCALE:
        return
    trained = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    text = f"{encoder.title} sees section {section} at {scale:.3g} um per px, and was trained at {trained}"
    if off > SCALE_LIMIT and not any_scale:
        raise InputError(f"{text}; {remedy}, or say --any-scale")
    print(f"note: {text}")
