"""stjax's fast model: what a frozen EfficientNet-Lite0 sees of three fields of view, solved in closed form.

Each spot is described by the mean and deviation of every channel of every stage, and by colour statistics, of windows
one, three and five patches wide; over each section these are standardised, which takes out most of its stain. A
reduced-rank ridge regression predicts all genes from them. Training makes the features first, from the raw images below
`--config.embed.source=RAW`, as `stjax embed` does; they stay with the data set.
"""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The ridge on these features."""
    config = built_in("ridge_features")
    config.features = "multiscale"
    config.embed.encoder, config.embed.pooling, config.embed.fields = "efficientnet_lite0", "moments", "1,3,5"
    config.standardise_features = "section"
    config.rank = 8
    return config
