"""EfficientNet-b0 with AuxNet, BrST-Net's best (Sci Rep 2023, Table 1); `--config.model.aux=False` drops AuxNet."""

from typing import Any

from configs import default


def get_config() -> Any:
    """The default with this model."""
    return default.get_config()
