"""TRIPLEX as its code of 2024 is, by which the published results seem to be: windows' perceptrons of 1 unit (her2st,
skin) or 4 (stnet), and no layer on the patch's tokens."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """`configs/triplex.py` with what was corrected in 2025."""
    config = built_in("triplex")
    config.model.options.neighbour_mlp = "as_released"
    config.model.options.target_layer = False
    return config
