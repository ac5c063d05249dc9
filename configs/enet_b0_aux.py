"""EfficientNet-b0 with AuxNet, BrST-Net's best model (Sci Rep 2023, Table 1). `--config.model.aux=False` drops AuxNet."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    return default.get_config()
