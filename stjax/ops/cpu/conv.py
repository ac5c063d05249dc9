"""Dense convolution: native on GPU and TPU; on the CPU as matrix products wherever those are faster.

XLA's CPU backend runs a 1 x 1 convolution far below the speed of its matrix product: there it is a matrix product both
ways. Larger kernels are XLA's own (jax 0.10.2: their kernel gradients are as fast as matrix products, or faster).
`conv` chooses by the platform the program is compiled for; `conv_native` is the reference.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_MANY_PIXELS = 50 * 50  # a product for each image is worth while above
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> jax.Array:
    """2-D convolution (cross-correlation, as in torch).

    Args:
        x: [B, H, W, I].
        kernel: [kh, kw, I, O].
        padding: zeros on both sides of rows and of columns.

    Returns:
        [B, (H + 2 ph - kh) // stride + 1, (W + 2 pw - kw) // stride + 1, O] in x's dtype.
    """

    return _conv(x, kernel, stride, padding)


def conv_native(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> jax.Array:
    """`conv` through XLA's own convolution."""
    pads = [(pad, pad) for pad in padding]
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    return _forward(x, kernel, stride, padding)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def cpu(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Written out once, for the gradient as well: XLA would there work x out again from whatever made it, in a deep
        # residual network from every block before.
        x = lax.optimization_barrier(x)
        if kernel.shape[:2] == (1, 1) and padding == (0, 0):
            return jnp.einsum("bhwi,io->bhwo", x[:, ::stride, ::stride], kernel[0, 0]), x
        return conv_native(x, kernel, stride=stride, padding=padding), x

    def native(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        return conv_native(x, kernel, stride=stride, padding=padding), x

    y, x = lax.platform_dependent(x, kernel, cpu=cpu, default=native)
    return y, (x, kernel)


def _backward(
    stride: int, padding: tuple[int, int], saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def native(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(conv_native, stride=stride, padding=padding), x, kernel)[1](dy)

    def cpu(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        if kernel.shape[:2] != (1, 1) or padding != (0, 0):
            return native(x, kernel, dy)
        dx = _dilate(jnp.einsum("bhwo,io->bhwi", dy, kernel[0, 0]), x.shape, stride)
        return dx, _kernel_gradient(x[:, ::stride, ::stride], dy)[None, None]

    return lax.platform_dependent(*saved, dy, cpu=cpu, default=native)


_conv.defvjp(_forward, _backward)


def _dilate(dy: jax.Array, shape: tuple[int, ...], stride: int) -> jax.Array:
    """Spreads every `stride`-th pixel over an image of zeros."""
    if stride == 1:
        return dy
    high = [size - stride * (out - 1) - 1 for size, out in zip(shape[1:3], dy.shape[1:3], strict=True)]
    config = ((0, 0, 0), (0, high[0], stride - 1), (0, high[1], stride - 1), (0, 0, 0))
    return lax.pad(dy, jnp.zeros((), dy.dtype), config)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """[I, O] of a 1 x 1 convolution at stride 1, as matrix products over all pixels."""
    inputs, outputs, pixels = x.shape[-1], dy.shape[-1], dy.shape[1] * dy.shape[2]
    if inputs > outputs and pixels >= _MANY_PIXELS:
        # The left operand is transposed first: the smaller one then, image by image.
        return jnp.sum(jnp.einsum("bhwo,bhwi->boi", dy, x), axis=0).T
    return jnp.einsum("bhwi,bhwo->io", x, dy)
