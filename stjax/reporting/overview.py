"""What comes first: whether the model is any good, on which tissue, which genes it predicts best, and a map of one."""

import base64
import io

import numpy as np

from stjax.evaluation.methods import MODEL
from stjax.outputs import _map
from stjax.reporting import fragments
from stjax.reporting.markup import DASH, escape, interval, listed, number, table
from stjax.reporting.read import RunResults
from stjax.reporting.sections import DrawnSection
from stjax.targets import FORMULAS

_BEST = 5  # genes in the table
_WORKS, _FAILS = "genes_pcc_above_0.5", ("genes_pcc_0.1_to_0.3", "genes_pcc_0.3_to_0.5", "genes_pcc_above_0.5")


def overview(run: RunResults) -> str:
    """The first screen of a run."""
    words = f'<p class="verdict">{fragments.headline(run)}</p><p class="lead">{fragments.verdict(run)}</p>'
    return f'<div class="overview"><div>{words}{_facts(run)}</div><div>{_best_gene(run)}{_best_genes(run)}</div></div>'


def _facts(run: RunResults) -> str:
    results, manifest = run.metrics, run.manifest or {}
    patients = sorted({section.patient for section in run.sections if section.patient})
    sections = results["sections"]
    tissue = f"section{'s' if len(sections) > 1 else ''} {listed(sections)}"
    tissue += f" of patient{'s' if len(patients) > 1 else ''} {listed(patients)}" if patients else ""
    data = run.data.get("data_dir") or "not known"
    facts = {
        "Tissue": tissue + (", synthetic" if run.synthetic else ""),
        "Organism": escape(manifest.get("species") or "not known"),
        "Data": f"{number(results['spots'], 0)} spots, {len(run.genes)} genes; data set {escape(data)}",
        "Model": f"{escape(results['model'])}, trained under protocol {escape(results['protocol'])}",
    }
    return '<dl class="facts">' + "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts.items()) + "</dl>"


def _best_genes(run: RunResults) -> str:
    """The genes of highest PCC, and how many are predicted well or not at all."""
    order = np.argsort(-run.genes["pcc"].fillna(-np.inf).to_numpy(float), kind="stable")[:_BEST]
    genes = run.genes.iloc[order].dropna(subset=["pcc"])
    if genes.empty:
        return ""
    rows = []
    for _, gene in genes.iterrows():
        ends = interval([gene.get("pcc_low", np.nan), gene.get("pcc_high", np.nan)])
        share = gene.get("pcc_of_ceiling", np.nan)
        rows.append(
            [escape(gene["gene"]), number(gene["pcc"]), ends or DASH, f"{share:.0%}" if share == share else DASH]
        )
    model = run.metrics["methods"][MODEL]
    counts = [model.get(key) for key in _FAILS]
    text = table(["gene", "PCC", "interval", "of its noise ceiling"], rows, caption="The genes that are predicted best")
    if None not in counts:
        total = model.get("genes", len(run.genes))
        text += (
            f'<p class="fine">{number(model[_WORKS], 0)} of {number(total, 0)} genes have a PCC (correlation of '
            "measured and predicted expression over spots) above 0.5; "
            f"{number(total - sum(counts), 0)} have 0.1 or less, or none: do not trust their maps.</p>"
        )
    return f'<div class="best-genes">{text}</div>'


def _best_gene(run: RunResults) -> str:
    """A picture of the gene of highest PCC: slide, measured, predicted."""
    pcc = run.genes["pcc"].fillna(-np.inf).to_numpy(float)
    section = next((each for each in run.sections if each.truth is not None and len(each.spots) > 1), None)
    if section is None or section.truth is None or not np.isfinite(pcc).any():
        return ""
    best = int(pcc.argmax())
    measured, predicted = section.truth[:, best], section.prediction[:, best]
    if not (np.isfinite(measured).all() and np.isfinite(predicted).all()):
        return ""
    gene, name = escape(run.genes["gene"].iloc[best]), escape(section.name)
    unit = escape(FORMULAS.get(run.metrics["target"], run.metrics["target"]))
    return (
        f'<figure class="best"><img alt="Section {name}: its slide, {gene} as measured, and as predicted" '
        f'src="data:image/jpeg;base64,{_picture(section, measured, predicted)}"><figcaption><b>{gene}</b>, the '
        f"gene of highest PCC ({number(pcc[best])}), in section {name}: slide, measured, predicted; as {unit}."
        "</figcaption></figure>"
    )


def _picture(section: DrawnSection, measured: np.ndarray, predicted: np.ndarray) -> str:
    figure = _map.draw(
        section.thumbnail,
        section.thumbnail_scale,
        section.spots,
        {"measured": measured, "predicted": predicted},
        unit="expression",
        panel_inches=2.3,
    )
    written = io.BytesIO()
    figure.savefig(written, format="jpeg", dpi=150, pil_kwargs={"quality": 85})
    return base64.b64encode(written.getvalue()).decode("ascii")
