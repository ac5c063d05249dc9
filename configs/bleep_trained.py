"""BLEEP with its network of patches trained too, as published: ResNet50, which starts from ImageNet's weights,
`--config.init_from=FILE`."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """`configs/bleep.py` of patches."""
    config = built_in("bleep")
    config.model.variant = "trained"
    config.model.options.backbone = "resnet50"  # a key of `pixnet.BACKBONES`
    config.spots_per_item = 1
    config.batch_size = 256
    config.eval_batch_size = 64
    config.augment = True
    return config
