"""A narrow EfficientNet on a small demo data set: seconds on a CPU. For tests and for trying things out."""

from typing import Any

from configs import default


def get_config() -> Any:
    """The default with this model."""
    config = default.get_config()
    config.model.variant = "tiny"
    config.demo.patch_size_px = 32
    config.demo.patients = 3
    config.demo.batch_size = 16
    config.demo.num_epochs = 2
    return config
