"""SGN that learns all genes but the panel's, and predicts those from their names alone."""

from stjax.config import Config, built_in


def get_config() -> Config:
    """SGN as published: each step is of some of the other genes, which AuxNet has elsewhere."""
    config = built_in("sgn")
    config.model.aux = True
    config.model.options.genes = "zero_shot"
    config.model.options.drawn = 64  # genes of a step
    config.loss = "zero_shot"
    return config
