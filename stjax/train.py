"""Trains one model on one fold, scores it on the held-out patients, and writes its predictions.

usage: python -m stjax.train --config=FILE [--workdir=DIR] [--config.KEY=VALUE ...]

  --config=FILE           a config, e.g. configs/enet_b0_aux.py; configs/default.py explains every key
  --workdir=DIR           folder of the run; default runs/<config's name>. A run in it is resumed
  --config.data_dir=DIR   a data set made by python -m data_prep.build; without it the synthetic demo data is used
  --config.protocol=NAME  stjax (default), brstnet_paper, brstnet_code, stnet or pixnet
  --config.init_from=FILE starting weights of the backbone
  --config.KEY=VALUE      any other key of the config

"--config FILE" works as "--config=FILE", and "-" as "_" in keys.

examples:
  python -m stjax.train --config=configs/enet_b0_aux.py
  python -m stjax.train --config=configs/tiny.py --workdir=runs/try --config.num_epochs=3
  python -m stjax.train --config=configs/enet_b0_aux.py --workdir=runs/c5 --config.data_dir=data/her2st \\
      --config.test_sections=C5
"""

import contextlib
from pathlib import Path

from data_prep import cli
from stjax import config as configs
from stjax.config import Config


def main(arguments: list[str]) -> None:
    """The command line."""
    config, folder = configs.parse(arguments, usage=__doc__ or "")
    from stjax.training import faults  # what takes seconds to be imported waits until the command line is understood

    with faults.exits_when_stopped():
        run(config, folder)


def run(config: Config, folder: Path) -> None:
    """`train` as a person starts it: compiled programs are kept for the next time, and what Ctrl-C interrupts says what
    is saved."""
    from stjax import cache, workdir
    from stjax.training import faults

    cache.keep_compiled_programs()
    with cli.when_interrupted(lambda: faults.saved_so_far(folder / workdir.CHECKPOINTS)):
        train(config, folder)


def train(config: Config, folder: Path) -> None:
    """Trains, or resumes, or finds the run finished; then evaluates. Prints where the results are.

    Args:
        config: as `configs/default.py`, not yet resolved.
        folder: the work directory.

    Raises:
        InputError: data, config or work directory do not fit.
        FloatingPointError: the loss became NaN or infinite.
        faults.Stopped: SIGTERM came, and the run is saved.
    """
    from stjax import distributed, workdir
    from stjax.training import faults, loop

    distributed.initialise()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(faults.StopOnSigterm())
        if distributed.is_writer():  # it holds the folder for all
            stack.enter_context(workdir.locked(folder))
        else:
            stack.enter_context(contextlib.redirect_stdout(None))
        distributed.barrier("the folder is this run's")
        loop.run(config, folder, stop)


if __name__ == "__main__":
    cli.program(main)
