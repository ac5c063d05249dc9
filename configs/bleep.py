"""BLEEP: the mean expression of the training spots whose expression is embedded nearest to the patch. This one embeds
features that stjax embed made, `--config.features=NAME`; bleep_trained.py trains a network of patches, as published."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model, trained as published."""
    config = built_in("default")
    config.model.module = "bleep"
    config.model.variant = "frozen"
    config.model.aux = False
    config.model.options.k = 50  # training spots in a mean
    config.model.options.temperature = 1.0  # divides the products of embeddings in the loss
    config.model.options.normalise = False  # True: embeddings of unit length in the loss, which is not published
    config.loss = "bleep"  # bleep_detached: without a gradient through what is aimed at
    config.spots_per_item = 32
    config.batch_size = 8  # 256 spots, each against all others
    config.eval_batch_size = 8
    config.num_epochs = 150
    config.optimizer = "adamw"
    config.learning_rate = 1e-3
    config.weight_decay = 1e-3
    config.schedule = "constant"
    config.augment = False
    return config
