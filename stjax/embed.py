"""Makes the vectors of every record of a data set with a published encoder, and keeps them beside it.

usage: python -m stjax.embed --data_dir=DIR --encoder=NAME --weights=FILE [options]

examples:
  python -m stjax.embed --data_dir=data/her2st --encoder=h0_mini --weights=h0_mini/model.safetensors
  python -m stjax.embed --data_dir=data/her2st --encoder=uni2_h --weights=pytorch_model.bin --dtype=float16
  python -m stjax.embed --data_dir=data/her2st --encoder=kaiko_s16 --random
  python -m stjax.embed --data_dir=data/her2st --encoder=uni --weights=pytorch_model.bin --context=5 --source=raw/her2st

They lie in DIR/features/NAME and are tied to these patches and weights. A run that was stopped goes on where it was,
to the same bytes. Images are normalised as the encoder was trained, not by the data set's statistics.
"""

import argparse
import contextlib
from pathlib import Path

from data_prep import cli
from data_prep.errors import InputError

_COMPUTE = ("float32", "bfloat16")
_OPTIONS = ("weights", "pooling", "dtype", "compute", "batch_size", "maps", "context", "source", "any_scale")


def main(arguments: list[str]) -> None:
    """The command line."""
    given = _parser().parse_args(arguments)
    _check(given)
    from data_prep.dataset import PatchDataset
    from stjax import distributed, parallel
    from stjax.features import making

    mesh = parallel.make_mesh()
    with contextlib.ExitStack() as stack:
        if not distributed.is_writer():
            stack.enter_context(contextlib.redirect_stdout(None))
        dataset = PatchDataset.open(given.data_dir)
        name = given.name or given.encoder + "_random" * given.random + f"_context{given.context}" * (given.context > 1)
        options = {option: getattr(given, option) for option in _OPTIONS}
        options = making.Options(given.encoder, seed=given.seed if given.random else None, **options)
        print(making.embed(dataset, name, options, mesh=mesh).path)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m stjax.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="a data set that data_prep.build made")
    parser.add_argument("--encoder", metavar="NAME", help="as stjax encoders lists them")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the encoder's: .safetensors, .bin or .pth")
    parser.add_argument("--random", action="store_true", help="random weights in place of a file's, as a baseline")
    parser.add_argument("--seed", type=int, default=0, help="of --random")
    parser.add_argument("--name", help="of the folder under features/ (default: the encoder's)")
    parser.add_argument("--pooling", default="", help="another than the encoder's own: class, class+mean or mean")
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32"), help="of the vectors as kept")
    parser.add_argument("--compute", default="float32", choices=_COMPUTE, help="what the encoder computes in")
    parser.add_argument("--batch_size", type=int, default=0, help="images a step (default 8 a device, 128 on GPUs)")
    parser.add_argument("--maps", action="store_true", help="of tiles, keep the map of tokens beside the vector")
    parser.add_argument("--context", type=int, default=1, metavar="5", help="5 x 5 windows around each spot")
    parser.add_argument("--source", type=Path, metavar="RAW", help="of --context: folder of the raw images")
    parser.add_argument("--any_scale", action="store_true", help="embed at whatever scale the encoder was trained at")
    return parser


def _check(given: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    from stjax import encoders

    if not given.encoder:
        raise InputError("give --encoder=NAME; stjax encoders lists them")
    encoders.find(given.encoder)
    if given.random and given.weights:
        raise InputError("--random and --weights exclude each other")
    if given.batch_size < 0:
        raise InputError(f"--batch_size is {given.batch_size}, expected a positive number")
    if given.context < 1 or given.context % 2 == 0 or given.context > 9:
        raise InputError(f"--context is {given.context}, expected 3, 5, 7 or 9 windows a side")
    if (given.context > 1) != (given.source is not None):
        raise InputError("--context needs --source, the folder of the raw images, and --source is for it alone")


if __name__ == "__main__":
    cli.program(main)
