"""Features that a config describes, made before training where the data set lacks them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jax.sharding import Mesh

from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax.config import Config
from stjax.features import store
from stjax.features.images import fields_of
from stjax.inference import embedding


def make(config: Config, dataset: PatchDataset, mesh: Mesh) -> None:
    """Makes the features `config.features` by `config.embed`, as `stjax embed` does, or goes on with them.

    Raises:
        InputError: they are of windows larger than a patch, and the raw images are not given, or are others; or as
            `embedding.embed` says.
    """
    asked = config.embed
    path = dataset.path / store.FOLDER / config.features
    if not (config.features and asked.encoder) or (path / store.META).is_file():
        return
    fields = fields_of(asked.fields, "config.embed.fields")
    if len(fields) > 1 and not asked.source and config.data_dir:
        raise InputError(
            f"the features {config.features!r} of {dataset.path} are not made yet, and are of windows larger than a "
            "patch: give --config.embed.source=RAW, the folder of the raw images that the data set was built from"
        )
    print(f"features {config.features}: made first, and kept in {path}", flush=True)
    with _source(config, several=len(fields) > 1) as source:
        weights = Path(config.encoder_weights) if config.encoder_weights else None
        options = embedding.Options(asked.encoder, weights, pooling=asked.pooling, fields=fields, source=source)
        embedding.embed(dataset, config.features, options, mesh=mesh)


@contextlib.contextmanager
def _source(config: Config, *, several: bool) -> Iterator[Path | None]:
    """The folder of the raw images, where they are needed: the demo's are made again for as long as that takes."""
    if not several:
        yield None
    elif config.data_dir or config.embed.source:
        yield Path(config.embed.source)
    else:
        from stjax.data import demo_data  # the generator, which a run on data of one's own does not need

        with demo_data.raw(layout=config.demo.layout, patients=config.demo.patients, spots=config.demo.spots) as made:
            yield made
