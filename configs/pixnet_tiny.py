"""A narrow PixNet on a small demo data set of tiles: a minute on a CPU. For tests and for trying things out."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """PixNet with a narrow encoder and decoder."""
    config = built_in("pixnet")
    config.model.variant = "efficientnet_tiny"
    config.model.options.width = 16
    config.model.options.aggregation = "additive"
    config.loss = "additive_nll"
    config.eval_batch_size = 4
    config.demo.tile_size_px = 128
    config.demo.patients = 3
    config.demo.batch_size = 4
    config.demo.num_epochs = 2
    return config
