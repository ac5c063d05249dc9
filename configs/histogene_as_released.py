"""HisToGene as its code is: pixels from 0 to 255."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """`configs/histogene.py` with what is better otherwise."""
    config = built_in("histogene")
    config.model.options.pixels = "as_released"
    return config
