"""Which genes of a model to believe: what its evaluation found of each, as it goes where the model goes.

`stjax.evaluate` writes the table into the work directory, `stjax.export` copies it into the exported folder, and every
prediction has its columns next to the genes.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep import files
from data_prep.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

FILE = "trust.csv"
FLOOR = 0.2  # of the lower end of a gene's interval
MARK = "below_floor"
TEXT = ("gene", "ensembl_id", "resampled", "units", "model_sha256")  # columns; all others are numbers
FIGURES = (  # of a gene, in the order of the columns
    "pcc_normalised", "pcc_normalised_low", "pcc_normalised_high", "pcc_raw", "pcc_raw_low", "pcc_raw_high",
    "ceiling", "pcc_of_ceiling", "coverage",
)  # fmt: skip
RESTS_ON = ("patients", "sections", "spots")
_DECIDES = "pcc_normalised_low"
_OF_MODEL = ("symmetries", "model_sha256")
_MOST_BYTES = 1 << 26
_REMEDY = "remove it, and score the run again with stjax.evaluate"


@dataclasses.dataclass(frozen=True, eq=False)
class Trust:
    """What is known of each main gene.

    Attributes:
        table: a row a gene of the panel: name, `FIGURES` (NaN where not known), what they rest on (`RESTS_ON`), what
            was drawn for the intervals (`resampled`), the `units` of predictions, and whose predictions they are of.
    """

    table: "pd.DataFrame"

    @classmethod
    def load(cls, folder: Path) -> "Trust | None":
        """The one in a folder; None where there is none. Raises InputError for one that cannot be read."""
        path = folder / FILE
        if not files.is_there(path):
            return None
        return cls(read(path, TEXT, [*FIGURES, *RESTS_ON, "symmetries"]))

    def save(self, folder: Path) -> Path:
        """Leaves it in a work directory."""
        from stjax.tables import write_csv  # with pandas, which training does without

        write_csv(folder / FILE, self.table)
        return folder / FILE

    def of(self, genes: np.ndarray, model_sha256: str, *, symmetries: bool) -> "Trust | None":
        """This one, if it is of this model's predictions; else None.

        Args:
            genes: [M] names of the main genes.

        Raises:
            InputError: it is of this model and yet of other genes.
        """
        whose = self.table[list(_OF_MODEL)].drop_duplicates().to_numpy().tolist()
        if whose != [[float(symmetries), model_sha256]]:
            return None
        if self.table["gene"].tolist() != list(genes):
            raise InputError(f"{FILE} has other genes than the model's {len(genes)}; {_REMEDY}")
        return self

    def below(self, floor: float) -> np.ndarray:
        """[M] bool: genes whose library-normalised PCC is not shown to reach a floor, as the lower end of its interval
        is below it or not known."""
        return ~(self.table[_DECIDES].to_numpy(np.float64) >= floor)

    def marked(self, floor: float) -> "pd.DataFrame":
        """The table with the mark, as it lies next to predictions."""
        return self.table.assign(**{MARK: self.below(floor), "floor": floor})

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.table.to_csv(index=False).encode()).hexdigest()

    def columns(self, floor: float) -> dict[str, np.ndarray]:
        """{name: [M]} what predictions say of each gene: everything but what holds for the model as a whole."""
        known = {name: self.table[name].to_numpy(np.float64) for name in (*FIGURES, *RESTS_ON)}
        counts = {name: known[name].astype(np.int64) for name in RESTS_ON}
        return {**known, **counts, MARK: self.below(floor)}


def check_floor(floor: float) -> float:
    """Raises InputError for a floor that is no correlation."""
    if not -1 <= floor <= 1:
        raise InputError(f"--floor is {floor:g}, expected a correlation from -1 to 1; every gene is above -1")
    return floor


def read(path: Path, text: tuple[str, ...], numbers: list[str]) -> "pd.DataFrame":
    """A table that `write_csv` left: columns of text, and of numbers.

    Raises:
        InputError: it cannot be read, or lacks one of them.
    """
    import pandas as pd

    from stjax.tables import unquoted

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES >> 20} MB")
        exact: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "float_precision": "round_trip"}
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str), **exact)
        if lacking := [name for name in (*text, *numbers) if name not in table]:
            raise ValueError(f"no column {', '.join(lacking)}")
        table = table.astype(dict.fromkeys(numbers, np.float64))
        counts = table[[name for name in RESTS_ON if name in table]].to_numpy()
        if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts < 2**53).all()):
            raise ValueError("patients, sections or spots are no counts")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not readable ({files.shown(str(error))}); {_REMEDY}") from None
    return table.assign(**{name: table[name].fillna("").map(unquoted) for name in text})
