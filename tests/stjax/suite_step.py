"""Stands for a training in tests of suites: `python -m tests.stjax.suite_step DO FOLDER`, which counts its calls."""

import sys
import time
from pathlib import Path


def main(do: str, folder: Path) -> int:
    """Works, fails, or waits to be ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "calls").open("a") as file:
        file.write("x")
    print(f"{do} in {folder.name}", flush=True)
    time.sleep(0.3)  # a run lasts
    if do == "hang":
        time.sleep(60)
    if do == "fail" and not (folder.parent / "mended").exists():
        print("error: no luck", flush=True)
        return 2
    (folder / "evaluation" / "stjax").mkdir(parents=True, exist_ok=True)
    (folder / "evaluation" / "stjax" / "metrics.json").write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
