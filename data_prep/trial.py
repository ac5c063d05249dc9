"""Another process, with limits of memory and time, that tries what may take too much of both, or end the process."""

import os
import sys
from pathlib import Path


def command(module: str) -> list[str]:
    """What runs a module of the project; nothing is imported from the working directory."""
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """The environment it runs in: the project is found where it is here."""
    places = [str(Path(__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


def limit(memory: int, seconds: int) -> None:
    """Limits this process to bytes beyond what is mapped now, and to processor time; not on Windows."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
