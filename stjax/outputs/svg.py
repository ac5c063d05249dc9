"""SVG: the slide and one gene over its tissue, predicted and, where it is known, measured."""

from stjax.outputs._map import write

__all__ = ["ONE_GENE", "SUFFIX", "write"]

SUFFIX, ONE_GENE = ".svg", True
