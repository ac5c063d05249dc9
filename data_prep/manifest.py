"""The manifest of a data set, and what TFDS keeps next to the shards; both are written once every section is whole."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep import cli, plan, records, stain
from data_prep.dataset import FORMAT, FORMAT_VERSION
from data_prep.genes import species_of
from data_prep.section import GeneTable
from data_prep.writer import VERSION, dataset_name

# Where each layout's public data come from, for whoever uses the data set.
CITATIONS = {
    "her2st": "Andersson A. et al. Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated "
    "cell type interactions. Nature Communications 12, 6012 (2021). doi:10.1038/s41467-021-26271-2",
    "stnet": "He B. et al. Integrating spatial gene expression and breast tumour morphology via deep learning. "
    "Nature Biomedical Engineering 4, 827-834 (2020). doi:10.1038/s41551-020-0578-x",
    "hest": "Jaume G. et al. HEST-1k: a dataset for spatial transcriptomics and histology image analysis. "
    "Advances in Neural Information Processing Systems 37 (2024). arXiv:2406.16192",
}


def versions() -> dict[str, str]:
    """What the bytes of the shards may depend on."""
    packages = ("numpy", "scipy", "pillow", "array_record", "tensorflow-datasets", "simplejpeg", "tifffile")
    found: dict[str, str] = {"python": platform.python_version(), "records": VERSION}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def make_manifest(
    *,
    options: plan.Options,
    source: Mapping[str, str],
    genes: GeneTable,
    genes_removed: Mapping[str, int],
    skipped: Mapping[str, str],
    entries: Sequence[Mapping[str, Any]],
    target: stain.Profile | None,
    warnings: Sequence[str],
    ignored_errors: Sequence[str],
) -> dict[str, Any]:
    """Everything a reader of the data set may want to know, without a second pass over the records.

    Args:
        source: "layout", "reason" it was recognised, "name" and "fingerprint".
        skipped: section -> why it is left out.
        target: the slide that stains are normalised to, fitted.
        warnings: about sections taken together; those about one are its notes.
        ignored_errors: that checks found and the user passed over.
    """
    synthetic = any(entry["synthetic"] for entry in entries)
    citation = CITATIONS.get(source["layout"], "")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": options.kind,
        "synthetic": synthetic,
        "citation": "" if synthetic else citation,
        "parameters": options.parameters(),
        "source": dict(source),
        "versions": versions(),
        "dataset": f"{dataset_name(options.kind)}/{VERSION}",
        "genes": {"ensembl_id": genes.ensembl_id.tolist(), "symbol": genes.symbol.tolist()},
        "species": species_of(genes)[0],  # "" where it is not known
        "genes_removed": dict(genes_removed),
        "stain_target": None if target is None else dataclasses.asdict(target),
        "removed": {reason: sum(entry["removed"][reason] for entry in entries) for reason in entries[0]["removed"]},
        "skipped": dict(skipped),
        "warnings": list(warnings),
        "ignored_errors": list(ignored_errors),
        "sections": list(entries),
    }


def write_tfds_metadata(out: Path, manifest: Mapping[str, Any]) -> None:
    """Make the shards a data set that `tfds.builder_from_directory(out / manifest["dataset"])` opens."""
    folder = out / manifest["dataset"]
    name, parameters = dataset_name(manifest["kind"]), manifest["parameters"]
    size_px = parameters["tile_size_px"] or parameters["patch_size_px"]
    origin = "SYNTHETIC demo tissue" if manifest["synthetic"] else f"{manifest['source']['layout']} sections"
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name=""
        ),
        description=f"Histology {manifest['kind']} of {size_px} px with spatial gene counts ({origin}), made by stjax. "
        "One split per section; records in the order of tables/<split>.npz. See manifest.json for the genes.",
        features=features_of(parameters["image_format"], size_px),
        disable_shuffling=True,
        citation=manifest["citation"],
    )
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=name, filetype_suffix="array_record")
    info.set_splits(
        tfds.core.SplitDict(
            tfds.core.SplitInfo(
                name=entry["split"],
                shard_lengths=[shard["records"] for shard in entry["shards"]],
                num_bytes=sum(shard["bytes"] for shard in entry["shards"]),
                filename_template=template.replace(split=entry["split"]),
            )
            for entry in manifest["sections"]
        )
    )
    info.write_to_directory(folder)


def features_of(image_format: str, size_px: int) -> tfds.features.FeaturesDict:
    """What TFDS must be told of the records to read them.

    Args:
        image_format: "jpeg" or "raw".
        size_px: side of the images.
    """
    shape = (size_px, size_px, 3)
    if image_format == "jpeg":
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    else:
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    return tfds.features.FeaturesDict(
        {"image": image, "spot_id": tfds.features.Sequence(tfds.features.Text())}
        | {name: tfds.features.Tensor(shape=shape, dtype=dtype) for name, (dtype, shape) in records.ARRAYS.items()}
        | {name: tfds.features.Scalar(dtype=dtype) for name, dtype in records.SCALARS.items()}
        | {name: tfds.features.Text() for name in records.TEXTS}
    )


def removal_table(
    plans: Sequence[plan.SectionPlan], genes: GeneTable, genes_removed: Mapping[str, int], *, options: plan.Options
) -> str:
    """What is kept and what is removed, and why, a row per section."""
    reasons = {
        "outside_image": "outside image",
        "window_outside_image": "window crosses border",
        "low_counts": f"< {options.min_counts} counts",
        "white": f"> {options.max_white_fraction:.0%} white",
    }
    absent = {"white"} if options.max_white_fraction >= 1 else set()
    absent |= {"window_outside_image"} if options.kind == "tiles" else set()
    shown = [reason for reason in reasons if reason not in absent]
    rows = [["section", "spots read", *(f"- {reasons[reason]}" for reason in shown), "spots kept", options.kind]]
    for entry in plans:
        removed = [str(entry.removed[reason]) for reason in shown]
        rows.append([entry.name, str(entry.read), *removed, str(entry.spots), str(entry.records)])
    if len(plans) > 1:
        columns = list(zip(*rows[1:], strict=True))[1:]
        rows.append(["all", *(str(sum(int(cell) for cell in column)) for column in columns)])
    lines = cli.table(rows, align="<" + ">" * (len(rows[0]) - 1))
    dropped = f"{genes_removed['never_expressed']} without counts in the kept spots"
    if genes_removed["in_too_few_spots"]:
        dropped += f", {genes_removed['in_too_few_spots']} in fewer than {options.min_spot_fraction:.0%} of them"
    species, why = species_of(genes)
    return "\n".join(
        [
            *lines,
            f"genes: {len(genes)} kept; removed: {dropped}",
            f"species: {species}, by {why}" if species else f"species: not known: {why}",
        ]
    )
