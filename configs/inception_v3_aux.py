"""Inception-v3, its own auxiliary classifier off, with AuxNet (BrST-Net, Sci Rep 2023, Table 1)."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model."""
    config = built_in("default")
    config.model.module = "inception"
    config.model.variant = "v3"
    return config
