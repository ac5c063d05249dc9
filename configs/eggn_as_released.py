"""EGGN as its published code computes it: five neighbours of eight, and exemplars that do not tell their expression."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """EGGN with the faults of its code."""
    config = built_in("eggn")
    config.model.options.near = "as_released"
    config.model.options.example_y = "as_released"
    return config
