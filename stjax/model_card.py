"""The model card of an exported model, in Mitchell et al.'s sections (2019, "Model cards for model reporting"), made of
what the run knows of itself: no number in it is written by hand."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import json_files
from data_prep.errors import InputError
from stjax.evaluation.methods import METHODS, label
from stjax.findings import OK, VERDICTS, check_title
from stjax.progress import Progress
from stjax.workdir import Run

_FIGURES = {
    "pcc_median": "median PCC",
    "pcc_mean": "mean PCC",
    "genes_pcc_above_0": "genes with PCC > 0",
    "amae": "MAE",
    "armse": "RMSE",
}

_UNREADABLE = (InputError, ValueError, KeyError, TypeError, AttributeError)  # of results by another version

_TEMPLATE = """\
# Model card: {name}, {genes} genes

{synthetic}{unfinished}
**Not for diagnosis.** This model is for research. It is no medical device, nobody has assessed it as one, and
its output must not be used to decide on anybody's treatment.

## The model
* {name}, computed in {dtype}, weights of training step {step} of a run of {trained}; SHA-256 `{sha256}`.
{encoder}* Input: {image_px} x {image_px} px RGB {what} at {um_per_px:.3f} um per px, stain normalisation: {stain}.
* Output: {meaning}, in {units}{symmetries}.
* Genes: {species}; their names are in genes.csv.
* Made with stjax {stjax} and jax {jax}; the function runs on {platforms}.
* Protocol `{protocol}`: {source}

## Intended use
Predicting the expression of the genes of genes.csv from H&E images like those it was trained on: as a hypothesis to be
measured, to compare methods, to choose what to sequence.

## What it is not for
* Any clinical decision; any tissue, stain, scanner or scale it has not been evaluated on. `stjax.predict` resamples
  and stain-normalises a slide as the training slides were, which does not make it one of them.
* Reading a single gene's value off a single spot: see the results below for how far apart prediction and measurement
  are, gene by gene, in the run's own report.

## Training data
* Patients: {patients}{known}; sections: {sections}{parts}{init}; data set `{content_hash}`.
{bank}* {panel_scope}
* Settings of the training are in config.json under "training".

## Evaluation
{evaluation}

## Limits
{caveat}* The results hold for the sections named there. Between patients, laboratories and scanners they differ, often
  by more than between methods.
* Expression that leaves no trace in morphology cannot be predicted; a model then says the mean, with small errors and
  no correlation. Compare with the ridge on colour and the mean predictor above.
* A model trained on few patients knows few patients.

## Files and licence
config.json says all of the above for programs, genes.csv the genes in the order of the output, LICENSE_NOTE.md what
must be observed when passing this on. manifest.json has the SHA-256 of every file.
"""

_BANK = """\
* **Measured expression travels with the weights**: the targets of {rows} training spots, among which the model looks up
  those that are like the one it is asked about. Whoever has the model has them; ask whether they may be passed on.
"""


def card(run: Run, config: dict[str, Any]) -> str:
    """The card, as Markdown.

    Args:
        run: its `evaluation/*/metrics.json` give the results.
        config: of the exported folder.
    """
    data, training = run.fold, config["training"]
    whose = "blocks" if data.caveat else "patients"
    panel_scope = {
        "train": f"Gene panel and all statistics are of the training {whose} alone.",
        "all": f"As the protocol was published, genes were ranked over the held-out {whose} too; statistics are of the "
        f"training {whose} alone.",
    }
    return _TEMPLATE.format(
        name=run.model_name,
        genes=data.panel.num_main,
        species=data.panel.species or "of a species that their names do not tell",
        synthetic="**SYNTHETIC: trained on generated tissue. It says nothing about real tissue.**\n"
        if data.synthetic
        else "",
        unfinished=_unfinished(run.progress),
        trained=run.progress,
        dtype=config["model"]["dtype"],
        step=run.step,
        sha256=run.model_sha256,
        image_px=data.image_size_px,
        what=run.view.what,
        um_per_px=data.um_per_px,
        stain=data.parameters["stain"],
        encoder=_encoder(config["encoder"]),
        meaning=config["output"]["meaning"],
        units=config["output"]["units"],
        symmetries=", the mean over the eight symmetries of the square" if run.protocol.test_symmetries else "",
        stjax=config["stjax"],
        jax=config["jax"],
        platforms=", ".join(config["platforms"]),
        protocol=run.protocol.name,
        source=run.protocol.source,
        patients=training["patients"],
        known=f" ({known})" if (known := training.get("patients_known")) else "",
        sections=training["sections"],
        parts=", of which some blocks were held out" if data.caveat else "",
        init=f", starting from the weights {training['init_from']}" if training["init_from"] else "",
        content_hash=data.content_hash,
        bank=_BANK.format(**bank) if (bank := data.facts.get("bank")) else "",
        caveat=f"* **Spatial blocks**: {data.caveat}.\n" if data.caveat else "",
        panel_scope=panel_scope[run.protocol.panel_scope],
        evaluation="\n\n".join(_tables(run.folder, run.step))
        or "None: this run has not been evaluated. Run stjax.evaluate, and export again.",
    )


def for_the_hub(run: Run, config: dict[str, Any], text: str) -> str:
    """README.md as the Hugging Face Hub shows it: YAML that its search reads, and `text`, the card.

    That no licence is chosen yet is in it; whoever publishes the model edits that.
    """
    head: dict[str, Any] = {
        "library_name": "stjax",
        "tags": ["stjax", "histology", "spatial-transcriptomics", "gene-expression", config["model"]["module"]],
        "license": "other",
        "license_name": "not-chosen",
        "license_link": "LICENSE_NOTE.md",
    }
    if results := list(_results(run.folder, run.step)):
        head["model-index"] = [{"name": run.model_name, "results": results}]
    lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]  # JSON is YAML too
    return "\n".join(["---", *lines, "---", "", text])


def _results(folder: Path, step: int) -> Iterator[dict[str, Any]]:
    """The evaluations that the card has a table of, as the Hub's `model-index` has them."""
    for path in sorted((folder / "evaluation").glob("*/metrics.json")):
        with contextlib.suppress(*_UNREADABLE):  # the card says so
            result = json_files.read(path, remedy="")
            of_model, where = result["methods"]["model"], f"{result['part']} sections: {len(result['sections'])}"
            known = [(key, name, of_model[key]) for key, name in _FIGURES.items() if of_model.get(key) is not None]
            if result["checkpoint_step"] == step:
                synthetic = "SYNTHETIC tissue, " if result["synthetic"] else ""
                yield {
                    "task": {"type": "gene-expression-prediction", "name": "Gene expression from H&E images"},
                    "dataset": {
                        "type": "spatial-transcriptomics",
                        "name": f"{synthetic}{where}, {result['spots']} spots, protocol {path.parent.name}",
                    },
                    "metrics": [{"type": key, "name": name, "value": value} for key, name, value in known],
                }


def encoder_terms(encoder: dict[str, Any] | None) -> str:
    """What LICENSE_NOTE.md says of an encoder, "" of none."""
    if encoder is None:
        return ""
    where = "are in this folder" if encoder["included"] else "are not in this folder: who predicts must have them"
    source = f"; they come from {encoder['source']}" if encoder["source"] else ""
    terms = f": {encoder['terms']}" if encoder["terms"] else ""
    return f"\nThe weights of {encoder['title']} {where}{source}. Their licence is {encoder['licence']}{terms}.\n"


def _encoder(encoder: dict[str, Any] | None) -> str:
    """Its line in the card."""
    if encoder is None:
        return ""
    facts = {"pooling": encoder["pooling"], "SHA-256 of its weights file": encoder["weights_sha256"]}
    of = "".join(f", {name} `{value}`" for name, value in facts.items() if value)
    return f"* Encoder: {encoder['title']}, {encoder['trained']}{of}. {encoder_terms(encoder).strip()}\n"


def _unfinished(progress: Progress) -> str:
    """Of a run that was stopped, or of which that is not known."""
    if progress.finished:
        return ""
    if progress.finished is None:
        return f"**Whether its training was finished is not known** ({progress}).\n"
    return f"**NOT FINISHED: trained for {progress}, then stopped.** The results below are of that state.\n"


def _tables(folder: Path, step: int) -> Iterator[str]:
    """A table of each evaluation of a run's held-out sections by its weights of a step."""
    for path in sorted((folder / "evaluation").glob("*/metrics.json")):
        try:
            result = json_files.read(path, remedy="")
            if result["checkpoint_step"] == step:
                yield _table(result, path)
            else:
                yield f"Protocol `{path.parent.name}`: evaluated at step {result['checkpoint_step']}, not at this one."
        except _UNREADABLE as error:
            yield (
                f"Protocol `{path.parent.name}`: the results cannot be read ({error!r}), another version of stjax may "
                "have written them: run stjax.evaluate, and export again."
            )


def _table(result: dict[str, Any], path: Path) -> str:
    """Model and baselines, a row each. Metrics that the evaluation gave an interval are followed by it."""
    rows = [
        f"Protocol `{path.parent.name}`, {result['part']} sections: {len(result['sections'])}, with {result['spots']} "
        f"spots; PCC {result['pcc_pooling']}, errors in {result['error_unit']}"
        + (f"; {level:.0%} intervals in brackets:" if (level := result.get("level")) else ":"),
        "",
        "| | " + " | ".join(_FIGURES.values()) + " |",
        "|---|" + "---:|" * len(_FIGURES),
    ]
    for method, figures in result["methods"].items():
        cells = [_cell(figures.get(key), (figures.get("intervals") or {}).get(key)) for key in _FIGURES]
        rows.append(f"| {label(method, star=' *')} | " + " | ".join(cells) + " |")
    if any(METHODS[method].uses_test_expression for method in result["methods"]):
        rows += ["", "\\* is given measured expression of the scored sections, which the model is not."]
    if odd := [
        f"{check_title(each['check'])}: {VERDICTS[each['verdict']]}"
        for each in result.get("audit", ())
        if each["verdict"] != OK
    ]:
        rows += ["", f"What `stjax audit` found: {', '.join(odd)}."]
    if shared := result.get("patients_also_in_training"):
        rows += [
            "",
            f"{len(shared)} of these patients are also in training: these results are for patients seen in training.",
        ]
    if caveat := result.get("caveat"):
        rows += ["", f"SPATIAL BLOCKS: {caveat}."]
    if result["synthetic"]:
        rows += ["", "SYNTHETIC tissue: these results say nothing about real tissue."]
    return "\n".join(rows)


def _cell(value: float | int | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
