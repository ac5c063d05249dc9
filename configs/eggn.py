"""EGGN (Pattern Recognition 145, 2024, 109966) on features that stjax embed made with an encoder,
`--config.features=NAME`: a graph of a section's spots and of the training spots that are most like them."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model, and its published optimisation."""
    config = built_in("default")
    config.model.module = "eggn"
    config.model.variant = "full"
    config.model.aux = False
    del config.model.options["rematerialise"]
    config.model.options.nearest = 6  # exemplars of a spot
    config.model.options.near = "grid8"  # neighbours on the array; as_released: five of them
    config.model.options.example_y = "true"  # what an exemplar tells; as_released: not its expression
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
