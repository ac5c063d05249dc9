"""What shifts cost a model: figures of each, and the files and pictures of all."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stjax import metrics
from stjax.outputs import _map
from stjax.shifts import Shift
from stjax.tables import write_csv

_COLOURS = ("#1b6ca8", "#a8471b", "#2f7d4f", "#7a4fa0", "#8a6d1a", "#555555", "#a01b5b")  # of kinds, in order
_ROW_INCHES, _QUARTILES, _OUTER = 0.22, (0.25, 0.75), (0.05, 0.95)


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """A model under one shift.

    Attributes:
        pcc: [M] of each gene.
        before: [M] of the same spots' images as they are.
        spots: how many are scored.
        distance: [3] the mean red, green and blue of what the model saw, from its training images', in standard
            deviations of these.
        seconds: that predicting took.
    """

    shift: Shift
    pcc: np.ndarray
    before: np.ndarray
    spots: int
    distance: np.ndarray
    seconds: float

    @property
    def lost(self) -> np.ndarray:
        """[M] PCC that each gene lost; NaN without a PCC before or after."""
        return self.before - self.pcc

    @property
    def pcc_mean(self) -> float:
        """Over genes that have one."""
        return float(metrics.mean_of_known(self.pcc))

    @property
    def pcc_median(self) -> float:
        """Over genes that have one."""
        return _over_known(self.pcc, 0.5)

    @property
    def genes_lost(self) -> int:
        """Genes that have no PCC any more: they are predicted the same at every spot."""
        return int(np.sum(np.isnan(self.pcc) & ~np.isnan(self.before)))

    @property
    def share_kept(self) -> float:
        """Mean PCC as a share of what it was, over genes that have both; NaN where it was not positive."""
        both = np.isfinite(self.lost)
        before = self.before[both].mean() if both.any() else 0.0
        return float(self.pcc[both].mean() / before) if before > 0 else np.nan

    @property
    def note(self) -> str:
        """In a line of the command's table."""
        parts = [f"PCC mean {self.pcc_mean:.3f}, median {self.pcc_median:.3f}"]
        if self.shift.kind:
            parts += [f"{_percent(self.share_kept)} kept"] if np.isfinite(self.share_kept) else []
            parts.append(f"{metrics.mean_of_known(self.lost):.3f} lost")
        if self.genes_lost:
            parts.append(f"{self.genes_lost} of {len(self.pcc)} genes predicted the same everywhere")
        return ", ".join(parts)


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """A line on the images as they are, and the median and least share of the PCC kept for each kind of shift."""
    lines = [f"unshifted: PCC mean {outcomes[0].pcc_mean:.3f}, median {outcomes[0].pcc_median:.3f}"]
    for kind, of in _by_kind(outcomes).items():
        shares = np.array([outcome.share_kept for outcome in of])
        if not np.isfinite(shares).all():
            lines.append(f"{kind}: no share kept to speak of, as some mean PCC is not positive, or no gene has one")
            continue
        worst = of[int(shares.argmin())]
        middle = f"{_percent(float(np.median(shares)))} of the mean PCC kept at the median of {len(of)}"
        lines.append(f"{kind}: {middle}, {_percent(worst.share_kept)} at the worst ({worst.shift.name})")
    return lines


def write(
    out: Path, outcomes: Sequence[Outcome], names: np.ndarray, ensembl_id: np.ndarray, *, title: str
) -> list[Path]:
    """Writes shift.csv, a row a shift; shift_genes.csv, a row a gene; and a picture of what genes lose.

    Args:
        names, ensembl_id: [M] of the genes.
        title: of the picture.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "shift.csv", pd.DataFrame([_row(outcome) for outcome in outcomes]))
    stains = np.array([outcome.lost for outcome in _by_kind(outcomes)["stain"]])  # [shifts, M]
    table = pd.DataFrame({"gene": names, "ensembl_id": ensembl_id, "pcc": outcomes[0].pcc})
    over_stains = {"median": np.median(stains, axis=0), "worst": np.max(stains, axis=0)}
    lost = {f"lost, {which} of stains": values for which, values in over_stains.items()}
    lost |= {f"lost, {outcome.shift.title}": outcome.lost for outcome in outcomes[1:]}
    write_csv(out / "shift_genes.csv", pd.concat([table, pd.DataFrame(lost)], axis=1))
    return [out / "shift.csv", out / "shift_genes.csv", *_pictures(out, outcomes, title)]


def _row(outcome: Outcome) -> dict[str, object]:
    red, green, blue = (float(each) for each in outcome.distance)
    return {
        "kind": outcome.shift.kind,
        "shift": outcome.shift.name,
        "pcc_mean": outcome.pcc_mean,
        "pcc_median": outcome.pcc_median,
        "share_kept": outcome.share_kept,
        "lost_mean": float(metrics.mean_of_known(outcome.lost)),
        "lost_median": _over_known(outcome.lost, 0.5),
        "spots": outcome.spots,
        "genes": int(np.isfinite(outcome.pcc).sum()),
        "genes_lost": outcome.genes_lost,
        "red_distance": red,
        "green_distance": green,
        "blue_distance": blue,
    }


def _pictures(out: Path, outcomes: Sequence[Outcome], title: str) -> list[Path]:
    """shift.png and shift.svg."""
    shifted = outcomes[1:]
    drawn = Figure((7, _ROW_INCHES * len(shifted) + 1.2), layout="constrained")
    axes = drawn.subplots()
    kinds = list(_by_kind(outcomes))
    for place, outcome in enumerate(shifted):
        colour = _COLOURS[kinds.index(outcome.shift.kind) % len(_COLOURS)]
        for shares, width in ((_OUTER, 1), (_QUARTILES, 4)):
            low, high = (_over_known(outcome.lost, share) for share in shares)
            axes.hlines(place, low, high, color=colour, linewidth=width)
        axes.plot(metrics.mean_of_known(outcome.lost), place, "o", color="white", markeredgecolor=colour, markersize=5)
    axes.axvline(0, color="0.7", linewidth=1, zorder=0)
    labels = [f"{each.shift.title}  {_percent(each.share_kept)}" for each in shifted]
    axes.set_yticks(range(len(shifted)), labels, fontsize=7)
    axes.set_ylim(len(shifted) - 0.5, -0.5)
    axes.set_xlabel("PCC lost by a gene: mean (circle), half (thick) and nine tenths (thin) of the genes", fontsize=8)
    axes.set_title(f"{title}: mean PCC {outcomes[0].pcc_mean:.3f} unshifted, and the share of it kept", fontsize=9)
    paths = [out / "shift.png", out / "shift.svg"]
    for path in paths:
        _map.save(path, drawn)
    return paths


def _by_kind(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Those of shifts, in order."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.shift.kind:
            found.setdefault(outcome.shift.kind, []).append(outcome)
    return found


def _over_known(values: np.ndarray, share: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, share)) if len(known) else np.nan


def _percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else "-"
