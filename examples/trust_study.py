"""How far trust.csv, scores of gene sets and intervals can be believed, on demo tissue, whose truth is known.

usage: python examples/trust_study.py FOLDER [--patients=14] [--new=4]

The model is the ridge on thirty colour statistics of a patch, fitted in a second, and of all models the one that a
change of stain hurts most; scoring, calibration and tables are those of `stjax.evaluate`. It is trained on synthetic
patients, and trust.csv is of four that are held out; then further patients are looked at, some like those of training,
some whose stains and depth lie outside the training range. Prints a table; demo data that is there is not made again.
It says whether the method keeps its word, and nothing about real tissue.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_prep import build, cli, demo, demo_tissue
from data_prep.dataset import PatchDataset
from stjax import baselines, parallel, views
from stjax.config import Config, built_in
from stjax.data.fit import fit
from stjax.data.fold import Fold
from stjax.evaluation import comparison, conformal, credibility, set_scores
from stjax.evaluation.demo_truth import without_noise
from stjax.evaluation.scoring import Scores
from stjax.gene_sets import GeneSets
from stjax.inference import prepared
from stjax.inference.prepared import Found
from stjax.protocols import Protocol, get_protocol
from stjax.splits import split_sections
from stjax.trained import Trained
from stjax.trust import FLOOR

HELD_OUT = ("A", "B", "C", "D")
NEW: dict[str, dict[str, float]] = {  # further patients
    "like the training patients": {},
    "other stains": {"stain_shift": 1.0},
    "half the depth": {"counts_per_spot": 4500.0},
    "other stains, half the depth": {"stain_shift": 1.0, "counts_per_spot": 4500.0},
}
PATCH_PX = 64
COLUMNS = (
    "patients", "coverage", "coverage, not widened", "interval factors", "median PCC", "genes above the floor",
    "truly, on counts", "truly, of the cells",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class ColourRidge:
    """As much of a `workdir.Run` as evaluation takes."""

    fold: Fold
    dataset: PatchDataset
    ridge: baselines.Ridge | None = None
    folder: Path = Path("ridge on colour")
    model_sha256: str = "0" * 64
    batch_size: int = 64
    embedder: None = None
    config: Config = dataclasses.field(default_factory=lambda: built_in("default"))
    units = Trained.units

    @property
    def protocol(self) -> Protocol:
        """stjax's own."""
        return get_protocol("stjax")

    @functools.cached_property
    def view(self) -> views.View:
        """Patches."""
        return views.of(self.fold)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """One device."""
        return parallel.make_mesh(jax.devices()[:1])

    @property
    def on_slides(self) -> "ColourRidge":
        """It takes images as it is."""
        return self

    def open_dataset(self) -> PatchDataset:
        """That of training."""
        return self.dataset

    def predict(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Expression of the patches."""
        assert self.ridge is not None
        z = self.ridge.predict(baselines.colour_statistics(np.asarray(batch["image"])))
        expression = z * self.fold.main.target_std + self.fold.main.target_mean
        return {"expression": jnp.asarray(expression[:, None], jnp.float32)}


def data(root: Path, name: str, **recipe: Any) -> PatchDataset:
    """A data set of demo tissue without stain normalisation, made once; its raw folder lies next to it."""
    raw, out = root / f"raw_{name}", root / f"data_{name}"
    if not raw.exists():
        demo.make_demo(raw, sections_per_patient=1, **recipe)
    if not (out / "manifest.json").exists():
        build.build(raw, out, patch_size_px=PATCH_PX, stain="none")
    return PatchDataset.open(out)


def trained(dataset: PatchDataset) -> tuple[Any, prepared.Training]:
    """The ridge on the patients that are neither held out nor kept for validation."""
    protocol, patients = get_protocol("stjax"), dataset.patients([each["name"] for each in dataset.sections])
    split = split_sections(protocol, {name: of for name, (of, _) in patients.items()}, test_patients=HELD_OUT)
    bare = ColourRidge(fit(views.get("patches"), protocol, dataset, split), dataset)
    training = prepared.training(bare)  # pyright: ignore[reportArgumentType]
    assert training is not None
    task = comparison.Task.own(bare, training)  # pyright: ignore[reportArgumentType]
    ridge = baselines.Ridge.fit(training.colours, (task.targets(training) - task.mean) / task.std)
    return dataclasses.replace(bare, ridge=ridge), training


def scored(model: Any, task: comparison.Task, found: Sequence[Found]) -> Scores:
    """Sections of the model alone, with intervals."""
    return comparison.score(model, task, found, pooling=model.protocol.pooling)


def abundance(raw: Path, found: Found) -> np.ndarray:
    """[S, types] which share of the cells in each spot is of each type."""
    prediction = found.prediction
    cells, _ = demo.load_truth(raw, prediction.section)
    members = demo_tissue.cells_in_discs(cells, prediction.spots.xy * prediction.um_per_px, 50)
    counts = np.stack([members @ (cells.type == kind) for kind in range(len(demo_tissue.TYPES))], axis=1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=14)
    parser.add_argument("--new", type=int, default=4, help="further patients of each kind (4)")
    parser.add_argument("--kinds", type=int, nargs="*", default=range(len(NEW)), help="some of them, from 0")
    given = parser.parse_args(arguments)
    root, all_of = given.folder, {"sizes_um": (), "max_spots": 0}
    root.mkdir(parents=True, exist_ok=True)
    model, training = trained(data(root, "train", patients=given.patients, seed=3))
    task = comparison.Task.own(model, training)
    found = prepared.predict_sections(model, model.dataset, model.fold.split.test, **all_of)
    own = scored(model, task, found)
    calibration, why = conformal.calibrate([model], **all_of)
    assert calibration is not None, why
    print(f"calibrated on {', '.join(calibration.patients)}, {calibration.widening}")
    report, _ = conformal.report(calibration, task, found)
    print(f"held-out patients: coverage {report['coverage']:.3f}, not widened {report['coverage_unwidened']:.3f}")
    trust = credibility.trust(model, own, comparison.targets(model, found, training, own), {})

    programs = json.loads((Path(demo_tissue.__file__).parent / "resources/demo_programs.json").read_text())
    lines = (f"{name}\tdemo\t{genes.replace(' ', chr(9))}" for name, genes in programs.items())
    (root / "programs.gmt").write_text("\n".join(lines))
    sets = GeneSets.read(root / "programs.gmt", model.fold)
    of_sets = set_scores.reliability(model, sets, found, own.per_gene["model"]["pcc"])
    columns = ["gene_set", "genes_predicted", "pcc", "pcc_low", "pcc_high", "ceiling", "pcc_of_genes"]
    print(of_sets[columns].round(3).to_string(index=False))

    rows: list[tuple[str, ...]] = [COLUMNS]
    for number in given.kinds:
        name = list(NEW)[number]
        dataset = data(root, f"new_{number}", patients=given.new, seed=11, **NEW[name])
        new = prepared.predict_sections(model, dataset, [each["name"] for each in dataset.sections], **all_of)
        report, _ = conformal.report(calibration, task, new)
        raw, above = root / f"raw_new_{number}", ~trust.below(FLOOR)
        counts = scored(model, task, new).per_gene["model"]["pcc"]
        cells = scored(model, task, [without_noise(each, model, raw) for each in new]).per_gene["model"]["pcc"]
        factors = sorted(report["widened"].values())
        shares = [f"{np.mean(pcc[above] >= FLOOR):.3f}" for pcc in (counts, cells)]
        figures = [f"{report[key]:.3f}" for key in ("coverage", "coverage_unwidened")]
        rows.append((
            name, *figures, f"{factors[0]:.2f} to {factors[-1]:.2f}", f"{np.nanmedian(counts):.3f}", f"{above.sum()}",
            *shares,
        ))  # fmt: skip
        scores = np.concatenate([sets.scores(each.prediction.expression) for each in new])
        there = np.concatenate([abundance(raw, each) for each in new])
        for place, kind in enumerate(demo_tissue.TYPES):
            if kind in sets.names:
                pcc = np.corrcoef(scores[:, sets.names.index(kind)], there[:, place])[0, 1]
                print(f"{name}: score of {kind} and the share of {kind} cells, PCC {pcc:.3f}")
    print("\n".join(f"| {' | '.join(cells)} |" for cells in zip(*rows, strict=True)))


if __name__ == "__main__":
    cli.program(main)
