"""Colour and texture statistics of patches on the device."""

import jax
import jax.numpy as jnp

_QUANTILES = (0.1, 0.5, 0.9)
_DARK, _DIM, _BRIGHT = 100, 140, 220
_ROUNDING = 2.0**-20  # as `stjax.metrics.ROUNDING`: a channel that varies by less does not vary


def colour_statistics(images: jax.Array) -> jax.Array:
    """The thirty numbers of `baselines.colour_statistics`, which the baseline "ridge on colour" is fitted to.

    Args:
        images: [B, H, W, 3] uint8.

    Returns:
        [B, 30] float32: per channel of RGB and of optical density mean, deviation and quantiles; dark and bright
        fractions; mean absolute gradient along rows and columns; correlations between channels.
    """
    pixels = images.astype(jnp.float32)
    rgb = pixels.reshape(images.shape[0], -1, 3)
    density, grey = -jnp.log((rgb + 1) / 256), jnp.mean(pixels, axis=-1)
    quantiles = jnp.moveaxis(jnp.quantile(rgb, jnp.asarray(_QUANTILES), axis=1), 0, 1).reshape(rgb.shape[0], -1)
    fractions = [grey < _DARK, grey < _DIM, grey > _BRIGHT]
    of_grey = [jnp.mean(each, axis=(1, 2), dtype=jnp.float32) for each in fractions]
    of_grey += [jnp.mean(jnp.abs(jnp.diff(grey, axis=axis)), axis=(1, 2)) for axis in (1, 2)]
    of_grey.append(jnp.std(grey, axis=(1, 2)))
    of_channels = [of(each, axis=1) for each in (rgb, density) for of in (jnp.mean, jnp.std)]
    parts = [*of_channels[:2], quantiles, *of_channels[2:], jnp.stack(of_grey, axis=-1), _correlations(density)]
    return jnp.concatenate(parts, axis=-1)


def _correlations(density: jax.Array) -> jax.Array:
    """[B, P, 3] to the correlations [B, 3] of the first channel with the second and third, and of these; 0 of a channel
    that does not vary."""
    mean = jnp.mean(density, axis=1, keepdims=True)
    products = jnp.einsum("bpi,bpj->bij", density - mean, density - mean, precision="highest") / density.shape[1]
    variance = jnp.diagonal(products, axis1=1, axis2=2)  # [B, 3]
    varies = variance > _ROUNDING**2 * (jnp.square(mean[:, 0]) + variance)
    inverse = jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, variance, 1)), 0)
    found = products * inverse[:, :, None] * inverse[:, None]
    return jnp.stack([found[:, 0, 1], found[:, 0, 2], found[:, 1, 2]], axis=-1)
