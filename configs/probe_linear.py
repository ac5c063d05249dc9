"""A linear layer on features that stjax embed made with an encoder, `--config.features=NAME`."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model."""
    config = built_in("default")
    config.model.module = "probe"
    config.model.variant = "linear"
    config.model.aux = False  # it would share nothing with the main head
    del config.model.options["rematerialise"]
    config.batch_size = 64
    config.num_epochs = 50
    config.optimizer = "adamw"
    config.learning_rate = 1e-4  # at 1e-3 it learns a few hundred spots by heart
    config.weight_decay = 1e-2
    config.schedule = "cosine"
    config.augment = False
    return config
