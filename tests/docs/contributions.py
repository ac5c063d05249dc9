"""The diffs of CONTRIBUTING.md, and copies of the repository with them applied."""

import re
import subprocess
from pathlib import Path

from tests.docs.run_tutorial import ROOT, copy_repository

PAGE = ROOT / "CONTRIBUTING.md"


def sections() -> dict[str, tuple[list[str], str]]:
    """{heading: files it says it touches, diff}."""
    found = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        if diff := re.search(r"^```diff\n(.*?)^```", part, re.MULTILINE | re.DOTALL):
            touches = re.search(r"^Touches (.*)\.$", part, re.MULTILINE)
            found[part.splitlines()[0]] = (re.findall(r"`([^`]+)`", touches[1] if touches else ""), diff[1])
    return found


def clone(folder: Path) -> Path:
    """A repository with one commit: the tree as it is."""
    copy_repository(folder)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=tests", "-c", "user.email=tests@example.org", "commit", "-q", "-m", "as it is")
    return folder


def apply(folder: Path, diff: str) -> list[str]:
    """The files that a diff has touched. Raises CalledProcessError when it does not apply."""
    subprocess.run(["git", "apply", "--whitespace=error"], cwd=folder, input=diff, text=True, check=True)
    return sorted(line[3:] for line in git(folder, "status", "--porcelain", "--untracked-files=all").splitlines())


def restore(folder: Path) -> None:
    """Undoes what was applied."""
    git(folder, "checkout", "-q", "--", ".")
    git(folder, "clean", "-fdq")


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout
