import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops.cpu.elementwise import compiler_options, relu, written_out


def test_relu_equals_jax_values_and_gradients():
    x = jnp.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(relu(x), jax.nn.relu(x))
    np.testing.assert_array_equal(jax.vjp(relu, x)[1](x + 5)[0], jax.vjp(jax.nn.relu, x)[1](x + 5)[0])


def test_written_out_changes_nothing_but_where_loops_end():
    def chain(x):
        for _ in range(3):
            x = written_out(jnp.sin(x) + x[::-1])
        return x

    x = jnp.linspace(0.0, 1.0, 4096)
    compiled = jax.jit(chain, compiler_options=compiler_options()).lower(x).compile()
    np.testing.assert_allclose(compiled(x), chain(x), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: chain(x).sum())(x), np.asarray(jax.grad(lambda x: chain(x).sum())(x)))
    assert compiled.as_text().count("opt-barrier(") == 3
