"""How much arithmetic a model needs, counted from its own program; how fast this machine computes, reads and writes."""

import functools
import importlib
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def of_backbone(module: str, variant: str, *, image_size_px: int = 224) -> int:
    """Floating-point operations of one forward pass of one image: two a multiply-add, of convolutions and matrix
    products alone, as papers count them. (XLA's own count takes grouped convolutions for dense ones.)"""

    def forward(images: jax.Array) -> jax.Array:
        build = importlib.import_module(f"stjax.models.{module}").build
        model = build(variant, rngs=nnx.Rngs(jax.random.key(0)), image_size_px=image_size_px)
        return model(images, train=False, key=None)["features"]

    return of_function(forward, jax.ShapeDtypeStruct((1, image_size_px, image_size_px, 3), jnp.float32))


def of_function(function: Any, *arguments: Any) -> int:
    """The same for any function of arrays (or their shapes)."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            length = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * length
        elif name == "conv_general_dilated":
            kernel, output = equation.invars[1].aval, equation.outvars[0].aval
            channels_out = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * output.size * kernel.size // channels_out
        elif name == "cond":  # a choice by platform: the last branch is the plain one
            total += _of_jaxpr(params["branches"][-1].jaxpr)
        else:
            for value in params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    total += _of_jaxpr(inner)
    return total


@functools.cache
def matmul_rate(dtype: Any) -> float:
    """Operations a second of the default device in a square matrix product, the best of some rounds."""
    size = 2048
    return 2 * size**3 / _least_seconds(jnp.matmul, *[jnp.ones((size, size), dtype)] * 2)


@functools.cache
def bandwidth() -> float:
    """Bytes a second that the default device reads and writes in going over an array, the best of some rounds."""
    array = jnp.ones(1 << 25, jnp.float32)
    return 2 * array.nbytes / _least_seconds(lambda array: array + 1, array)


def _least_seconds(function: Any, *arguments: Any, rounds: int = 5) -> float:
    program = jax.jit(function)
    jax.block_until_ready(program(*arguments))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)
