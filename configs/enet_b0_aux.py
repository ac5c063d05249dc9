"""EfficientNet-b0 with AuxNet, BrST-Net's best (Sci Rep 2023, Table 1); `--config.model.aux=False` drops AuxNet."""

from typing import Any

from stjax.config import built_in


def get_config() -> Any:
    """The default with this model."""
    return built_in("default")
