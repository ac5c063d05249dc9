"""A model of sections that sees whatever its variant names, for tests: a linear map of all of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stjax.models.heads import linear
from stjax.models.tuning import Frozen

VIEW = "sections"
K, PLACE = 3, 4  # spots looked up, width of a place's vector


def needs(variant: str) -> tuple[str, ...]:
    """A variant is its needs: "features+near"."""
    return tuple(variant.split("+"))


class TinySections(nnx.Module):
    """A linear layer over means of neighbours, of the section and of the context, a place's vector, looked-up targets
    and colours."""

    def __init__(self, num_main: int, facts: dict[str, Any], wanted: tuple[str, ...], rngs: nnx.Rngs):
        width = 0 if facts["feature_mean"] is None else len(facts["feature_mean"])
        sizes = {
            "image": 3,
            "features": 2 * width,
            "near": width,
            "context": width,
            "grid": PLACE,
            "bank": num_main,
            "genes": 1,
        }
        if width:
            self.mean = Frozen(jnp.asarray(facts["feature_mean"], jnp.float32))
            self.std = Frozen(jnp.asarray(facts["feature_std"], jnp.float32))
        if "grid" in wanted:
            table = jax.random.normal(rngs.params(), (2, max(facts["grid_size"]), PLACE))
            self.table = nnx.Param(table)
        if "bank" in wanted:
            self.bank = nnx.Dict({name: Frozen(jnp.asarray(each)) for name, each in facts["bank"].items()})
        if "genes" in wanted:
            self.genes = Frozen(jnp.asarray(facts["gene_vectors"]))
        self.wanted = tuple(wanted)
        self.main = linear(sum(sizes[need] for need in wanted), num_main, rngs=rngs)

    def __call__(self, *, train: bool, key: Any, frozen_backbone: bool = False, **given: Any) -> dict[str, jax.Array]:
        """What the view gives to {"main": [B, S, M]}."""
        del train, key, frozen_backbone
        parts = [part for need in self.wanted for part in getattr(self, f"_{need}")(given)]
        return {"main": self.main(jnp.concatenate(parts, axis=-1))}

    def _scaled(self, x: jax.Array) -> jax.Array:
        return (x - self.mean[...].reshape((1,) * (x.ndim - 1) + (-1,))) / self.std[...].reshape(
            (1,) * (x.ndim - 1) + (-1,)
        )

    def _image(self, given: Any) -> list[jax.Array]:
        return [jnp.mean(given["images"], axis=(2, 3))]

    def _features(self, given: Any) -> list[jax.Array]:
        x, there = self._scaled(given["features"]), given["present"][..., None]
        mean = jnp.sum(jnp.where(there, x, 0), axis=1, keepdims=True) / jnp.sum(there, axis=1, keepdims=True).clip(1)
        own = at(x, given["rows"])
        return [own, jnp.broadcast_to(mean, own.shape)]

    def _near(self, given: Any) -> list[jax.Array]:
        near = at(given["near"], given["rows"])  # [B, S, 8]
        found = jax.vmap(lambda x, rows: x[rows])(self._scaled(given["features"]), jnp.maximum(near, 0))
        there = (near >= 0)[..., None]
        return [jnp.sum(jnp.where(there, found, 0), axis=2) / jnp.sum(there, axis=2).clip(1)]

    def _grid(self, given: Any) -> list[jax.Array]:
        x, y = jnp.moveaxis(at(given["grid"], given["rows"]), -1, 0)
        return [self.table[0][x] + self.table[1][y]]

    def _context(self, given: Any) -> list[jax.Array]:
        there = given["context_mask"][..., None]
        total = jnp.sum(jnp.where(there, self._scaled(given["context"]), 0), axis=2)
        return [total / jnp.sum(there, axis=2).clip(1)]

    def _genes(self, given: Any) -> list[jax.Array]:
        return [jnp.full((*given["spots_mask"].shape, 1), jnp.mean(self.genes[...]))]

    def _bank(self, given: Any) -> list[jax.Array]:
        own, bank = at(given["features"], given["rows"]), self.bank["features"][...]
        apart = jnp.sum(jnp.square(own), axis=-1, keepdims=True) - 2 * jnp.einsum("bsd,rd->bsr", own, bank)
        apart = apart + jnp.sum(jnp.square(bank), axis=-1)[None, None]
        same = given["group"][..., None] == self.bank["group"][...][None, None]
        found = jax.lax.top_k(-jnp.where(same, jnp.inf, apart), K)[1]  # [B, S, K]
        return [jnp.mean(self.bank["targets"][...][found], axis=2)]


def at(x: jax.Array, rows: jax.Array) -> jax.Array:
    """[B, N, ...] at rows [B, S]."""
    return jax.vmap(lambda each, of: each[of])(x, rows)


def build(
    variant: str,
    *,
    num_main: int,
    dtype: Any,
    rngs: nnx.Rngs,
    feature_mean: np.ndarray | None = None,
    feature_std: np.ndarray | None = None,
    grid_size: Any = None,
    bank: Any = None,
    gene_vectors: Any = None,
) -> TinySections:
    """The model whose needs are its variant's."""
    del dtype
    facts = {"feature_mean": feature_mean, "feature_std": feature_std, "grid_size": grid_size, "bank": bank}
    facts["gene_vectors"] = gene_vectors
    return TinySections(num_main, facts, needs(variant), rngs)
