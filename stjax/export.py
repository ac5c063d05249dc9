"""Writes a trained model's weights for other programs.

usage: python -m stjax.export --workdir=DIR --out=DIR

writes <out>/backbone.safetensors: the backbone under torchvision's names and in PyTorch's shapes (EfficientNet-Lite0:
its package's names), which the same torchvision model without its classifier loads strictly, and
`--config.init_from` of another run takes; for a model of patches also <out>/heads.safetensors: the linear layers
`main` and `aux` on its feature vector, whose outputs are standardised targets

examples:
  python -m stjax.export --workdir=runs/enet_b0_aux --out=exported
  python -m stjax.train --config=configs/enet_b0_aux.py --workdir=runs/tuned \\
      --config.init_from=exported/backbone.safetensors
"""

import argparse
from pathlib import Path

from flax import nnx

from data_prep import cli
from data_prep.errors import InputError
from stjax import workdir
from stjax.models import weights
from stjax.models.heads import PatchModel


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stjax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path, help="a run of stjax.train")
    parser.add_argument("--out", required=True, type=Path, help="folder for the files")
    given = parser.parse_args(arguments)
    written = export(given.workdir, given.out)
    print("results:")
    for path in written:
        print(path)


def export(folder: Path, out: Path) -> list[Path]:
    """Writes the weights of a run's best checkpoint.

    Args:
        folder: the work directory.

    Returns:
        The files written.

    Raises:
        InputError: no trained model, or `out` is no folder.
    """
    run = workdir.Run.load(folder)
    model = nnx.merge(run.graphdef, run.state["params"], run.state["statistics"])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out} is no folder; choose another") from None
    written = [out / "backbone.safetensors"]
    weights.save(model.backbone, written[0])
    if isinstance(model, PatchModel):
        written.append(out / "heads.safetensors")
        heads = {"main": model.main, "aux": model.aux}
        weights.save_heads({name: head for name, head in heads.items() if head is not None}, written[1])
    return written


if __name__ == "__main__":
    cli.run(main)
