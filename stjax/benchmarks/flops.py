"""How much arithmetic a model needs, counted from its own program, and how fast this machine can do any."""

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


def matmul_rate(dtype: Any) -> float:
    """Operations a second of the default device in a square matrix product, the best of some rounds."""
    size, rounds = 2048, 5
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
