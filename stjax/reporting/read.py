"""What `train`, `evaluate` and `predict` left in a work directory, as far as it is there."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep import files, json_files
from data_prep.counted import counted
from data_prep.dataset import MANIFEST, read_manifest
from data_prep.errors import InputError
from data_prep.json_files import FLAG, TEXT, TEXTS, Each, Kind, Lacking, Maybe
from stjax import encoders, log_file
from stjax.evaluation.methods import METHODS, MODEL
from stjax.findings import VERDICTS
from stjax.reporting import sections as sections_of
from stjax.reporting.folders import without_folders
from stjax.reporting.sections import DrawnSection
from stjax.tables import unquoted
from stjax.trust import FLOOR, MARK, Trust

_AGAIN = "score the run again with python -m stjax.evaluate --workdir={}"
_RETRAIN = "train and score the run again"
_DATA = {  # what the page takes from data.json
    "data_dir": Lacking(TEXT),
    "content_hash": Lacking(TEXT),
    "protocol": Lacking(json_files.NAME),
    "parameters": Lacking(json_files.OBJECT),
    "split": Lacking({part: Lacking(json_files.TEXTS) for part in ("train", "val", "test", "warnings")}),
}
_FIGURE = Lacking(Maybe(json_files.number()))
_ENDS = Kind(
    "null, or two numbers",
    lambda v: v is None or (isinstance(v, list) and len(v) == 2 and (v == [None] * 2 or json_files.numbers().fits(v))),
)
_METHOD = {
    **dict.fromkeys(("genes", "pcc_median", "pcc_mean", "amae", "armse", "mse", "pcc_first_quartile"), _FIGURE),
    **dict.fromkeys(("genes_pcc_above_0", "genes_pcc_above_0.5"), _FIGURE),
    **dict.fromkeys(("genes_pcc_0.1_to_0.3", "genes_pcc_0.3_to_0.5"), _FIGURE),
    **dict.fromkeys(("genes_constant_prediction", "genes_constant_truth"), json_files.COUNT),
    "intervals": Lacking(Maybe(Each(_ENDS))),
}
_KNOWN = Kind("a method that this version of stjax knows", lambda value: value in METHODS)
_METHODS = Each(_METHOD, key=_KNOWN)
METRICS = {  # what the page takes from metrics.json
    "methods": {MODEL: _METHOD},
    "sections": [json_files.NAME],
    "spots": json_files.COUNT,
    "protocol": json_files.NAME,
    "target": TEXT,
    "level": Lacking(Maybe(json_files.number(0, 1))),
    "bootstraps": _FIGURE,
    "resampled": Lacking(Maybe(json_files.one_of("patients", "spatial_blocks"))),
    **dict.fromkeys(("trained", "part", "model", "units", "error_unit", "pcc_pooling"), TEXT),
    "training_finished": Lacking(FLAG),
    "patients_also_in_training": TEXTS,
    "caveat": Lacking(TEXT),
    **dict.fromkeys(("synthetic", "mean_over_symmetries"), Lacking(Maybe(FLAG))),
    "model_minus": Lacking(Maybe(Each(Each(Maybe({"difference": _FIGURE, "interval": Lacking(_ENDS)})), key=_KNOWN))),
    "targets": Lacking(Maybe(Each({"methods": _METHODS}))),
    "sizes_um": Lacking(Maybe(Each({"spots": json_files.COUNT, "methods": _METHODS}))),
    "audit": [{"check": TEXT, "verdict": json_files.one_of(*VERDICTS), "detail": TEXT}],
    "noise_ceiling": Lacking(Maybe({"pcc_median": _FIGURE, "model_fraction_median": _FIGURE})),
    "permutation": Lacking(Maybe({"genes_below_0.05": _FIGURE})),
    "conformal": Lacking(Maybe({"coverage": _FIGURE, "level": _FIGURE})),
    "versions": Each(TEXT),
    "encoder": Lacking(dict.fromkeys(encoders.IN_RESULTS, TEXT)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class RunResults:
    """A run with its results.

    Attributes:
        label: how the page calls it; unique among the runs of a page.
        config, data, metrics: config.json, data.json and metrics.json, without the folders of this machine.
        genes: per_gene.csv.
        log: the lines of logs/train.jsonl.
        manifest: of the data set, or None; manifest_note: why not, or what is wrong with it.
        protocols: {protocol: entry} of evaluation/protocols.json; empty where there is none.
        notes: what the page must say about what was not found.
    """

    workdir: Path
    label: str
    config: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, Any]
    genes: pd.DataFrame
    log: list[dict[str, Any]]
    manifest: dict[str, Any] | None
    manifest_note: str
    protocols: dict[str, Any]
    sections: tuple[DrawnSection, ...]
    notes: tuple[str, ...]

    @property
    def synthetic(self) -> bool:
        """Whether any of the tissue is the demo's."""
        return bool(self.metrics.get("synthetic") or self.data.get("synthetic"))


def read_runs(workdirs: Sequence[Path], *, names: Sequence[str] = (), protocol: str = "") -> list[RunResults]:
    """Reads the results of runs.

    Args:
        names: how to call them; default the names of their folders.
        protocol: whose evaluation to read; default the one each run was trained under.

    Raises:
        InputError: the same folder twice, as many names as runs but not the same number, or what `read_run` raises.
    """
    resolved = [folder.resolve() for folder in workdirs]
    if len(set(resolved)) < len(resolved):
        raise InputError("--workdir names a folder twice; name each run once")
    if names and len(names) != len(workdirs):
        found = f"{counted(len(names), 'names')} for {counted(len(workdirs), 'runs')}"
        raise InputError(f"--names has {found}; give one a run, in their order")
    labels = list(names) or [folder.name for folder in resolved]
    if len(set(labels)) < len(labels) and not names:
        labels = ["/".join(folder.parts[-2:]) for folder in resolved]
    if len(set(labels)) < len(labels):
        raise InputError(f"two runs would be called the same ({', '.join(labels)}); tell them apart with --names")
    return [read_run(folder, label, protocol=protocol) for folder, label in zip(workdirs, labels, strict=True)]


def read_run(workdir: Path, label: str, *, protocol: str = "") -> RunResults:
    """Reads what a work directory holds.

    Raises:
        InputError: no run, not scored yet, or a file that cannot be read.
    """
    if not (workdir / "config.json").is_file():
        raise InputError(
            f"{workdir} is not a stjax run directory: it has no config.json; train one first (stjax.train)"
        )
    if (workdir / "model.stablehlo").exists():
        raise InputError(f"{workdir} is an exported model, which has no results; give the work directory of its run")
    config, data = (json_files.read_sealed(workdir / name, remedy=_RETRAIN) for name in ("config.json", "data.json"))
    json_files.require(data, _DATA, str(workdir / "data.json"), remedy=_RETRAIN)
    metrics, genes = read_scores(workdir, protocol or data.get("protocol", ""), asked=bool(protocol))
    manifest, manifest_note = _read_manifest(data)
    protocols = workdir / "evaluation" / "protocols.json"
    sections, notes = _read_sections(workdir, metrics, genes)
    genes = _marked(genes, workdir, metrics)
    content = {
        "config": config,
        "data": data,
        "metrics": metrics,
        "manifest": manifest,
        "protocols": _read_protocols(protocols, _AGAIN.format(workdir)),
    }
    return RunResults(
        workdir=workdir,
        label=label,
        genes=genes,
        log=log_file.read(workdir / "logs" / log_file.FILE),
        manifest_note=manifest_note,
        sections=sections,
        notes=notes,
        **without_folders(content, known=(workdir, Path(str(data.get("data_dir", ""))))),
    )


def read_scores(workdir: Path, protocol: str, *, asked: bool = False) -> tuple[dict[str, Any], pd.DataFrame]:
    """A run's metrics.json and per_gene.csv under a protocol.

    Args:
        asked: whether the protocol is the user's choice.

    Raises:
        InputError: not scored yet, or a file that cannot be read.
    """
    folder, again = _evaluation(workdir, protocol, asked=asked), _AGAIN.format(workdir)
    path = folder / "metrics.json"
    metrics = json_files.read(path, remedy=again)
    for expected in ({"methods": _METHODS}, METRICS):
        json_files.require(metrics, expected, str(path), remedy=again)
    return metrics, _read_genes(folder / "per_gene.csv", workdir)


def sections_in(scores: Path, workdir: Path) -> list[DrawnSection]:
    """The sections that a run was scored on apart from its own, by the folder of these scores.

    Raises:
        InputError: a file that is not there, or cannot be read.
    """
    again = _AGAIN.format(workdir)
    found = json_files.read(scores / "metrics.json", remedy=again)
    json_files.require(found, {"sections": [json_files.NAME]}, str(scores / "metrics.json"), remedy=again)
    genes = _read_genes(scores / "per_gene.csv", workdir)
    paths = {name: scores / "predictions" / f"{name}.h5ad" for name in found["sections"]}
    return [sections_of.read(path, name, genes, remedy=again)[0] for name, path in paths.items()]


def _read_protocols(path: Path, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    expected = {"protocols": Each({"fits": FLAG, "why": Lacking(TEXT), "methods": Lacking(Maybe(_METHODS))})}
    return json_files.require(json_files.read(path, remedy=remedy), expected, str(path), remedy=remedy)["protocols"]


def _evaluation(workdir: Path, protocol: str, *, asked: bool) -> Path:
    """The folder of results under a protocol."""
    folder = workdir / "evaluation" / protocol
    if not files.fault_of_name(protocol) and (folder / "metrics.json").is_file():
        return folder
    found = sorted(path.parent.name for path in (workdir / "evaluation").glob("*/metrics.json"))
    if asked and found:
        raise InputError(f"{workdir} is not scored under {protocol}; it is under {', '.join(found)}")
    raise InputError(f"{workdir} has no evaluation yet; {_AGAIN.format(workdir)}")


def _read_genes(path: Path, workdir: Path) -> pd.DataFrame:
    """per_gene.csv; text columns hold no NaN, all others are float64."""
    try:
        table = pd.read_csv(path, dtype={"gene": str, "ensembl_id": str}, keep_default_na=False, na_values=[""])
        text = [name for name in ("gene", "ensembl_id") if name in table]
        table = table.astype({name: float for name in table if name not in text})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable ({error}); {_AGAIN.format(workdir)}") from None
    if missing := [name for name in ("gene", "pcc") if name not in table]:
        raise InputError(f"{path} has no column {', '.join(missing)}; {_AGAIN.format(workdir)}")
    if "ensembl_id" not in table:
        table.insert(1, "ensembl_id", "")
    table = table.fillna({"gene": "", "ensembl_id": ""})
    return table.assign(gene=table["gene"].map(unquoted), ensembl_id=table["ensembl_id"].map(unquoted))


def _read_manifest(data: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The manifest of the run's data set, where it is still there and the same."""
    folder = Path(data.get("data_dir", ""))
    if not (folder / MANIFEST).is_file():
        return None, f"The data set {folder.name} is no longer there: what its preparation removed is unknown."
    if files.sha256(folder / MANIFEST) != data.get("content_hash"):
        return None, f"The data set {folder.name} has changed since training, so its preparation is not shown."
    try:
        return read_manifest(folder)[0], ""
    except InputError:
        return None, f"The data set {folder.name} is not readable: what its preparation removed is unknown."


def _read_sections(
    workdir: Path, metrics: dict[str, Any], genes: pd.DataFrame
) -> tuple[tuple[DrawnSection, ...], tuple[str, ...]]:
    """The sections that were scored, and notes on those that are not there or are of another model."""
    sections, notes = [], []
    for name in metrics["sections"]:
        path = workdir / "predictions" / f"{name}.h5ad"
        if not path.is_file():
            notes.append(f"Section {name} has no map here: predictions/{name}.h5ad is not there; evaluate writes it.")
            continue
        section, made = sections_of.read(path, name, genes, remedy=_AGAIN.format(workdir))
        stale = [key for key in ("checkpoint_step", "data_sha256") if key in made and made[key] != metrics.get(key)]
        if stale:
            notes.append(
                f"Section {name}'s map is of another {' and '.join(stale)} than the results: it was made at another "
                "time. Score the run again for both to agree."
            )
        sections.append(section)
    return tuple(sections), tuple(notes)


def _marked(genes: pd.DataFrame, workdir: Path, metrics: dict[str, Any]) -> pd.DataFrame:
    """The per-gene table with the mark of `stjax.trust`, where the same evaluation wrote it."""
    known = Trust.load(workdir)
    whose = str(metrics.get("model_sha256", "")), bool(metrics.get("mean_over_symmetries"))
    if known is None or known.table["gene"].tolist() != genes["gene"].tolist():
        return genes
    if (mine := known.of(genes["gene"].to_numpy(), whose[0], symmetries=whose[1])) is None:
        return genes
    return genes.assign(**{MARK: mine.below(FLOOR).astype(float)})
