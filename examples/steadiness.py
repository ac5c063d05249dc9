"""How far the result of one training command moves with the seed and with rounding alone: a table.

usage: python examples/steadiness.py OUT [--seeds 0,1,2] [--roundings] [--config FILE] [-- SETTING ...]

Trains the config once for every seed and, with --roundings, seed 0 twice more with other rounding: on one core, and
with the batch shared between two virtual devices, both of which sum in another order. Every run is `stjax.train` in a
process and a work directory of its own under OUT; a run that is there already is not trained again. Ends with the
table, as Markdown: held-out median PCC of model and ridge, the epoch kept, and the largest validation loss on the way.

examples:
  python examples/steadiness.py steady --roundings
  python examples/steadiness.py steady_c5 --seeds 0,1,2 -- --config.data_dir=data/her2st --config.test_sections=C5 \\
      --config.num_epochs=12
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROUNDINGS = {"one core": ("taskset -c 0", ""), "two virtual devices": ("", "--xla_force_host_platform_device_count=2")}


def train(folder: Path, config: str, settings: list[str], *, prefix: str = "", xla_flags: str = "") -> None:
    """One run, unless it has been trained and scored; its output goes to OUT/<run>.log."""
    if any(folder.glob("evaluation/*/metrics.json")):
        return
    command = [*prefix.split(), sys.executable, "-m", "stjax.train", f"--config={config}", f"--workdir={folder}"]
    flags = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), xla_flags]))
    print(f"{folder.name}: {' '.join(filter(None, [flags, *command, *settings]))}", file=sys.stderr, flush=True)
    with folder.with_suffix(".log").open("w") as log:
        subprocess.run(
            [*command, *settings],
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


def row(name: str, folder: Path) -> tuple[float, str]:
    """The held-out median PCC of a run, and its line of the table."""
    metrics = json.loads(next(folder.glob("evaluation/*/metrics.json")).read_text())
    found = {method: metrics["methods"][method]["pcc_median"] for method in ("model", "ridge_colour")}
    log = [json.loads(line) for line in (folder / "logs" / "train.jsonl").read_text().splitlines()]
    epochs = [entry for entry in log if entry["kind"] == "epoch"]
    losses = [entry["val_loss"] for entry in epochs if "val_loss" in entry]
    kept = [entry["epoch"] for entry in epochs if entry["best"]][-1] if losses else epochs[-1]["epoch"]
    worst = f"{max(losses):.2f}" if losses else "-"
    cells = (name, f"{found['model']:.3f}", f"{found['ridge_colour']:.3f}", f"{kept} of {len(epochs)}", worst)
    return found["model"], f"| {' | '.join(cells)} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--roundings", action="store_true")
    parser.add_argument("--config", default="configs/enet_b0_aux.py")
    parser.add_argument("settings", nargs="*", help="further options of stjax.train, after --")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    runs = {f"seed {seed}": ("", "", f"--config.seed={seed}") for seed in given.seeds.split(",")}
    if given.roundings:
        kinds = ROUNDINGS if shutil.which("taskset") else {"two virtual devices": ROUNDINGS["two virtual devices"]}
        runs |= {f"seed 0, {name}": (*how, "--config.seed=0") for name, how in kinds.items()}
    rows = []
    for name, (prefix, xla_flags, seed) in runs.items():
        folder = given.out / name.replace(", ", "_").replace(" ", "_")
        train(folder, given.config, [seed, *given.settings], prefix=prefix, xla_flags=xla_flags)
        rows.append(row(name, folder))
    print("| run | median PCC | ridge on colour | epoch kept | largest validation loss |\n|---|---|---|---|---|")
    for _, line in rows:
        print(line)
    figures = [figure for figure, _ in rows]
    print(f"\nmedian PCC {min(figures):.3f} to {max(figures):.3f}: spread {max(figures) - min(figures):.3f}")


if __name__ == "__main__":
    main()
