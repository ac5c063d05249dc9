import jax
import pytest

from data_prep.errors import InputError
from stjax import bench, parallel


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (AssertionError(), "no such device, or no plugin for it"),  # JAX_PLATFORMS=cuda without CUDA's plugin
        (
            RuntimeError(
                "Unable to initialize backend 'cudaa': Backend 'cudaa' is not in the list of known backends: ['cpu']. "
                "(set JAX_PLATFORMS='' to automatically choose an available backend)"
            ),
            r"Backend 'cudaa' is not in the list of known backends: \['cpu'\]; unset it",
        ),
    ],
)
@pytest.mark.parametrize("look", [parallel.all_devices, parallel.make_mesh, bench.machine])
def test_a_platform_that_is_not_there_is_told(look, error, found, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(InputError, match=f"JAX_PLATFORMS is 'cpu', which JAX cannot use here: .*{found}"):
        look()
