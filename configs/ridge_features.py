"""Ridge regression in closed form on features that stjax embed made with an encoder, `--config.features=NAME`.

Its penalty is chosen on training patients that are held out (docs/evaluation.md).
"""

from stjax.config import Config, built_in


def get_config() -> Config:
    """The linear probe, solved in one step."""
    config = built_in("probe_linear")
    config.fit = "closed_form"
    return config
