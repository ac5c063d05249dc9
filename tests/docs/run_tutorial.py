"""Runs docs/tutorial.md: its own bash blocks, in order, in a copy of the repository without any environment, and
compares what they print with what the page says they print.

    python tests/docs/run_tutorial.py FOLDER        # FOLDER must not exist; some minutes, and a package index

Prints everything. The exit code is not 0 when a command fails, which ends the run, or when an output differs from the
page's: by a line, or by a number further off than rounding on another machine can bring it.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
MARK = "### block "
# Two machines train apart by rounding: numbers with a point may differ by so much, whole numbers by so large a share.
TOLERANCE, SHARE = 0.02, 0.05

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d+|\.\d+|\d+)(?![\w])")
_SPEEDS = re.compile(r"[\d.]+ spots/s|\d+:\d\d left")


def blocks(page: str) -> list[str]:
    """The bash blocks of a page, in order."""
    return [block for block, _ in examples(page)]


def examples(page: str) -> list[tuple[str, str | None]]:
    """The bash blocks of a page, each with the text block below it, its output, where there is one."""
    fenced = [*re.findall(r"^```(bash|text)\n(.*?)^```", page, re.MULTILINE | re.DOTALL), ("", "")]
    return [
        (block, following if below == "text" else None)
        for (kind, block), (below, following) in itertools.pairwise(fenced)
        if kind == "bash"
    ]


def differences(documented: str, printed: str) -> list[str]:
    """Lines of a documented output that were not printed, in their order, as they stand there.

    `...` alone on a line stands for any number of lines, at the end of a line for any text. Speeds and times left are
    not compared, numbers to a tolerance.
    """
    lines, place, found = printed.splitlines(), 0, []
    free = False  # whether lines may be left out before the next one
    for line in documented.splitlines():
        if line.strip() == "...":
            free = True
            continue
        ahead = range(place, len(lines) if free else min(place + 1, len(lines)))
        match = next((i for i in ahead if _same(line, lines[i])), None)
        if match is None:
            found.append(line)
            free = True  # to find the lines after it all the same
        else:
            place, free = match + 1, False
    return found


def _same(documented: str, printed: str) -> bool:
    documented, printed = (_SPEEDS.sub("", line).rstrip() for line in (documented, printed))
    if documented.endswith("..."):
        documented = documented.removesuffix("...").rstrip()
        printed = printed[: len(documented)]
    words, others = (_NUMBER.sub("#", line).split() for line in (documented, printed))
    if words != others:
        return False
    return all(
        abs(float(one) - float(other)) <= (TOLERANCE if "." in one else SHARE * abs(float(one)))
        for one, other in zip(_NUMBER.findall(documented), _NUMBER.findall(printed), strict=True)
    )


def copy_repository(folder: Path) -> None:
    """The files that git tracks or would, as they are now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.strip("\0").split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run(folder: Path) -> None:
    """Every block in one shell, which keeps PATH and variables between them, as a reader's terminal does."""
    copy_repository(folder)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean["STJAX_CACHE"] = str(folder / "cache")
    script = ["set -euo pipefail"]
    page = examples(PAGE.read_text())
    for number, (block, _) in enumerate(page):
        script += [f"echo '{MARK}{number}'", block.rstrip()]
    start = time.monotonic()
    printed = []
    with subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            printed.append(line)
    print(f"### exit code {process.returncode} after {time.monotonic() - start:.0f} s", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    outputs = re.split(rf"^{MARK}\d+\n", "".join(printed), flags=re.MULTILINE)[1:]
    wrong = 0
    for number, ((_, documented), output) in enumerate(zip(page, outputs, strict=True)):
        for line in differences(documented or "...", output):
            print(f"### block {number} did not print: {line}")
            wrong += 1
    if wrong:
        raise SystemExit(f"{wrong} lines of {PAGE.name} are not what its commands print")


if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        raise SystemExit(f"usage: {sys.argv[0]} FOLDER, which must not exist yet")
    run(Path(sys.argv[1]).resolve())
