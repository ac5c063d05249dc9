"""The names under which predictions were written before formats had a module each: see `stjax.outputs`."""

from stjax.outputs import SectionPrediction, file_name, gene_names, provenance
from stjax.outputs._map import write_map
from stjax.outputs.h5ad import write_h5ad

__all__ = ["SectionPrediction", "file_name", "gene_names", "provenance", "write_h5ad", "write_map"]
