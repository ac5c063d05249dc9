"""SGN (arXiv 2401.14772) on features that stjax embed made with an encoder, `--config.features=NAME`: a graph of a
section's spots, and weights made of each gene's name. It learns the panel's genes; sgn_zero_shot.py learns others."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model, and its published optimisation."""
    config = built_in("default")
    config.model.module = "sgn"
    config.model.variant = "full"
    config.model.aux = False
    del config.model.options["rematerialise"]
    config.model.options.genes = "panel"
    config.model.options.near = "grid8"  # neighbours on the array; as_released: five of them
    config.loss = "mse_pcc"
    config.batch_size = 1  # sections
    config.eval_batch_size = 1
    config.num_epochs = 300
    config.optimizer = "adamw"
    config.learning_rate = 5e-4
    config.weight_decay = 1e-4
    config.schedule = "constant"
    config.augment = False
    return config
