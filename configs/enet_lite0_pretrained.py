"""EfficientNet-Lite0 from its ImageNet weights (the extra `pretrained`), with AuxNet."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model."""
    config = built_in("default")
    config.model.variant = "lite0"
    config.init_from = "efficientnet-lite0"
    return config
