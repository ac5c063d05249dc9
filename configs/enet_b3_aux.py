"""EfficientNet-b3 with AuxNet (BrST-Net, Sci Rep 2023, Table 1); `--config.model.aux=False` drops AuxNet."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model."""
    config = built_in("default")
    config.model.variant = "b3"
    return config
