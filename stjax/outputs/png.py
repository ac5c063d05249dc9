"""PNG: one gene over the tissue, beside its measurement where there is one."""

from stjax.outputs._map import write

__all__ = ["ONE_GENE", "SUFFIX", "write"]

SUFFIX, ONE_GENE = ".png", True
