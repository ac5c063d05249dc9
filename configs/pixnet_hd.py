"""PixNet on Visium HD: bins of 2, 8 and 16 um together (arXiv 2503.01347, Table 3), as rates whose sums are counts.

Its data set: python -m data_prep.build --layout visium_hd --tile-size-px 512 --min-counts 0 ...
"""

from stjax.config import Config, built_in


def get_config() -> Config:
    """PixNet with every bin size, each weighing the same."""
    config = built_in("pixnet")
    config.spot_sizes_um = "2,8,16"
    config.model.options.aggregation = "additive"
    config.loss = "additive_nll"
    config.demo.layout = "visium_hd"
    config.demo.patients = 3
    config.demo.spots = 20
    return config
