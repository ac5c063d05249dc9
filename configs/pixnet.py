"""PixNet (arXiv 2503.01347) on spots of 100 um: ResNet18 pyramid, decoder of width 512, sums over discs.

Its data set is made of tiles: python -m data_prep.build --tile-size-px 1024 ...
"""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with this model, its protocol and its loss."""
    config = built_in("default")
    config.protocol = "pixnet"
    config.model.module = "pixnet"
    config.model.variant = "resnet18"
    config.model.aux = False
    config.model.options.aggregation = "sum"  # the paper's; mean or additive carry over to other sizes
    config.model.options.width = 512
    config.loss = "mse_pcc"  # additive_nll for aggregation additive
    config.eval_batch_size = 8
    config.demo.tile_size_px = 256
    config.demo.batch_size = 4
    config.demo.num_epochs = 40
    config.demo.optimizer = "adamw"
    config.demo.learning_rate = 1e-3
    return config
