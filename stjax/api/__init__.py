"""stjax from Python: raw sections are prepared, a model is trained, loaded, and given images, all in a notebook.

    import stjax

    data = stjax.prepare("raw/her2st", "data/her2st")      # a data set of patches
    model = stjax.fit("enet_b0_aux", data)                 # trained, and scored on the patients held out
    model = stjax.load("runs/enet_b0_aux")                 # a work directory, or a folder that `stjax export` wrote
    found = model.predict("slide.svs")                     # a grid of spots on the slide's tissue
    found = model.predict(image, spots, um_per_px=0.5)     # uint8 [H, W, 3], and spots [N, 2] (x, y) in its pixels
    found["ERBB2"], found.expression, found.to_dataframe(), found.to_anndata()

The same functions as behind the commands, and the same numbers. `prepare` and `fit` are in `stjax.api.training`: what
predicts does not import what trains.
"""

from stjax.api.model import Model, load
from stjax.api.result import Prediction

__all__ = ["Model", "Prediction", "load"]
