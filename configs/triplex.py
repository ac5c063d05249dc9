"""TRIPLEX: a spot from its patch, the 5 x 5 windows around it, and all spots of its section. Windows and spots are
features that stjax embed --context=5 made, `--config.features=NAME`.

The published encoder is Ciga's ResNet18, for the features and as the start of the patch's network, which is trained:
`--config.init_from=tenpercent_resnet18.ckpt`.
"""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model, trained as the code of 2024 is."""
    config = built_in("default")
    config.model.module = "triplex"
    config.model.variant = "her2st"  # or stnet, skin: sizes as published for these data sets
    config.model.aux = False
    config.model.options.backbone = "resnet18"  # of the patch, a key of `pixnet.BACKBONES`
    config.model.options.neighbour_mlp = "ratio"  # or as_released: a width of 1 or 4 in place of a ratio
    config.model.options.target_layer = True  # a layer on the patch's tokens, as in the code of 2025
    config.loss = "triplex"
    config.spots_per_item = 32
    config.batch_size = 4
    config.eval_batch_size = 4
    config.num_epochs = 200
    config.optimizer = "adam"
    config.learning_rate = 1e-4
    config.schedule = "constant"
    config.early_stopping_patience = 20
    return config
