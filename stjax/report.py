"""Writes the report of trained and scored runs: one HTML file that opens anywhere, without a network.

usage: python -m stjax.report --workdir=DIR [--workdir=DIR2 ...] --out=report.html

It shows what train and evaluate wrote: results compared with baselines, metrics of each gene, maps of every scored
section, training curves, what preparation removed, the leakage audit, and where everything comes from. Several runs are
compared, with paired tests.

examples:
  python -m stjax.report --workdir=runs/enet_b0_aux --out=report.html
  python -m stjax.report --workdir=runs/with_aux --workdir=runs/without_aux --names=AuxNet,plain --out=compared.html
"""

from collections.abc import Sequence
from pathlib import Path

from data_prep import cli, files, system_errors
from data_prep.cli import names
from data_prep.errors import InputError

MAX_MB = 20.0


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser("python -m stjax.report", description=__doc__)
    parser.add_argument(
        "--workdir", required=True, action="append", type=Path, help="a scored run; several times: compared"
    )
    parser.add_argument("--out", required=True, type=Path, help="the HTML file to write")
    parser.add_argument(
        "--names", default="", help="comma-separated, what to call the runs; default their folders' names"
    )
    parser.add_argument("--protocol", default="", help="whose evaluation to show; default the one trained under")
    parser.add_argument(
        "--max-mb", type=float, default=MAX_MB, help=f"size of the file: maps give way to keep it ({MAX_MB:g})"
    )
    given = parser.parse_args(arguments)
    report(given.workdir, given.out, labels=names(given.names), protocol=given.protocol, max_mb=given.max_mb)


def report(
    workdirs: Sequence[Path], out: Path, *, labels: Sequence[str] = (), protocol: str = "", max_mb: float = MAX_MB
) -> None:
    """Writes the page, whole or not at all.

    Args:
        workdirs: the runs, in the order of the page.
        labels: what to call them.
        protocol: whose evaluation to show; default the one each was trained under.
        max_mb: millions of bytes; maps are stored coarser, then of fewer genes, to keep to it.

    Raises:
        InputError: a run that is not scored, a file that cannot be read, or nowhere to write.
    """
    from stjax.reporting import page, read  # which take seconds, and --help should not

    if not max_mb >= 1:
        raise InputError(f"--max-mb is {max_mb:g}; give at least 1")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file in it, as {out / 'report.html'}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out} does not end in .html, so that no browser would show it; name it {out}.html")
    system_errors.check_folder(out.parent, "--out")
    busy = f"another process is writing --out {out}; wait for it, or choose another"
    with files.lock(out.with_name(f".{out.name}.lock"), busy=busy):
        runs = read.read_runs(workdirs, names=labels, protocol=protocol)
        text = page.build(runs, limit=int(max_mb * 1e6))
        try:
            files.write_text(out, text)
        except OSError as error:
            raise InputError(f"--out {out} cannot be written ({error.strerror}); choose another place") from None
    for run in runs:
        if run.metrics.get("training_finished") is False:
            print(f"warning: {run.label} is trained for {run.metrics['trained']}: it was stopped and is NOT FINISHED")
        for note in run.notes:
            print(f"note: {run.label}: {note}")
    print(f"{len(text.encode()) / 1e6:.1f} MB, opens in any browser, without a network:")
    print(out)


if __name__ == "__main__":
    cli.program(main)
