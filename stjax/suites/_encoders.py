"""Rows of suites with --encoder: every head that is of features, on those of each encoder."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from stjax import encoders
from stjax.suites import Cell, Embedding, Options

Models = Mapping[str, tuple[str, str, Mapping[str, object]]]  # row: name, config and its settings


class Method(NamedTuple):
    """A row of a table: how its runs are called and configured, and the features that they need.

    Attributes:
        head, encoder: where both differ between rows; else "".
        lacks: why it cannot be run here, "" when it can.
    """

    row: str
    name: str
    config: str
    settings: Mapping[str, object]
    features: Embedding | None = None
    head: str = ""
    encoder: str = ""
    lacks: str = ""

    def cell(self, fold: str, seed: int) -> Cell | None:
        """The place of one of its runs among heads and encoders."""
        return Cell(self.head, self.encoder, fold, seed) if self.encoder else None


def crossed(models: Models, features: Mapping[str, Embedding], options: Options) -> Iterator[Method]:
    """A row for each model or, of one that is of features, for each encoder that is asked for.

    Args:
        features: {what "features" of a model's settings may be: how they are made, where no encoder is asked for}.

    Raises:
        InputError: an encoder that is not known.
    """
    for row, (name, config, settings) in models.items():
        own = features.get(str(settings.get("features")))
        if own is None or not options.encoders:
            yield Method(row, name, config, settings, own)
            continue
        for encoder in options.encoders:
            made = own
            if encoder != own.encoder:
                made = Embedding(encoder + "_around" * (own.context > 1), encoder, own.context)
            given = {**settings, "features": made.name}
            lacks = lacking(options, encoder)
            yield Method(f"{row} ({encoder})", f"{name}/{encoder}", config, given, made, row, encoder, lacks)


def lacking(options: Options, encoder: str) -> str:
    """Why features of an encoder cannot be made here, "" when they can. Raises InputError where it is not known."""
    if encoders.find(encoder).package or options.tiny or encoder in options.weights:
        return ""
    return "weights of the encoders are needed, --weights=NAME=FILE,..."
