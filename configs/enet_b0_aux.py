"""EfficientNet-b0 with AuxNet, BrST-Net's best (Sci Rep 2023, Table 1); `--config.model.aux=False` drops AuxNet."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model."""
    return built_in("default")
