import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import attention as attention_module
from stjax.ops.attention import attention, attention_plain


def test_attention_equals_jax_values_and_gradients():
    query, key, value, dy = jax.random.normal(jax.random.key(0), (4, 2, 7, 3, 8))
    expected, expected_vjp = jax.vjp(jax.nn.dot_product_attention, query, key, value)
    for function in (attention, attention_plain):
        found, vjp = jax.vjp(function, query, key, value)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        for one, other in zip(vjp(dy), expected_vjp(dy), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_attention_keeps_dtype():
    x = jnp.ones((1, 5, 2, 8), jnp.bfloat16)
    assert attention(x, x, x).dtype == jnp.bfloat16


def test_what_is_exported_has_no_kernel_of_one_platform(monkeypatch):
    """As on a machine with a GPU, whose kernel jax.export could not promise to run."""
    monkeypatch.setattr(attention_module.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention_module, "_fused", attention_plain)
    query = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    assert attention_module._has_fused_kernel(query)
    with attention_module.portable():
        assert not attention_module._has_fused_kernel(query)
    assert attention_module._has_fused_kernel(query)
