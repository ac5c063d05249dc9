"""Runs the notebooks of docs/notebooks, and writes them back with what they printed and drew.

python tests/docs/run_notebooks.py [NAME.ipynb ...] [--check]      # --check writes nothing
"""

import argparse
import os
import tempfile
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
MOST_BYTES = 300_000


def run(path: Path) -> str:
    """The notebook as text, executed anew in an empty folder. Raises nbclient's error of a cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("STJAX_CACHE", f"{folder}/cache")
        nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ with every run
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_bar(output)]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    text = nbformat.writes(notebook) + "\n"
    if len(text) > MOST_BYTES:
        raise ValueError(f"{path.name} has grown to {len(text):,} bytes; draw smaller figures")
    return text


def is_bar(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a progress bar, of text or a widget, which says nothing once it is gone."""
    text = output.get("text", "") if output.get("name") == "stderr" else ""
    return "\r" in text or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for path in [FOLDER / name for name in options.names] or sorted(FOLDER.glob("*.ipynb")):
        text = run(path)
        if not options.check:
            path.write_text(text)
        print(f"{path.name}: {len(text):,} bytes")
