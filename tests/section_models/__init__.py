"""Models of sections that tests put beside those of `stjax.models`."""

from pathlib import Path

FOLDER = str(Path(__file__).parent)
