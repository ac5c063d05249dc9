"""HisToGene: a transformer over the spots of a section, of their pixels; `--config.model.variant=features` takes those
that stjax embed made, `--config.features=NAME`.

Its positions are the columns and rows of the array. A step takes a section, and there are few of them: epochs are many.
"""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model, trained as published."""
    config = built_in("default")
    config.model.module = "histogene"
    config.model.variant = "pixels"
    config.model.aux = False
    config.model.options.crop_px = 112  # the middle of each patch; 0: all of it
    config.model.options.pixels = "normalised"  # or as_released: 0 to 255
    config.batch_size = 1
    config.eval_batch_size = 1
    config.num_epochs = 100
    config.optimizer = "adam"
    config.learning_rate = 1e-5
    config.schedule = "constant"
    config.augment = False
    return config
