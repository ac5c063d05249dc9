"""A work directory as train and evaluate leave it, made without training: known values, two sections, any names."""

import hashlib
import json

import anndata
import numpy as np
import pandas as pd

from data_prep import h5_file, json_files
from data_prep.dataset import FORMAT, FORMAT_VERSION
from stjax import metrics


def bands(pcc):
    known = pcc[np.isfinite(pcc)]
    return {
        "genes": len(pcc),
        "genes_without_pcc": int(np.isnan(pcc).sum()),
        "genes_constant_prediction": int(np.isnan(pcc).sum()),
        "genes_constant_truth": 0,
        "pcc_mean": float(known.mean()) if len(known) else None,
        "pcc_median": float(np.median(known)) if len(known) else None,
        "pcc_first_quartile": float(np.quantile(known, 0.25)) if len(known) else None,
        "genes_pcc_above_0": int((known > 0).sum()),
        "genes_pcc_0.1_to_0.3": int(((known > 0.1) & (known <= 0.3)).sum()),
        "genes_pcc_0.3_to_0.5": int(((known > 0.3) & (known <= 0.5)).sum()),
        "genes_pcc_above_0.5": int((known > 0.5).sum()),
    }


def added(summary, half=0.05):
    """Rank correlation and intervals added to a method's metrics."""
    ends = {
        key: [value - half, value + half] for key, value in summary.items() if key in ("pcc_median", "pcc_mean", "amae")
    }
    return summary | {
        "spearman_median": summary["pcc_median"],
        "intervals": {k: v for k, v in ends.items() if None not in v},
    }


def make_run(
    folder,
    *,
    sections=("A1", "A2"),
    patients=("A", "A"),
    spots=40,
    genes=("GENE1", "GENE2", "GENE3", "GENE4"),
    noise=0.5,
    seed=0,
    synthetic=False,
    audit=(),
    truth_seed=0,
    encoder=None,
):
    """Writes the run; the last gene's prediction is constant, so that it has no PCC.

    Args:
        noise: of the predictions, where measurements have deviation 1.
        audit: entries of the leakage audit.
        encoder: what evaluate says of the model's.
    """
    folder.mkdir(parents=True)
    data_dir = folder.parent / f"{folder.name}_data"
    data_dir.mkdir()
    rng, of_truth = np.random.default_rng([seed, 1]), np.random.default_rng(truth_seed)
    ids = [f"ENSG{place:011d}" for place in range(len(genes))]
    truths, predictions = [], []
    (folder / "predictions").mkdir()
    for name, patient in zip(sections, patients, strict=True):
        truth = of_truth.normal(size=(spots, len(genes))).astype(np.float32) + 2
        prediction = truth + rng.normal(scale=noise, size=truth.shape).astype(np.float32)
        prediction[:, -1] = 1.25
        truths.append(truth)
        predictions.append(prediction)
        side = int(np.ceil(np.sqrt(spots)))
        adata = anndata.AnnData(
            X=prediction,
            obs=pd.DataFrame({"section": name, "patient": patient}, index=[f"{name}_{i}" for i in range(spots)]),
            var=pd.DataFrame({"symbol": list(genes), "ensembl_id": ids}, index=list(genes)),
        )
        adata.layers["truth"] = truth
        adata.layers["lower"], adata.layers["upper"] = prediction - 1, prediction + 1
        adata.obsm["spatial"] = np.stack([np.arange(spots) % side, np.arange(spots) // side], axis=1) * 200.0 + 150
        picture = of_truth.integers(0, 256, (90, 100, 3)).astype(np.uint8)
        size = (side + 1) * 200
        scale = {"tissue_lowres_scalef": 100 / size, "spot_diameter_fullres": 100.0, "microns_per_pixel": 0.5}
        adata.uns["spatial"] = {name: {"images": {"lowres": picture}, "scalefactors": scale}}
        adata.uns["stjax"] = {"checkpoint_step": 7, "data_sha256": "d" * 64}
        h5_file.write_anndata(folder / "predictions" / f"{name}.h5ad", adata)

    part = {"file": "a.npz", "bytes": 1, "sha256": "0" * 64}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": "patches",
        "synthetic": synthetic,
        "parameters": {
            "patch_size_px": 32,
            "tile_size_px": None,
            "context_px": None,
            "um_per_px": None,
            "stain": "none",
            "stain_standardise": "both",
            "resolve_aliases": False,
            "min_counts": 1000,
        },
        "source": {"fingerprint": ""},
        "stain_target": None,
        "citation": "",
        "versions": {"numpy": "2.0"},
        "genes": {"symbol": list(genes), "ensembl_id": ids},
        "genes_removed": {"never_expressed": 3, "in_too_few_spots": 1},
        "removed": {"outside_image": 0, "low_counts": 5},
        "skipped": {"B9": "image not found <i>"},
        "warnings": [],
        "sections": [
            {
                "name": name,
                "spots_read": spots + 5,
                "spots": spots,
                "removed": {"outside_image": 0, "low_counts": 5},
                "notes": [f"{name} is upside down"],
                "patient": patient,
                "split": name,
                "records": spots,
                "um_per_px": 0.5,
                "px_scale": 1.0,
                "image": {"sha256": "", "width": 1, "height": 1},
                "shards": [],
                "table": part,
                "thumbnail": "a.jpg",
            }
            for name, patient in zip(sections, patients, strict=True)
        ],
    }
    (data_dir / "manifest.json").write_text(json.dumps(json_files.sealed(manifest)))
    content_hash = hashlib.sha256((data_dir / "manifest.json").read_bytes()).hexdigest()
    data = {
        "data_dir": str(data_dir),
        "content_hash": content_hash,
        "parameters": {"kind": "patches"},
        "synthetic": synthetic,
        "protocol": "stjax",
        "split": {"train": ["T1"], "val": [], "test": list(sections), "warnings": ["no validation sections"]},
    }
    json_files.write(folder / "config.json", json_files.sealed({"batch_size": 32, "model": {"variant": "b0"}}))
    json_files.write(folder / "data.json", json_files.sealed(data))

    truth, prediction = np.concatenate(truths), np.concatenate(predictions)
    pcc = metrics.pearson_per_gene(prediction, truth)
    ridge = np.where(np.isfinite(pcc), pcc * 0.8, np.nan)
    table = pd.DataFrame({"gene": genes, "ensembl_id": ids, "pcc": pcc})
    table["mae"] = np.abs(prediction - truth).mean(axis=0)
    table["rmse"] = np.sqrt(np.square(prediction - truth).mean(axis=0))
    table["mean_expression"] = truth.mean(axis=0)
    table["pcc_ridge_colour"] = ridge
    errors = {"amae": float(table["mae"].mean()), "armse": float(table["rmse"].mean())}
    methods = {
        "model": bands(pcc) | errors,
        "ridge_colour": bands(ridge) | errors,
        "mean": bands(np.full(len(genes), np.nan)) | errors,
    }
    result = {
        "units": "stjax: log1p_library",
        "protocol": "stjax",
        "target": "log1p_library",
        "protocol_sha256": "a" * 64,
        "data_sha256": "d" * 64,
        "model": "efficientnet b0",
        "checkpoint_step": 7,
        "trained": "30 of 30 epochs",
        "training_finished": True,
        "synthetic": synthetic,
        "sections": list(sections),
        "spots": spots * len(sections),
        "pcc_pooling": "pooled",
        "error_unit": "expression",
        "patients_also_in_training": [],
        "hardware": "1 x cpu (cpu)",
        "versions": {"stjax": "1.0"},
        "methods": methods,
    }
    result |= {} if encoder is None else {"encoder": encoder}
    methods["nearest_measured"] = bands(ridge) | errors
    table["pcc_nearest_measured"] = ridge
    table["pcc_low"], table["pcc_high"], table["p_value"] = pcc - 0.1, pcc + 0.1, 0.001
    table["ceiling"] = np.minimum(1, pcc + 0.1)
    methods |= {name: added(summary) if summary["pcc_median"] else summary for name, summary in methods.items()}
    result |= {
        "part": "held-out",
        "level": 0.9,
        "resampled": "spatial_blocks",
        "bootstraps": 1000,
        "uses_test_expression": ["nearest_measured"],
        "targets": {"raw": {"methods": methods}, "library": {"methods": methods}},
        "permutation": {"permutations": 1000, "genes_below_0.05": 3},
        "sign_test": None,
        "noise_ceiling": {"pcc_median": 0.9, "model_fraction_median": 0.8, "splits": 5},
        "conformal": {"level": 0.9, "coverage": 0.91, "calibrated_on": ["T"]},
        "audit": list(audit) or [{"check": "shared patients", "verdict": "ok", "detail": "none"}],
    }
    evaluation = folder / "evaluation" / "stjax"
    evaluation.mkdir(parents=True)
    (evaluation / "metrics.json").write_text(json.dumps(result))
    table.to_csv(evaluation / "per_gene.csv", index=False)
    protocols = {
        "stjax": {"fits": True, "why": "", "methods": {"model": methods["model"]}},
        "pixnet": {"fits": False, "why": "another target", "methods": {}},
    }
    (folder / "evaluation" / "protocols.json").write_text(json.dumps({"protocols": protocols}))
    log = [
        {"kind": "train", "step": step, "learning_rate": 1e-3 / step, "loss": 2 / step, "epoch": 1}
        for step in (1, 2, 3)
    ]
    log.append(
        {"kind": "epoch", "epoch": 1, "step": 3, "loss": 1.2, "val_loss": 1.5, "val_pcc_median": 0.3, "best": True}
    )
    (folder / "logs").mkdir()
    (folder / "logs" / "train.jsonl").write_text("\n".join(map(json.dumps, log)) + '\n{"kind": "tr')
    return folder
