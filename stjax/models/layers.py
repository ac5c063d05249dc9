"""The layers the backbones share, with torchvision's definitions: convolution, BatchNorm, linear, stochastic depth."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from stjax.ops.cpu.conv import conv
from stjax.ops.cpu.depthwise import depthwise_conv
from stjax.ops.cpu.elementwise import relu

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]
Activation = Callable[[jax.Array], jax.Array]


def _generator(key: jax.Array) -> np.random.Generator | None:
    """NumPy's generator seeded by a key; None while tracing. A network has a hundred shapes of parameters, each of
    which jax.random would compile a program for, ten seconds in all."""
    return None if isinstance(key, Tracer) else np.random.default_rng(np.asarray(jax.random.key_data(key)))


def normal(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    """Normal float32 numbers of mean 0."""
    if (generator := _generator(key)) is None:
        return jax.random.normal(key, shape) * np.float32(std)
    return jnp.asarray(generator.standard_normal(shape, np.float32) * np.float32(std))


def uniform(key: jax.Array, shape: tuple[int, ...], bound: float) -> jax.Array:
    """Uniform float32 numbers within `bound` of 0."""
    if (generator := _generator(key)) is None:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    return jnp.asarray((2 * generator.random(shape, np.float32) - 1) * np.float32(bound))


def kaiming_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """torch's `kaiming_normal_(mode="fan_out")` for a [kh, kw, I, O] kernel (also a depthwise one: its fan is k * k * C
    there)."""
    return normal(key, shape, math.sqrt(2.0 / (shape[0] * shape[1] * shape[3])))


def xavier_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """torch's `xavier_uniform_` for a [I, O] kernel."""
    return uniform(key, shape, math.sqrt(6.0 / (shape[0] + shape[1])))


def constant(value: float, count: int) -> jax.Array:
    """[count] float32, without compiling a program for each length."""
    return jnp.asarray(np.full(count, value, np.float32))


def wide(x: jax.Array) -> jax.Array:
    """x in float32, or in its own dtype where that is wider: what sums and statistics are taken in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Conv(nnx.Module):
    """2-D convolution on NHWC, float32 kernel [kh, kw, I, O], computed in the dtype of its input.

    Args:
        kernel_size: side, or (rows, columns).
        padding: zeros on each side, or (rows, columns); by default what keeps the size at stride 1. "tensorflow":
            TensorFlow's SAME, the odd one of an even number of zeros at the end.
        depthwise: one filter a channel; `inputs` equals `outputs`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | Literal["tensorflow"] | None = None,
        depthwise: bool = False,
        bias: bool = False,
        init: Initializer = kaiming_normal,
        rngs: nnx.Rngs,
    ):
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if padding is None:
            padding = ((size[0] - 1) // 2, (size[1] - 1) // 2)
        self.same_as_tensorflow = padding == "tensorflow"
        if padding == "tensorflow":
            padding = 0
        self.stride, self.depthwise = stride, depthwise
        self.padding = (padding, padding) if isinstance(padding, int) else padding
        self.kernel = nnx.Param(init(rngs.params(), (*size, 1 if depthwise else inputs, outputs)))
        self.bias = nnx.Param(constant(0, outputs)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, inputs] to [B, h, w, outputs]."""
        kernel = self.kernel[...].astype(x.dtype)
        if self.same_as_tensorflow:
            zeros = [
                max((-(-length // self.stride) - 1) * self.stride + size - length, 0)
                for length, size in zip(x.shape[1:3], kernel.shape[:2], strict=True)
            ]
            x = jnp.pad(x, ((0, 0), *((count // 2, count - count // 2) for count in zeros), (0, 0)))
        if self.depthwise:
            x = depthwise_conv(x, kernel, stride=self.stride, padding=self.padding[0])
        else:
            x = conv(x, kernel, stride=self.stride, padding=self.padding)
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)[None, None, None]


class BatchNorm(nnx.Module):
    """torch.nn.BatchNorm2d on NHWC. Under jit over a sharded batch the statistics are those of the global batch.

    Args:
        momentum: torch's, the weight of the new batch (flax's is one minus it).

    Attributes:
        frozen: it normalises as when predicting, whatever it is told.
    """

    frozen = False

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1):
        self.eps, self.momentum = eps, momentum
        self.scale, self.bias = nnx.Param(constant(1, channels)), nnx.Param(constant(0, channels))
        self.mean, self.var = nnx.BatchStat(constant(0, channels)), nnx.BatchStat(constant(1, channels))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] to the same; statistics in float32, normalised by the biased variance, running variance
        unbiased."""
        mean, var = self.mean[...], self.var[...]
        if train and not self.frozen:
            mean = jnp.mean(wide(x), axis=(0, 1, 2))
            var = jnp.maximum(jnp.mean(wide(x) ** 2, axis=(0, 1, 2)) - mean * mean, 0.0)
            count = x.size // x.shape[-1]
            unbiased = jax.lax.stop_gradient(var) * (count / max(count - 1, 1))
            self.mean[...] += self.momentum * (jax.lax.stop_gradient(mean) - self.mean[...])
            self.var[...] += self.momentum * (unbiased - self.var[...])
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        offset = self.bias[...] - mean * factor
        return (wide(x) * factor[None, None, None] + offset[None, None, None]).astype(x.dtype)


class ConvNorm(nnx.Module):
    """Convolution, BatchNorm and an activation; takes `Conv`'s options."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int | tuple[int, int],
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        act: Activation | None = relu,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.act = act
        self.conv = Conv(inputs, outputs, kernel_size, rngs=rngs, **options)
        self.norm = BatchNorm(outputs, eps=eps, momentum=momentum)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] to [B, h, w, outputs]."""
        x = self.norm(self.conv(x), train=train)
        return x if self.act is None else self.act(x)


class Linear(nnx.Module):
    """x kernel + bias, where there is one, on the last axis, computed in the dtype of its input.

    Attributes:
        update: a function of x that is added, see `tuning`.
    """

    update: Any = None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        init: Initializer,
        bias: bool = True,
        bias_std: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(normal(rngs.params(), (outputs,), bias_std)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] to [..., outputs]."""
        y = x @ self.kernel[...].astype(x.dtype)
        if self.bias is not None:
            y = y + jnp.expand_dims(self.bias[...], tuple(range(x.ndim - 1))).astype(x.dtype)
        return y if self.update is None else y + self.update(x)


class LayerNorm(nnx.Module):
    """torch.nn.LayerNorm over the last axis, in float32."""

    def __init__(self, features: int, *, eps: float):
        self.eps = eps
        self.scale, self.bias = nnx.Param(constant(1, features)), nnx.Param(constant(0, features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] to the same."""
        centred = wide(x) - jnp.mean(wide(x), axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        scale, bias = (jnp.expand_dims(p[...], tuple(range(x.ndim - 1))) for p in (self.scale, self.bias))
        return (centred * factor * scale + bias).astype(x.dtype)


def stochastic_depth(x: jax.Array, *, rate: float, train: bool, key: jax.Array | None) -> jax.Array:
    """Drops whole residual branches, image by image ("row" mode), and scales the kept ones up."""
    if not train or rate == 0.0 or key is None:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return x * (keep / (1 - rate)).astype(x.dtype)


def dropout(x: jax.Array, *, rate: float, train: bool, key: jax.Array | None) -> jax.Array:
    """Leaves out a share of the numbers, and scales the others up; when training alone."""
    if not train or rate == 0.0 or key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def global_average(x: jax.Array) -> jax.Array:
    """[B, H, W, C] to [B, C], float32."""
    return jnp.mean(wide(x), axis=(1, 2))


def run(
    block: Any,
    x: jax.Array,
    *more: Any,
    train: bool,
    key: jax.Array | None = None,
    rematerialise: bool = False,
) -> Any:
    """block(x, *more, train=train, key=key).

    Args:
        rematerialise: keep none of the block's inner results for the gradient, compute them again instead: slower by
            a forward pass, far smaller.
    """

    def call(block: Any, key: jax.Array | None, *inputs: jax.Array | None) -> jax.Array:
        return block(*inputs, train=train, key=key)

    return (nnx.remat(call) if rematerialise and train else call)(block, key, x, *more)


def fold(key: jax.Array | None, number: int) -> jax.Array | None:
    """A key of its own for the part numbered so, where there is a key at all."""
    return None if key is None else jax.random.fold_in(key, number)


def unknown_variant(module: str, variant: str, known: Any) -> str:
    """The message for a variant that a module lacks."""
    return f"config.model.variant is {variant!r}; {module} has {', '.join(known)}"
