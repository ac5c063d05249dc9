"""EGN: a vision transformer of the patch, told what the nearest training spots of other patients express. Nearest are
they by features that stjax embed made, `--config.features=NAME`. Patches are multiples of 32 px, the published 256."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model, trained as published."""
    config = built_in("default")
    config.model.module = "egn"
    config.model.variant = "full"
    config.model.aux = False
    config.model.options.nearest = 6  # as released; the paper says 9
    config.loss = "mse_pcc"
    config.spots_per_item = 1
    config.batch_size = 32
    config.eval_batch_size = 32
    config.num_epochs = 50
    config.optimizer = "adamw"
    config.learning_rate = 5e-4
    config.weight_decay = 1e-4
    config.schedule = "cosine"
    config.warmup_steps = 100
    config.augment = False
    return config
