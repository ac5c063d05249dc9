"""Build a data set through Apache Beam, TFDS's engine: `python -m data_prep.beam --source DIR --out DIR`.

Takes the flags of `data_prep.build` and those of the Beam runner; needs the extra `beam`. Each element of the pipeline
is a section, written by the code that `data_prep.build` runs, so the bytes are the same; a section that a retried or
earlier worker finished is verified by hash and kept. All workers must see the source and `--out` under the same path.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_prep import build, cli
from data_prep.errors import InputError
from data_prep.execute import Execute

EXAMPLES = """examples (flags that data_prep.build does not know go to the runner):
  python -m data_prep.beam --source stnet --out data/stnet
  python -m data_prep.beam --source stnet --out data/stnet --direct_num_workers 4 --direct_running_mode multi_processing
  python -m data_prep.beam --source /mnt/stnet --out /mnt/data --runner FlinkRunner --flink_master host:8081
"""


def executor(flags: Sequence[str]) -> Execute:
    """Runs tasks as the elements of a Beam pipeline; see `pipeline`."""
    carry_out = pipeline(flags)

    def execute(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        carry_out(function, tasks)
        # Beam hands nothing back. What each call made is on disk, where a second call finds it done.
        yield from map(function, tasks)

    return execute


def pipeline(flags: Sequence[str]) -> Callable[[Callable[[Any], Any], Sequence[Any]], None]:
    """What calls a function on tasks as the elements of a Beam pipeline, and gives nothing back.

    Args:
        flags: of the runner, as on Beam's own command lines; none for the local runner.

    Raises:
        InputError: Apache Beam is not installed, or a task failed with one.
    """
    try:
        apache_beam = importlib.import_module("apache_beam")
        pipeline_options = importlib.import_module("apache_beam.options.pipeline_options")
    except ImportError as error:
        raise InputError("Apache Beam is not installed; install the extra: pip install 'stjax[beam]'") from error

    def carry_out(function: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
        try:
            with apache_beam.Pipeline(options=pipeline_options.PipelineOptions(list(flags))) as started:
                elements = started | "tasks" >> apache_beam.Create(list(tasks), reshuffle=True)
                _ = elements | function.__name__ >> apache_beam.Map(_discard_result, function)
        except Exception as error:
            message = _input_error(error)
            if message is None:
                raise
            raise InputError(message) from error

    return carry_out


def _discard_result(task: Any, function: Callable[[Any], Any]) -> None:
    function(task)


def _input_error(error: BaseException) -> str | None:
    """The message of the `InputError` that a worker raised; Beam wraps it in an error of its own, or in its text."""
    if isinstance(error, InputError):
        return str(error).partition(" [while running")[0]
    for line in str(error).splitlines():
        _, found, message = line.partition(f"{InputError.__name__}: ")
        if found:
            return message.partition(" [while running")[0]
    return None


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = build.parser()
    parser.prog, parser.epilog = "python -m data_prep.beam", EXAMPLES
    parsed, flags = parser.parse_known_args(arguments)
    print(build.build(**vars(parsed), execute=executor(flags)))


if __name__ == "__main__":
    cli.program(main)
