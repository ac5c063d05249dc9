"""PixNet over a published encoder, here frozen: its map of tokens, or its own pyramid, under PixNet's decoder.

Its weights are yours to get (`python -m stjax.encoders h0_mini` says where): --config.init_from=model.safetensors
"""

from typing import Any

from stjax.config import built_in


def get_config() -> Any:
    """PixNet with an encoder of `stjax.encoders`."""
    config = built_in("pixnet")
    config.model.variant = "h0_mini"
    config.model.options.pyramid = "simple"  # of a transformer's last tokens; taps: of four of its blocks
    config.model.options.window_px = 0  # of a tile that the encoder sees at once; 0: what it was trained on
    config.model.options.aggregation = "additive"
    config.model.options.tune = "frozen"  # frozen; last: the last blocks or stages; lora; all
    config.model.options.blocks = 0  # of last and lora: so many of the last blocks; 0: one, or all
    config.model.options.rank = 8
    config.model.options.alpha = 8.0  # updates are scaled by alpha / rank
    config.model.options.targets = "attention.qkv,attention.out"  # mlp1 and mlp2 may be, too
    config.loss = "additive_nll"
    config.demo.num_epochs = 2
    return config
