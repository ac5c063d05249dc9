"""stjax: spatial gene expression from H&E histology, in JAX. For research, not for diagnosis.

>>> import stjax
>>> model = stjax.load("runs/enet_b0_aux")
>>> model.predict("slide.svs").to_anndata()
"""

import importlib
from typing import TYPE_CHECKING, Any

import data_prep  # noqa: F401 -- from here on Ctrl-C ends a command with a word, see `data_prep.startup`

if TYPE_CHECKING:
    from data_prep.errors import InputError
    from stjax.api import Model, Prediction, load

__all__ = ["InputError", "Model", "Prediction", "load"]

_PLACES = {"InputError": "data_prep.errors", "Model": "stjax.api", "Prediction": "stjax.api", "load": "stjax.api"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `import stjax` alone takes no time."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
