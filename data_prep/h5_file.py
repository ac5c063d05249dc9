"""HDF5 files, written so that a full disk is an error and no more: HDF5 by itself goes on failing as objects are freed,
and ends the process with a segmentation fault."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import pandas as pd
from anndata.io import write_elem


@contextlib.contextmanager
def create(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file at `path`, closed at the end.

    Raises:
        OSError: it could not be written, as the system says why.
    """
    with _Remembering(path, "w+") as file:
        try:
            with h5py.File(file, "w") as content:
                yield content
        except Exception:
            if file.error is None:
                raise
        if file.error is not None:
            raise OSError(file.error.errno, file.error.strerror, str(path)) from None


def write_anndata(path: Path, table: anndata.AnnData) -> None:
    """Writes an .h5ad as `AnnData.write_h5ad` does, compressed, by way of `create`; texts as arrays that every version
    of anndata reads, which 0.13 with pandas 3 does not do by itself."""
    options = {"compression": "gzip"}
    table.strings_to_categoricals()
    with create(path) as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
        for name, part in (("X", table.X), ("obs", _plain(table.obs)), ("var", _plain(table.var))):
            write_elem(file, name, part, dataset_kwargs=options)
        for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            named = {key: value for key, value in getattr(table, name).items() if key is not None}
            write_elem(file, name, named, dataset_kwargs=options)  # anndata 0.13 has X among the layers, as None


def _plain(table: Any) -> pd.DataFrame:
    """The table with texts as Python objects, which anndata writes as arrays; a setting of anndata's that does so too
    is of all threads."""
    texts = [name for name, kind in table.dtypes.items() if isinstance(kind, pd.StringDtype)]
    return table.astype(dict.fromkeys(texts, object)).set_index(table.index.astype(object))


class _Remembering(io.FileIO):
    """A file that keeps the first error of writing to itself, and from then on takes everything: what HDF5 does to end
    goes well."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
