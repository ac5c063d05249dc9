"""From prepared records to batches: panels of genes, spots on tiles, the demo's data set."""
