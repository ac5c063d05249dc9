"""ResNet101 with AuxNet (BrST-Net, Sci Rep 2023, Table 1); `--config.model.aux=False` drops AuxNet."""

from typing import Any

from configs import default


def get_config() -> Any:
    """The default with this model."""
    config = default.get_config()
    config.model.module = "resnet"
    config.model.variant = "101"
    return config
