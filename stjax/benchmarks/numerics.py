"""Whether models compute on this device what they compute on the CPU: `python -m stjax.bench --what=numerics`.

Random weights and images, in inference. The reference is float32 on the CPU. On the device float32 is computed at the
highest precision of its matrix products, which GPUs round to fewer digits by default, and bfloat16 as training does.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from stjax import models
from stjax.benchmarks import Row, row_of

# Greatest difference allowed, as a share of the greatest value: of other orders of summation, and of 8 bits a number.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
_BATCH = 2


def rows(networks: Mapping[str, tuple[str, str]], *, image_size_px: int, outputs: int) -> Iterator[Row]:
    """A row for each model and precision; one that is further off than `TOLERANCE` says so as its "fault".

    Args:
        networks: module and variant of each model, by its name.
    """
    cpu, device = jax.local_devices(backend="cpu")[0], jax.devices()[0]
    images = np.random.default_rng(0).normal(size=(_BATCH, image_size_px, image_size_px, 3)).astype(np.float32)
    for name, (module, variant) in networks.items():

        def output(dtype: str, on: Any, module: str = module, variant: str = variant) -> np.ndarray:
            facts = {"image_size_px": image_size_px}
            with jax.default_device(cpu):  # the same random numbers for all
                model = models.build(
                    module=module, variant=variant, num_main=outputs, num_aux=0, dtype=dtype, facts=facts,
                    rngs=nnx.Rngs(0),
                )  # fmt: skip
                graphdef, params, state = models.split(model)
            given = jax.device_put((params, state, images), on)

            @jax.jit
            def forward(params: nnx.State, state: nnx.State, images: jax.Array) -> jax.Array:
                return models.apply(graphdef, params, state, {"images": images}, train=False, key=None)[0]["main"]

            precision = "highest" if dtype == "float32" else None
            with jax.default_matmul_precision(precision):
                return np.asarray(forward(*given), np.float64)

        reference = output("float32", cpu)
        for dtype, most in TOLERANCE.items():
            started = time.perf_counter()
            error = float(np.abs(output(dtype, device) - reference).max() / np.abs(reference).max())
            seconds = time.perf_counter() - started
            about = f"{error:.1e} from float32 on the CPU, {most:g} allowed"
            row = row_of(f"{name} {image_size_px} px", f"{dtype} on {device.device_kind}", seconds, note=about)
            if not error <= most:  # NaN too
                row["fault"] = f"{name} in {dtype} is {about}"
            yield row | {"error": error}
