"""Optimisers and learning-rate schedules. Updates are scaled by the learning rate last, so that a schedule may follow
the validation loss; SGD with momentum, Adam and AdamW are then exactly PyTorch's."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from data_prep.errors import InputError

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "cosine_5_epochs", "plateau")


def make_optimizer(
    name: str, *, momentum: float, weight_decay: float, max_gradient_norm: float = 0.0
) -> optax.GradientTransformation:
    """The direction of a step, before the learning rate.

    Args:
        name: "sgd" (momentum on gradient plus decay, as torch.optim.SGD), "adam" (decay added to the gradient, as
            torch.optim.Adam) or "adamw" (decoupled decay on matrices and convolutions; biases and normalisation
            scales are not decayed).
        max_gradient_norm: a gradient whose norm over all parameters is larger is scaled down to it, before anything
            else, as torch.nn.utils.clip_grad_norm_; 0 leaves it as it is.

    Raises:
        InputError: another name.
    """
    clip = [optax.clip_by_global_norm(max_gradient_norm)] if max_gradient_norm else []
    if name == "sgd":
        return optax.chain(*clip, optax.add_decayed_weights(weight_decay), optax.trace(decay=momentum))
    if name == "adam":
        return optax.chain(*clip, optax.add_decayed_weights(weight_decay), optax.scale_by_adam())
    if name == "adamw":

        def decayed(params: Any) -> Any:
            return jax.tree.map(lambda parameter: jnp.ndim(parameter) > 1, params)

        return optax.chain(*clip, optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask=decayed))
    raise InputError(f"config.optimizer is {name!r}; choose one of {', '.join(OPTIMIZERS)}")


def apply_updates(params: Any, updates: Any, learning_rate: jax.Array) -> Any:
    """Parameters after a step of the given learning rate against `updates`."""
    return jax.tree.map(lambda p, u: (p - learning_rate * u).astype(p.dtype), params, updates)


def averaged(average: Any, new: Any, step: jax.Array, *, decay: float) -> Any:
    """The exponential moving average of a tree of arrays after a step.

    Args:
        average, new: trees of the same form: the average so far, and the values after the step.
        step: counted from 0.
        decay: weight of the average so far. At the start it is (1 + n) / (10 + n) of the n-th step if that is less, so
            that the initial weights are soon forgotten (Polyak averaging as in TensorFlow's ExponentialMovingAverage).
    """
    count = step.astype(jnp.float32) + 1
    weight = jnp.minimum(jnp.float32(decay), (1 + count) / (10 + count))
    return jax.tree.map(lambda old, value: (old + (1 - weight) * (value - old)).astype(old.dtype), average, new)


@dataclasses.dataclass
class Schedule:
    """Learning rate by step, and what the validation loss has said so far. Its state is plain numbers (JSON).

    Attributes:
        name: one of `SCHEDULES`. "cosine" falls to 0 over all steps; "cosine_5_epochs" is the published code's
            `CosineAnnealingLR(T_max=5)` stepped per epoch, which is 0 in epoch 5 and back to full in epoch 10;
            "plateau" multiplies by `factor` after `patience` epochs without a better validation loss.
        base: the full learning rate.
        warmup_steps: linear rise from base / warmup_steps at the start; a quarter of all steps where that is less.
        early_stopping_patience: epochs without a better loss after which training ends; 0 never ends early.
    """

    name: str
    base: float
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int = 0
    factor: float = 0.1
    patience: int = 5
    early_stopping_patience: int = 0
    scale: float = 1.0
    best_loss: float = math.inf
    epochs_without_gain: int = 0
    epochs_at_scale: int = 0

    @classmethod
    def of(cls, config: Any, *, steps_per_epoch: int) -> "Schedule":
        """The schedule that a config names."""
        return cls(
            config.schedule,
            config.learning_rate,
            total_steps=steps_per_epoch * config.num_epochs,
            steps_per_epoch=steps_per_epoch,
            warmup_steps=config.warmup_steps,
            early_stopping_patience=config.early_stopping_patience,
        )

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise InputError(f"config.schedule is {self.name!r}; choose one of {', '.join(SCHEDULES)}")
        self.warmup_steps = min(self.warmup_steps, self.total_steps // 4)

    def learning_rate(self, step: int) -> float:
        """The rate of step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.base * (step + 1) / self.warmup_steps
        if self.name == "cosine":
            progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
            return self.base * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        if self.name == "cosine_5_epochs":
            return self.base * 0.5 * (1 + math.cos(math.pi * (step // self.steps_per_epoch) / 5))
        return self.base * self.scale

    def end_epoch(self, loss: float) -> bool:
        """Notes the epoch's validation (or training) loss; returns whether it is the best so far."""
        better = loss < self.best_loss
        if better:
            self.best_loss, self.epochs_without_gain, self.epochs_at_scale = loss, 0, 0
        else:
            self.epochs_without_gain += 1
            self.epochs_at_scale += 1
            if self.name == "plateau" and self.epochs_at_scale > self.patience:
                self.scale, self.epochs_at_scale = self.scale * self.factor, 0
        return better

    @property
    def finished(self) -> bool:
        """Whether early stopping asks for the end."""
        return 0 < self.early_stopping_patience <= self.epochs_without_gain

    def state(self) -> dict[str, Any]:
        """What the schedule has learnt so far, for a checkpoint."""
        best = None if math.isinf(self.best_loss) else self.best_loss  # JSON has no infinity
        return {
            "scale": self.scale,
            "best_loss": best,
            "epochs_without_gain": self.epochs_without_gain,
            "epochs_at_scale": self.epochs_at_scale,
            "steps_per_epoch": self.steps_per_epoch,  # tells later how many epochs a step is
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` returned."""
        best = state["best_loss"]
        self.scale, self.best_loss = state["scale"], math.inf if best is None else best
        self.epochs_without_gain, self.epochs_at_scale = state["epochs_without_gain"], state["epochs_at_scale"]
