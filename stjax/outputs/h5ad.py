"""AnnData, as scanpy and squidpy read it: spots by genes, coordinates, the slide's picture, and where it comes from."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from PIL import Image

from data_prep import h5_file
from data_prep.files import whole
from stjax.inference.prediction import SectionPrediction, about
from stjax.intervals import LEVEL
from stjax.trained import Trained

SUFFIX = ".h5ad"
LOWRES_PX = 600  # longer side, as Space Ranger's


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    with whole(path) as temporary:
        h5_file.write_anndata(temporary, to_anndata(prediction, model, genes=genes))


def to_anndata(prediction: SectionPrediction, model: Trained, *, genes: np.ndarray) -> anndata.AnnData:
    """`X` [S, G]; `layers`: "truth" where measured, and what the prediction has; `var` also how far each gene can be
    trusted, of a model that was evaluated; `obsm["spatial"]` full-resolution pixels, `obsm["gene_sets"]` scores of gene
    sets and `uns["gene_sets"]` how far these can be trusted; `uns["spatial"][section]` pictures and scale factors;
    `uns["stjax"]` units, protocol and hashes."""
    panel = model.fold.panel
    obs: dict[str, Any] = {"section": prediction.section, "patient": prediction.patient}
    obs |= {"spot_size_um": prediction.size_um, "in_tissue": 1, **prediction.columns}
    if prediction.predicted_total is not None:
        obs["predicted_total"] = prediction.predicted_total
    adata = anndata.AnnData(
        X=prediction.expression[:, genes].astype(np.float32),
        obs=pd.DataFrame(obs, index=pd.Index(prediction.spots.id, name="spot_id")),
        var=pd.DataFrame(
            {
                "symbol": panel.symbol[genes],
                "ensembl_id": panel.ensembl_id[genes],
                **{name: values[genes] for name, values in prediction.genes.items()},
            },
            index=pd.Index(panel.labels[genes], name="gene"),
        ),
        uns={
            "stjax": about(prediction, model),
            "spatial": {prediction.section: pictures(prediction)},
        },
    )
    adata.obsm["spatial"] = prediction.spots.xy
    if prediction.truth is not None:
        adata.layers["truth"] = prediction.truth[:, genes].astype(np.float32)
    if "lower" in prediction.layers:
        adata.uns["stjax"]["interval_level"] = LEVEL
    for name, values in prediction.layers.items():
        adata.layers[name] = values[:, genes].astype(np.float32)
    if (sets := prediction.gene_sets) is not None:
        for name, values in (("gene_sets", sets.predicted), ("gene_sets_truth", sets.measured)):
            if values is not None:
                columns = [each.replace("/", "_") for each in sets.names]  # HDF5 takes a slash for a folder
                adata.obsm[name] = pd.DataFrame(values, index=adata.obs_names, columns=pd.Index(columns))
        adata.uns["gene_sets"] = sets.table.set_index("gene_set")
    return adata


def pictures(prediction: SectionPrediction) -> dict[str, Any]:
    """The slide's pictures and scale factors under Space Ranger's names, which scanpy and squidpy look for."""
    hires, scale = prediction.thumbnail, prediction.thumbnail_scale
    smaller = min(1.0, LOWRES_PX / max(hires.shape[:2]))
    size = (max(1, round(hires.shape[1] * smaller)), max(1, round(hires.shape[0] * smaller)))
    lowres = np.asarray(Image.fromarray(hires).resize(size, Image.Resampling.BOX))
    return {
        "images": {"hires": hires, "lowres": lowres},
        "scalefactors": {
            "tissue_hires_scalef": scale,
            "tissue_lowres_scalef": scale * size[0] / hires.shape[1],
            "spot_diameter_fullres": prediction.diameter_px,
            "fiducial_diameter_fullres": prediction.diameter_px,
            "microns_per_pixel": prediction.um_per_px,
        },
        "metadata": {"source_image_sha256": prediction.slide},
    }
