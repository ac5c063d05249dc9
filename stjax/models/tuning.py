"""What of a network is trained: all, nothing, its last blocks, or low-rank updates of some of its layers.

Weights that are not trained are `Frozen`: `models.split` puts them with the statistics, so that they have no gradient
and nothing of the optimiser, and stay what they are to the bit. Frozen BatchNorms normalise as when predicting.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.errors import InputError
from stjax.models.layers import BatchNorm, Linear, uniform, wide

OPTIONS = ("tune", "blocks", "rank", "alpha", "targets")
HOW = ("all", "frozen", "last", "lora")
TARGETS = "attention.qkv,attention.out"
# Parts of a network that come before its blocks or stages; everything else belongs to these or comes after.
_FIRST = ("stem", "embed", "embed_norm", "token", "positions", "registers")


class Frozen(nnx.Variable):
    """Weights that are not trained."""


class Update(nnx.Param):
    """Part of a low-rank update, which no file of released weights has."""


class LowRank(nnx.Module):
    """x down up, scaled: what is added to a linear layer's outputs (Hu et al. 2021, "LoRA"). It starts at 0."""

    def __init__(self, inputs: int, outputs: int, *, rank: int, alpha: float, rngs: nnx.Rngs):
        self.scale = alpha / rank
        self.down = Update(uniform(rngs.params(), (inputs, rank), 1 / math.sqrt(inputs)))
        self.up = Update(jnp.zeros((rank, outputs)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] to [..., outputs]."""
        return (x @ self.down[...].astype(x.dtype)) @ (self.scale * self.up[...]).astype(x.dtype)

    def matrix(self) -> jax.Array:
        """[inputs, outputs] float32, what it adds to the layer's kernel."""
        return self.scale * jnp.matmul(self.down[...], self.up[...], precision="highest")


def tune(
    network: Any,
    how: str = "all",
    *,
    blocks: int = 0,
    rank: int = 8,
    alpha: float = 8.0,
    targets: str = TARGETS,
    rngs: nnx.Rngs,
) -> None:
    """Freezes a network but for what is to be trained.

    Args:
        how: "all" trains everything, "frozen" nothing, "last" the last blocks (of a transformer) or stages and what
            comes after them, "lora" low-rank updates alone.
        blocks: how many are the last ones; 0: one for "last", all for "lora".
        rank, alpha: of the updates, which are scaled by alpha / rank.
        targets: the linear layers of a block that have one, a list of names with commas: attention.qkv, attention.out,
            mlp1, mlp2.

    Raises:
        InputError: another `how`, more blocks than there are, or layers that the network has not.
    """
    if how not in HOW:
        raise InputError(f"config.model.options.tune is {how!r}; choose one of {', '.join(HOW)}")
    if how == "all":
        return
    trunk = trunk_of(network)
    every = trunk.blocks if hasattr(trunk, "blocks") else trunk.stages
    if not 0 <= blocks <= len(every):
        raise InputError(f"config.model.options.blocks is {blocks}; this encoder has {len(every)}")
    if how == "last":
        for name, part in list(vars(trunk).items()):
            if name in _FIRST:
                _freeze(trunk, name)
            elif isinstance(part, nnx.List):  # the blocks, and what leads from each to the next
                for earlier in part[: max(len(part) - (blocks or 1), 0)]:
                    _freeze_all(earlier)
        return
    _freeze_all(network)
    if how == "lora":
        if rank < 1 or not alpha > 0:
            raise InputError(f"config.model.options.rank is {rank} and alpha {alpha}; expected positive numbers")
        chosen = every[len(every) - (blocks or len(every)) :]
        _add_updates(chosen, targets, rank=rank, alpha=alpha, rngs=rngs)


def trunk_of(network: Any) -> Any:
    """The part of a network that has blocks or stages: all of it, but for one with a pooler of its own."""
    return getattr(network, "trunk", network)


def _add_updates(blocks: Iterable[Any], targets: str, **options: Any) -> None:
    layers = [
        (".".join(map(str, path)), module)
        for block in blocks
        for path, module in nnx.iter_modules(block)
        if isinstance(module, Linear)
    ]
    for target in targets.split(","):
        chosen = [layer for path, layer in layers if f".{path}".endswith(f".{target.strip()}")]
        if not chosen:
            known = sorted({re.sub(r"^[\d.]+", "", path) for path, _ in layers}) or ["no linear layers"]
            raise InputError(
                f"config.model.options.targets has {target.strip()!r}; this encoder's blocks have {', '.join(known)}"
            )
        for layer in chosen:
            layer.update = LowRank(*layer.kernel.shape, **options)


def _freeze_all(network: Any) -> None:
    for module in _modules(network):
        for name in list(vars(module)):
            if isinstance(vars(module)[name], nnx.Param):
                _freeze(module, name)
        if isinstance(module, BatchNorm):
            module.frozen = True


def _freeze(owner: Any, name: str) -> None:
    part = getattr(owner, name)
    if isinstance(part, nnx.Param):
        setattr(owner, name, Frozen(part.get_value()))
    elif part is not None:
        _freeze_all(part)


def _modules(network: Any) -> list[Any]:
    return [module for _, module in nnx.iter_modules(network)]


def merged(network: Any) -> Any:
    """A network, or a model around one, as if it had been trained whole: updates are added to the kernels, float32,
    and nothing is frozen. It is changed in place."""
    for module in _modules(network):
        if isinstance(module, Linear) and module.update is not None:
            module.kernel.set_value(wide(module.kernel[...]) + module.update.matrix())
            del module.update
        for name, part in list(vars(module).items()):
            if isinstance(part, Frozen):
                setattr(module, name, nnx.Param(part.get_value()))
        if isinstance(module, BatchNorm):
            module.frozen = False
    return network


def is_frozen(network: Any) -> bool:
    """Whether nothing of a network is trained."""
    return not jax.tree.leaves(nnx.state(network, nnx.Param))


def separated(statistics: nnx.State) -> tuple[nnx.State, nnx.State]:
    """Of what `models.split` separates from the parameters, the frozen weights, and all else."""
    frozen, rest = nnx.split_state(statistics, Frozen, ...)
    return frozen, rest


def described(options: Mapping[str, Any]) -> str:
    """How the options of a model say that its encoder was trained, in a few words."""
    how, blocks = options.get("tune", "all"), options.get("blocks", 0)
    if how == "last":
        return f"its last {blocks or 1} blocks or stages trained"
    if how == "lora":
        where = f"the last {blocks} blocks" if blocks else "all blocks"
        rank, alpha = options.get("rank", 8), options.get("alpha", 8.0)
        return f"low-rank updates (LoRA, rank {rank}, alpha {alpha:g}) of {options.get('targets', TARGETS)} in {where}"
    return "not trained" if how == "frozen" else "trained whole"
