"""ST-Net: DenseNet-121 under its own protocol, which the paper starts from ImageNet weights: give them with
`--config.init_from=densenet121.safetensors`."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model."""
    config = built_in("default")
    config.model.module = "densenet"
    config.model.variant = "121"
    config.model.aux = False
    config.protocol = "stnet"
    return config
