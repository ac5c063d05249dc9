"""stjax: spatial gene expression from H&E histology, in JAX. For research, not for diagnosis.

>>> import stjax
>>> model = stjax.fit("enet_b0_aux", stjax.prepare("raw/her2st", "data/her2st"))
>>> model.predict("slide.svs").to_anndata()
"""

import importlib
from typing import TYPE_CHECKING, Any

import data_prep  # noqa: F401 -- from here on Ctrl-C ends a command with a word, see `data_prep.startup`

if TYPE_CHECKING:
    from data_prep.errors import InputError
    from stjax.api import Model, Prediction, load
    from stjax.api.training import fit, prepare

__all__ = ["InputError", "Model", "Prediction", "fit", "load", "prepare"]

_PLACES = {
    "InputError": "data_prep.errors",
    **dict.fromkeys(("Model", "Prediction", "load"), "stjax.api"),
    **dict.fromkeys(("fit", "prepare"), "stjax.api.training"),
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `import stjax` alone takes no time."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
