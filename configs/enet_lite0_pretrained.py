"""EfficientNet-Lite0 from its ImageNet weights (the extra `pretrained`), with AuxNet."""

from typing import Any

from configs import default


def get_config() -> Any:
    """The default with this model."""
    config = default.get_config()
    config.model.variant = "lite0"
    config.init_from = "efficientnet-lite0"
    return config
