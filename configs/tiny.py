"""A narrow EfficientNet on a small demo data set: seconds on a CPU. For tests and for trying things out."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model."""
    config = built_in("default")
    config.model.variant = "tiny"
    config.demo.patch_size_px = 32
    config.demo.patients = 3
    config.demo.batch_size = 16
    config.demo.num_epochs = 2
    return config
