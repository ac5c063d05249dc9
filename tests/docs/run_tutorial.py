"""Runs docs/tutorial.md: its own bash blocks, in order, in a copy of the repository without any environment.

    python tests/docs/run_tutorial.py FOLDER        # FOLDER must not exist; some minutes, and a package index

Ends at the first command that fails, with its exit code. Prints the number of each block before its output.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"


def blocks(page: str) -> list[str]:
    """The bash blocks of a page, in order."""
    return re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


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
    for number, block in enumerate(blocks(PAGE.read_text()), 1):
        script += [f"echo '### block {number}'", block.rstrip()]
    start = time.monotonic()
    code = subprocess.run(["bash", "-c", "\n".join(script)], cwd=folder, env=clean, check=False).returncode
    print(f"### exit code {code} after {time.monotonic() - start:.0f} s", flush=True)
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        raise SystemExit(f"usage: {sys.argv[0]} FOLDER, which must not exist yet")
    run(Path(sys.argv[1]).resolve())
