"""Packages that only some commands need: which of stjax's extras brings each, for whoever meets one that is missing."""

PURPOSES = {  # extra: what for
    "maps": "to draw maps of genes and overlays",
    "prep": "to prepare data",
    "train": "to train, score and export",
    "interop": "to write SpatialData",
    "hub": "to load models from the Hugging Face Hub",
}
EXTRAS = {  # name that is imported: extras that bring it, the smallest first
    "absl": ("train",),
    "array_record": ("prep", "train"),
    "clu": ("train",),
    "flax": ("train",),
    "geopandas": ("interop",),
    "grain": ("train",),
    "huggingface_hub": ("hub",),
    "importlib_resources": ("prep", "train"),
    "matplotlib": ("maps", "prep", "train"),
    "ml_collections": ("train",),
    "optax": ("train",),
    "orbax": ("train",),
    "pyarrow": ("prep", "train"),
    "shapely": ("interop",),
    "spatialdata": ("interop",),
    "tensorboardX": ("train",),
    "tensorflow_datasets": ("prep", "train"),
}


def explain(error: BaseException) -> str | None:
    """One line on a package that is not installed, where an extra brings it: how to get it. None for another error."""
    package = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    if package not in EXTRAS:
        return None
    ways = [f"'stjax[{extra}]' {PURPOSES[extra]}" for extra in EXTRAS[package]]
    return f"{package} is not installed: pip install {', or '.join(ways)}"
