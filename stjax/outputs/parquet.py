"""Parquet: the columns of the CSV, exact, with where they come from under the schema's key "stjax"."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from stjax.inference.prediction import SectionPrediction, provenance
from stjax.inference.predictor import Predictor
from stjax.outputs import whole
from stjax.outputs._table import table

SUFFIX = ".parquet"


def write(path: Path, prediction: SectionPrediction, model: Predictor, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    del shown
    about = provenance(model, data_sha256=prediction.data_sha256, synthetic=prediction.synthetic)
    columns = pa.Table.from_pandas(table(prediction, model, genes), preserve_index=False)
    columns = columns.replace_schema_metadata({**(columns.schema.metadata or {}), b"stjax": json.dumps(about).encode()})
    with whole(path) as temporary:
        pyarrow.parquet.write_table(columns, temporary, compression="zstd")
