"""Probes: heads on the features of an encoder that is not trained, a linear one or a perceptron of one hidden layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.errors import InputError
from stjax.models.heads import PatchModel, linear
from stjax.models.layers import unknown_variant
from stjax.models.standardised import Standardised
from stjax.models.tuning import Frozen

VIEW = "features"
VARIANTS = ("linear", "mlp")


class Trunk(Standardised):
    """Features standardised and, of a perceptron, its hidden layer: what the heads are on."""

    def __init__(self, mean: np.ndarray, std: np.ndarray, *, hidden: int, dropout: float, rngs: nnx.Rngs):
        """
        Args:
            mean, std: [D] of the features.
            hidden: units of the hidden layer; 0 has none.
        """
        super().__init__(mean, std)
        self.num_features, self.dropout_rate = hidden or len(mean), dropout
        self.hidden = linear(len(mean), hidden, rngs=rngs) if hidden else None

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> dict[str, jax.Array]:
        """[B, D] to {"features": [B, num_features]}."""
        del train, key
        x = self.standardise(x)
        return {"features": x if self.hidden is None else jax.nn.gelu(self.hidden(x), approximate=False)}


class Encoder(nnx.Module):
    """An encoder in front of a probe: a function of its weights and of images."""

    def __init__(self, function: Callable[[Any, jax.Array], jax.Array], state: Any):
        """
        Args:
            function: of the state and uint8 [B, H, W, 3] to [B, D].
            state: its weights, a tree of arrays.
        """
        leaves, tree = jax.tree_util.tree_flatten_with_path(state)
        paths = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
        self.names = tuple(path.removesuffix(".value") for path in paths)  # an nnx.State's end so
        self.weights = nnx.Dict({name: Frozen(leaf) for name, (_, leaf) in zip(self.names, leaves, strict=True)})
        self.function = lambda arrays, images: function(jax.tree.unflatten(tree, arrays), images)

    def __call__(self, images: jax.Array) -> jax.Array:
        """uint8 [B, H, W, 3] to features [B, D]."""
        return self.function([self.weights[name][...] for name in self.names], images)


class Probe(PatchModel):
    """A trunk with its heads; with an encoder in front it takes images too."""

    def __init__(self, trunk: Trunk, **heads: Any):
        super().__init__(trunk, **heads)
        self.front = nnx.data(None)

    def put_in_front(self, function: Callable[[Any, jax.Array], jax.Array], state: Any) -> None:
        """Makes it take images; see `Encoder`."""
        self.front = Encoder(function, state)

    def __call__(
        self,
        features: jax.Array | None = None,
        images: jax.Array | None = None,
        *,
        train: bool,
        key: jax.Array | None,
        frozen_backbone: bool = False,
    ) -> dict[str, jax.Array]:
        """[B, D] features, or [B, H, W, 3] uint8 where an encoder is in front, to {"main": [B, 1, M], "aux": [B, 1, A]
        where there is one}, float32."""
        if features is None:
            assert self.front is not None  # `Trained.on_slides` puts it there before images come
            assert images is not None
            features = self.front(images)
        return super().__call__(features, train=train, key=key, frozen_backbone=frozen_backbone)


def build(
    variant: str,
    *,
    num_main: int,
    num_aux: int,
    feature_mean: np.ndarray,
    feature_std: np.ndarray,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    main_mean: np.ndarray | None = None,
    hidden: int = 512,
    dropout: float = 0.25,
) -> Probe:
    """The probe `variant`, "linear" or "mlp".

    Args:
        num_main, num_aux: genes of the main head and of AuxNet.
        feature_mean, feature_std: [D] of the features over the training spots.
        hidden: units of the hidden layer of "mlp".
        dropout: the share of them that training leaves out.

    Raises:
        InputError: another variant, or no hidden units.
    """
    del dtype  # float32: what it computes is little
    if variant not in VARIANTS:
        raise InputError(unknown_variant("probe", variant, VARIANTS))
    if hidden < 1 or not 0 <= dropout < 1:
        raise InputError(
            f"config.model.options has hidden {hidden} and dropout {dropout}; expected at least 1, and 0 to below 1"
        )
    sizes: dict[str, Any] = (
        {"hidden": hidden, "dropout": dropout} if variant == "mlp" else {"hidden": 0, "dropout": 0.0}
    )
    trunk = Trunk(feature_mean, feature_std, **sizes, rngs=rngs)
    if variant == "linear" and main_mean is None:  # from nothing: a random map of a thousand features is all noise
        main_mean = np.zeros(num_main)
    return Probe(trunk, num_main=num_main, num_aux=num_aux, main_mean=main_mean, rngs=rngs)


def weight_names(trunk: Trunk) -> dict[str, dict[str, str]]:
    """Where files keep each layer: under the names used here."""
    del trunk
    return {"stjax": {name: name for name in ("mean", "std", "hidden")}}
