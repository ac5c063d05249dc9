"""Parquet: the columns of the CSV, exact, with where they come from under the schema's key "stjax"."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from data_prep.files import whole
from stjax.inference.prediction import SectionPrediction, about
from stjax.outputs._table import table
from stjax.trained import Trained

SUFFIX = ".parquet"


def write(path: Path, prediction: SectionPrediction, model: Trained, *, genes: np.ndarray, shown: int) -> None:
    """See `stjax.outputs`."""
    origin = about(prediction, model)
    columns = pa.Table.from_pandas(table(prediction, model, genes), preserve_index=False)
    metadata = {**(columns.schema.metadata or {}), b"stjax": json.dumps(origin).encode()}
    columns = columns.replace_schema_metadata(metadata)
    with whole(path) as temporary:
        pyarrow.parquet.write_table(columns, temporary, compression="zstd")
