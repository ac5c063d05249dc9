"""EGGN (Yang et al., Pattern Recognition 145, 2024, 109966): a graph of the spots of a section and of their exemplars.

Exemplars are the training spots whose features are nearest to a spot's own (L1), of other patients; one that several
spots cite is one node. Spots are linked to their neighbours on the array, exemplars to those most like them, and a
bridge in each layer lets both tell each other what the exemplar expressed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.attention import linear_uniform
from stjax.models.bank import Bank
from stjax.models.graph import NEAR, SLOPE, Sage, attention_pool, gathered, most_alike
from stjax.models.heads import linear
from stjax.models.layers import Initializer, Linear, constant, normal, unknown_variant
from stjax.models.standardised import Standardised

VIEW = "sections"
SIZES = {"full": 512, "tiny": 24}  # of nodes
EXAMPLE_Y = ("true", "as_released")
_LAYERS, _CLOSE = 4, 3
_GATES = 4  # channels of a node for one gate of a bridge
_SHARPNESS = 0.1  # of the pool's softmax; and where the share of its sum starts


def _layer(inputs: int, outputs: int, *, bias: bool = False, init: Initializer = linear_uniform, rngs: nnx.Rngs) -> Any:
    return Linear(inputs, outputs, init=init, bias=bias, rngs=rngs)


def _bent(x: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(x, SLOPE)


class Bridge(nnx.Module):
    """What exemplars and the spots that cite them tell each other, gated by how they differ."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        def narrow(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return normal(key, shape, 0.02)

        gates = width // _GATES
        self.spot, self.example, self.expressed = (_layer(width, width, init=narrow, rngs=rngs) for _ in range(3))
        self.compared = _layer(width, gates, init=narrow, rngs=rngs)
        self.gate = _layer(gates, 2 * gates, bias=True, init=narrow, rngs=rngs)
        self.bias = nnx.Param(constant(0, width))
        self.to_spot, self.to_example = (_layer(width, width, bias=True, init=narrow, rngs=rngs) for _ in range(2))

    def __call__(
        self, spots: jax.Array, examples: jax.Array, expressed: jax.Array, cited: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What is told to each spot and to each exemplar.

        Args:
            spots: [B, N, D].
            examples, expressed: [B, E, D] of the exemplars, and of what they expressed.
            cited: [B, N, K] int32 exemplars of each spot, -1 for none.

        Returns:
            [B, N, D] and [B, E, D].
        """
        there = (cited >= 0)[..., None]  # [B, N, K, 1]
        d, s, y = _bent(self.spot(spots)), _bent(self.example(examples)), self.expressed(expressed)
        compared = gathered(self.compared(s), cited) - self.compared(d)[:, :, None]
        gates = jax.nn.sigmoid(self.gate(_bent(compared)))  # [B, N, K, D / 2]
        s, y, d = gathered(s, cited), gathered(y, cited), d[:, :, None]
        of_spot, of_example = jnp.split(gates, 2, axis=-1)
        to_spot, to_example = _gated(of_spot, (s, y, d)) * there, _gated(of_example, (d, s, y)) * there
        told = jnp.sum(to_spot, axis=2) / jnp.maximum(jnp.sum(there, axis=2), 1)
        bias = self.bias[...][None, None]
        return self.to_spot(told + bias), self.to_example(_mean_by_node(to_example, cited, examples.shape[1]) + bias)


def _gated(gates: jax.Array, parts: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    """Mean of three parts [..., D] of one vector, each gate [..., D / 4] for twelve of its 3 D channels in a row."""
    each = jnp.split(jnp.repeat(gates, 3 * _GATES, axis=-1), 3, axis=-1)
    return (each[0] * parts[0] + each[1] * parts[1] + each[2] * parts[2]) / 3


def _mean_by_node(messages: jax.Array, cited: jax.Array, nodes: int) -> jax.Array:
    """Messages [B, N, K, D], zeros where there is none, to their means [B, nodes, D] at the nodes cited."""

    def of_one(messages: jax.Array, cited: jax.Array) -> jax.Array:
        places = jnp.where(cited >= 0, cited, nodes).reshape(-1)  # beyond the nodes: left out
        sums = jnp.zeros((nodes, messages.shape[-1])).at[places].add(messages.reshape(-1, messages.shape[-1]))
        return sums / jnp.maximum(jnp.zeros(nodes).at[places].add(1.0), 1)[:, None]

    return jax.vmap(of_one)(messages, cited)


class Layer(nnx.Module):
    """Neighbours and bridge, averaged at each node."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.near, self.close = Sage(width, width, rngs=rngs), Sage(width, width, rngs=rngs)
        self.bridge = Bridge(width, rngs=rngs)

    def __call__(
        self, nodes: tuple[jax.Array, ...], near: jax.Array, close: jax.Array, cited: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Spots [B, N, D], exemplars and what they expressed [B, E, D] to the same."""
        spots, examples, expressed = nodes
        to_spots, to_examples = self.bridge(spots, examples, expressed, cited)
        spots, examples = (self.near(spots, near) + to_spots) / 2, (self.close(examples, close) + to_examples) / 2
        return _bent(spots), _bent(examples), _bent(expressed)


def distinct(rows: jax.Array, there: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Rows of the bank that the spots of a section cite, each once.

    Args:
        rows: [N, K] int32, of which bool `there` says whether they count.
        most: how many different ones there may be.

    Returns:
        [E] int32 rows, ascending and then -1, and [N, K] int32 the place of each in it, -1 where it does not count.
    """
    none = jnp.iinfo(jnp.int32).max
    found, place = jnp.unique(
        jnp.where(there, rows, none), size=most + 1, fill_value=none, return_inverse=True
    )  # one more, for those that do not count
    return jnp.where(found == none, -1, found)[:most], jnp.where(there, place.reshape(rows.shape), -1)


class EGGN(nnx.Module):
    """The graph network over the bank of training spots."""

    def __init__(
        self,
        width: int,
        *,
        statistics: tuple[np.ndarray, np.ndarray],
        bank: Bank,
        main_mean: np.ndarray | None,
        nearest: int,
        near: int,
        expressed: str,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            width: of nodes.
            statistics: mean and deviation of the features.
            main_mean: targets that the head starts at.
            nearest: exemplars of a spot.
            near: neighbours on the array, at most.
            expressed: one of `EXAMPLE_Y`.
        """
        genes, features = bank.targets.shape[1], len(statistics[0])
        self.nearest, self.near, self.as_released = nearest, near, expressed == "as_released"
        self.features, self.bank = Standardised(*statistics), bank
        self.window = _layer(features, width, rngs=rngs)
        self.example = _layer(features + genes, width, rngs=rngs)
        self.shared = _layer(width, width, rngs=rngs)
        self.expressed = _layer(genes, width, rngs=rngs)
        self.layers = nnx.List(Layer(width, rngs=rngs) for _ in range(_LAYERS))
        self.pool = _layer(width, width, bias=True, rngs=rngs)
        self.share = nnx.Param(constant(_SHARPNESS, 1))
        self.main = linear(width, genes, mean=main_mean, rngs=rngs)

    def __call__(
        self,
        *,
        features: jax.Array,
        near: jax.Array,
        group: jax.Array,
        present: jax.Array,
        rows: jax.Array,
        spots_mask: jax.Array,
        train: bool,
        key: jax.Array | None = None,
        frozen_backbone: bool = False,
    ) -> dict[str, jax.Array]:
        """Genes of spots; keywords as `stjax.views.sections` gives them. There is no backbone, and nothing is dropped.

        Returns:
            {"main": [B, S, M]} float32.
        """
        del train, key, frozen_backbone
        # Spots of a section are of one group, those that are not asked about too.
        own = jnp.max(jnp.where(spots_mask, group, -1), axis=1, keepdims=True)  # [B, 1]
        found, there = self.bank.nearest(features, jnp.broadcast_to(own, present.shape), self.nearest, "l1")
        most = self.bank.group.shape[0]
        if isinstance(found.shape[1], int):  # not of any number of spots, as exported: all of the bank may be cited
            most = min(found.shape[1] * found.shape[2], most)
        cites, cited = jax.vmap(lambda each, counts: distinct(each, counts, most))(found, there & present[..., None])
        assert self.bank.features is not None
        described = jnp.concatenate(
            [self.features.standardise(self.bank.features[...][cites]), self.bank.targets[...][cites]], axis=-1
        )  # [B, E, D + M]
        close = most_alike(described, cites >= 0, _CLOSE)
        spots = _bent(self.shared(_bent(self.window(self.features.standardise(features)))))
        examples = _bent(self.shared(_bent(self.example(described))))
        genes = self.bank.targets.shape[1]
        # As published: not of the targets, but of as many numbers at the end of what has become of the exemplar.
        expressed = self.expressed(examples[..., -genes:] if self.as_released else described[..., -genes:])
        nodes = (spots, examples, expressed)
        for layer in self.layers:
            nodes = layer(nodes, near[..., : self.near], close, cited)
        spots, examples, cited = self.pool(gathered(nodes[0], rows)), nodes[1], gathered(cited, rows)
        examples = gathered(examples, cited)  # [B, S, K, width]
        scores = _SHARPNESS * (examples - spots[:, :, None])
        pooled = attention_pool(examples, scores, cited >= 0)
        return {"main": self.main(spots + self.share[...][None, None] * pooled)}


def needs(variant: str) -> tuple[str, ...]:
    """What the model is called with, whatever the variant."""
    del variant
    return ("features", "near", "bank")


def build(
    variant: str,
    *,
    num_main: int,
    feature_mean: np.ndarray,
    feature_std: np.ndarray,
    bank: dict[str, Any],
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    main_mean: np.ndarray | None = None,
    nearest: int = 6,
    near: str = "grid8",
    example_y: str = "true",
) -> EGGN:
    """EGGN `variant`, a key of `SIZES`.

    Args:
        num_main: M, genes.
        feature_mean, feature_std: [D] of the features over the training spots.
        bank: keywords of `stjax.models.bank.Bank`.
        main_mean: [M] targets that the head starts at.
        nearest: exemplars of a spot.
        near: neighbours on the array, all ("grid8") or five at most ("as_released").
        example_y: what an exemplar tells of its expression: "true", the targets, or "as_released", in their place the
            end of its embedding.

    Raises:
        InputError: another variant or option.
    """
    del dtype  # float32: what it computes is little
    if variant not in SIZES:
        raise InputError(unknown_variant("eggn", variant, SIZES))
    if near not in NEAR or example_y not in EXAMPLE_Y:
        raise InputError(
            f"config.model.options has near {near!r} and example_y {example_y!r}; expected {' or '.join(NEAR)}, and "
            f"{' or '.join(EXAMPLE_Y)}"
        )
    if nearest < 1:
        raise InputError(f"config.model.options.nearest is {nearest}; expected at least 1")
    width = SIZES[variant]
    if example_y == "as_released" and num_main > width:
        raise InputError(
            f"under config.model.options.example_y=as_released there may be at most {width} genes, not {num_main}"
        )
    statistics, options = (feature_mean, feature_std), {"nearest": nearest, "near": NEAR[near], "expressed": example_y}
    return EGGN(width, statistics=statistics, bank=Bank(**bank), main_mean=main_mean, **options, rngs=rngs)
