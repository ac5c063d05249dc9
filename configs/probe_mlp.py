"""A perceptron with AuxNet on features that stjax embed made with an encoder, `--config.features=NAME`."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The linear probe's, with 512 hidden units that main head and AuxNet share."""
    config = built_in("probe_linear")
    config.model.variant = "mlp"
    config.model.aux = True
    return config
