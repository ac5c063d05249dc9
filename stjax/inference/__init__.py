"""From a slide to predictions: sources, grids, windows in order, maps of whole slides, models in folders."""
