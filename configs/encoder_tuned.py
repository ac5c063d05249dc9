"""A published encoder on patches, in the graph: low-rank updates of its attention (LoRA), and heads.

Its weights are yours to get (`python -m stjax.encoders kaiko_s16` says where): --config.init_from=vits16.pth
"""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The default with an encoder of `stjax.encoders`."""
    config = built_in("default")
    config.model.module = "encoder"
    config.model.variant = "kaiko_s16"
    config.model.options.tune = "lora"  # lora; last: the last blocks; frozen: the heads alone; all
    config.model.options.blocks = 0  # of lora and last: so many of the last blocks; 0: all, or the last one
    config.model.options.rank = 8
    config.model.options.alpha = 8.0  # updates are scaled by alpha / rank
    config.model.options.targets = "attention.qkv,attention.out"  # mlp1 and mlp2 may be, too
    config.optimizer = "adamw"
    config.learning_rate = 1e-4
    config.eval_batch_size = 32
    config.demo.learning_rate = 1e-4
    config.demo.num_epochs = 2
    return config
