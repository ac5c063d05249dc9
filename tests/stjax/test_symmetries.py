import jax
import jax.numpy as jnp
import numpy as np

from stjax import symmetries


def turned(images, which):
    return symmetries.turn(images, symmetries.symmetry(which))


def test_the_eight_symmetries_are_distinct_and_closed():
    image = jnp.arange(3 * 3 * 1).reshape(1, 3, 3, 1)
    seen = {np.asarray(turned(image, which)).tobytes() for which in range(8)}
    assert len(seen) == 8
    assert {np.asarray(turned(turned(image, 5), which)).tobytes() for which in range(8)} == seen


def test_turning_back_undoes_every_symmetry():
    images = jax.random.normal(jax.random.key(0), (8, 4, 4, 2))
    for parts in (*map(symmetries.symmetry, range(8)), symmetries.random_symmetries(8, jax.random.key(1))):
        np.testing.assert_array_equal(symmetries.turn_back(symmetries.turn(images, parts), parts), images)


def test_random_symmetry_draws_each_of_the_eight_about_equally_often():
    image = jnp.arange(9).reshape(1, 3, 3, 1)
    every = [np.asarray(turned(image, which))[0].tobytes() for which in range(8)]
    parts = symmetries.random_symmetries(800, jax.random.key(0))
    drawn = np.asarray(symmetries.turn(jnp.tile(image, (800, 1, 1, 1)), parts))
    counts = np.bincount([every.index(each.tobytes()) for each in drawn], minlength=8)
    assert counts.min() > 60
