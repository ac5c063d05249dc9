"""Predicts slides through Apache Beam: `python -m stjax.predict_beam --shards=N`, with the options of `stjax.predict`.

usage: python -m stjax.predict_beam --shards=N (--workdir=RUN | --model=DIR) --source=DIR --out=DIR [OPTIONS]

Takes the options of `stjax.predict` but for --shard, and those of the Beam runner; needs the extra `beam`. Each element
of the pipeline is every N-th slide, predicted by the code of `stjax.predict`, so that the files are the same. A slide
that a retried or earlier worker finished is not predicted again. All workers must see the model, the source and --out
under the same paths.

examples (options that stjax.predict does not know go to the runner):
  python -m stjax.predict_beam --shards=4 --model=exported --source=slides --out=predictions --direct_num_workers=4 \\
      --direct_running_mode=multi_processing
  python -m stjax.predict_beam --shards=500 --model=/mnt/exported --source=/mnt/slides --out=/mnt/predictions \\
      --runner=FlinkRunner --flink_master=host:8081
"""

import argparse

from data_prep import beam, cli
from data_prep.errors import InputError
from stjax import predict


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = predict.parser()
    parser.prog, parser.description = "python -m stjax.predict_beam", __doc__
    parser.add_argument("--shards", type=int, required=True, metavar="N", help="elements of the pipeline")
    given, of_runner = parser.parse_known_args(arguments)
    if given.shards < 1:
        raise InputError(f"--shards is {given.shards}, expected at least 1")
    if "shard" in parser.given:
        raise InputError("--shard is for array jobs; --shards says how many elements Beam deals to its workers")
    predict.check(parser, given)
    options = {name: value for name, value in vars(given).items() if name != "shards"}
    places = range(1, given.shards + 1)
    tasks = [argparse.Namespace(**options | {"shard": f"{place}/{given.shards}"}) for place in places]
    beam.pipeline(of_runner)(predict.run, tasks)
    print(given.out)


if __name__ == "__main__":
    cli.program(main)
