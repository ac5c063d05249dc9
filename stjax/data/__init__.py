"""From prepared records to batches: panels of genes, targets, spots on tiles, the demo's data set."""
