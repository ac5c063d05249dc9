"""Makes the vectors of every record of a data set with a published encoder, and keeps them with it.

usage: python -m stjax.embed --data-dir=DIR --encoder=NAME --weights=FILE [options]
       python -m stjax.embed --data-dir=DIR --import=FOLDER [options]
       python -m stjax.embed --data-dir=DIR --encoder=NAME --export=trident --out=FOLDER

examples:
  python -m stjax.embed --data-dir=data/her2st --encoder=h0_mini --weights=h0_mini/model.safetensors
  python -m stjax.embed --data-dir=data/her2st --encoder=uni2_h --weights=pytorch_model.bin --dtype=float16
  python -m stjax.embed --data-dir=data/her2st --encoder=kaiko_s16 --random
  python -m stjax.embed --data-dir=data/her2st --encoder=uni --weights=pytorch_model.bin --context=5 --source=raw/her2st
  python -m stjax.embed --data-dir=data/her2st --encoder=efficientnet_lite0 --pooling=moments --fields=1,3,5 \\
      --source=raw/her2st

  python -m stjax.embed --data-dir=data/her2st --encoder=uni --import=trident/20x_256px_0px_overlap/features_uni_v1
  python -m stjax.embed --data-dir=data/her2st --import=clam/pt_files --coords=clam/patches --encoder=uni
  python -m stjax.embed --data-dir=data/her2st --encoder=uni --export=trident --out=trident

They are written to DIR/features/NAME and are tied to these patches and weights. A run that was stopped resumes,
to the same bytes. Images are normalised as the encoder was trained, not by the data set's statistics. --import takes
the files of TRIDENT, CLAM, HEST-Benchmark and STP-Bench, one a section.
"""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep import cli, system_errors
from data_prep.errors import InputError

if TYPE_CHECKING:
    from data_prep.dataset import PatchDataset

_COMPUTE = ("float32", "bfloat16")
_POOLING = (
    "another than the encoder's own: class, class+mean or mean; or moments: mean and deviation of every channel of "
    "every stage, and thirty statistics of colour"
)
_OPTIONS = ("weights", "pooling", "dtype", "compute", "batch_size", "maps", "context", "source", "any_scale")


def main(arguments: list[str]) -> None:
    """The command line."""
    given = _parser().parse_args(arguments)
    _check(given)
    from data_prep.dataset import PatchDataset

    dataset = PatchDataset.open(given.data_dir)
    if given.import_:
        from stjax.features import importing

        options = {name: getattr(given, name) for name in ("coords", "allow_missing", "any_scale")}
        options = importing.Options(given.import_, encoder=given.encoder, **options)
        print(importing.import_features(dataset, given.name, options).path)
    elif given.export:
        from stjax.features import exchange
        from stjax.features.store import Features

        features = Features.open(dataset, given.name or given.encoder)
        print("\n".join(map(str, exchange.write_trident(features, dataset, given.out))))
    else:
        _embed(dataset, given)


def _embed(dataset: "PatchDataset", given: argparse.Namespace) -> None:
    from stjax import distributed, parallel
    from stjax.inference import embedding

    mesh = parallel.make_mesh()
    with contextlib.ExitStack() as stack:
        if not distributed.is_writer():
            stack.enter_context(contextlib.redirect_stdout(None))
        name, fields = given.name or _name(given), _fields(given.fields)
        options = {option: getattr(given, option) for option in _OPTIONS}
        seed = given.seed if given.random else None
        options = embedding.Options(given.encoder, seed=seed, fields=fields, **options)
        print(embedding.embed(dataset, name, options, mesh=mesh).path)


def _name(given: argparse.Namespace) -> str:
    """Of the folder, by what is asked for."""
    name = given.encoder + "_random" * given.random + f"_context{given.context}" * (given.context > 1)
    fields = [f"{field:g}" for field in _fields(given.fields)]
    return name + f"_{given.pooling}" * (given.pooling == "moments") + f"_fields{'_'.join(fields)}" * (len(fields) > 1)


def _fields(text: str) -> tuple[float, ...]:
    from stjax.features.images import fields_of

    return fields_of(text, "--fields")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m stjax.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="a data set that data_prep.build made")
    parser.add_argument("--encoder", metavar="NAME", default="", help="as stjax encoders lists them")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the encoder's; without where a package has them")
    parser.add_argument("--random", action="store_true", help="random weights in place of a file's, as a baseline")
    parser.add_argument("--seed", type=int, default=0, help="of --random")
    parser.add_argument("--name", default="", help="of the folder under features/ (default: the encoder's)")
    parser.add_argument("--pooling", default="", help=_POOLING)
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32"), help="of the vectors as kept")
    parser.add_argument("--compute", default="float32", choices=_COMPUTE, help="what the encoder computes in")
    parser.add_argument(
        "--batch-size", type=int, default=0, help="images a step (default 8 a device, 128 on GPUs, fewer tiles)"
    )
    parser.add_argument("--maps", action="store_true", help="of tiles, keep the map of tokens as well as the vector")
    parser.add_argument("--context", type=int, default=1, metavar="5", help="5 x 5 windows around each spot")
    parser.add_argument(
        "--fields",
        default="1",
        metavar="1,3,5",
        help="windows so many patches wide around each spot, seen at its size; 0.5: the mean of four that cover it",
    )
    parser.add_argument("--source", type=Path, metavar="RAW", help="of --context, --fields: folder of the raw images")
    parser.add_argument("--any-scale", action="store_true", help="at whatever scale the encoder was trained")
    parser.add_argument("--import", type=Path, metavar="FOLDER", dest="import_", help="features that another tool made")
    parser.add_argument("--coords", type=Path, metavar="FOLDER", help="of --import: coords files, of CLAM")
    parser.add_argument("--allow-missing", action="store_true", help="of --import: leave out spots without features")
    parser.add_argument("--export", choices=("trident",), help="write the features as files of another tool")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of --export")
    return parser


def _check(given: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    from stjax import encoders

    if bool(given.export) != bool(given.out) or (given.export and given.import_):
        raise InputError("--export=trident goes with --out=FOLDER, and neither with --import")
    if given.export:
        if not (given.name or given.encoder):
            raise InputError("give --encoder=NAME, or the --name of the features to export")
        system_errors.check_folder(given.out, "--out")
        return
    if given.import_:
        return
    if given.coords or given.allow_missing:
        raise InputError("--coords and --allow-missing are for --import")
    if not given.encoder:
        raise InputError("give --encoder=NAME; stjax encoders lists them")
    encoders.find(given.encoder)
    if given.random and given.weights:
        raise InputError("--random and --weights exclude each other")
    if given.batch_size < 0:
        raise InputError(f"--batch-size is {given.batch_size}, expected a positive number")
    if given.context < 1 or given.context % 2 == 0 or given.context > 9:
        raise InputError(f"--context is {given.context}, expected 3, 5, 7 or 9 windows a side")
    several = len(_fields(given.fields)) > 1
    if given.context > 1 and several:
        raise InputError("--context and --fields exclude each other: choose windows side by side, or of several sizes")
    if (given.context > 1 or several) != (given.source is not None):
        raise InputError("--context and --fields need --source, the folder of the raw images, which is for them alone")


if __name__ == "__main__":
    cli.program(main)
