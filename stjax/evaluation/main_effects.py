"""How much of a figure's spread is the encoder, how much the head, when every head is trained on the features of every
encoder and scored on the same patients held out.

A two-way analysis of variance with patients as blocks: how much higher the figure is in one patient than in another,
whatever predicts it, is set aside. Encoders, heads and their pairs are those that were compared; patients are a sample:
what an encoder seems to add in so few of them by chance is subtracted from its share, and intervals are of patients
drawn anew. In simulations with 5 to 20 patients, intervals of 90 % held the true share in 87 % of cases or more.
"""

from typing import NamedTuple

import numpy as np

from stjax.evaluation import statistics
from stjax.intervals import LEVEL

__all__ = ["LEVEL", "SOURCES", "Effects", "Mean", "Share", "analyse"]
ENCODER, HEAD, PAIR, REST = SOURCES = ("encoder", "head", "pair", "rest")


class Share(NamedTuple):
    """Of a source, of the variance of the figure within patients, with its interval; and its standard deviation."""

    source: str
    value: float
    low: float
    high: float
    deviation: float


class Mean(NamedTuple):
    """Of an encoder over heads and patients, or of a head over encoders and patients; and how far it is from the best
    one's, over the same patients. Intervals are NaN where patients are too few."""

    factor: str
    name: str
    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


class Effects(NamedTuple):
    """The analysis.

    Attributes:
        encoders, heads: how many.
        blocks: patients held out in turn, or folds, or, of one, the seeds.
        seeds: of each.
        of_seeds: whether blocks are seeds.
        of_blocks: the standard deviation of the figure over them, whatever predicts it; NaN of one.
        shares: in the order of `SOURCES`; of one block, no pair, whose share the rest has.
        means: of encoders, then of heads, the best first.
    """

    encoders: int
    heads: int
    blocks: int
    seeds: int
    of_seeds: bool
    of_blocks: float
    shares: tuple[Share, ...]
    means: tuple[Mean, ...]


def analyse(
    values: np.ndarray,
    heads: list[str],
    encoders: list[str],
    *,
    higher_is_better: bool = True,
    scale: str = "difference",
) -> Effects:
    """The analysis of a figure.

    Args:
        values: [H, E, B, S] of every head and encoder, held-out patient (or fold) and seed; all finite. Two of H and
            of E at least.
        scale: of `statistics.intervals`, for means.
    """
    of_seeds = values.shape[2] == 1 < values.shape[3]
    if of_seeds:
        values = np.swapaxes(values, 2, 3)
    H, E, B, S = values.shape
    units = statistics.Units("patients", np.arange(B), np.zeros(B, np.int64))
    # Seeds say nothing of other patients, and three patients little.
    drawn = _drawn(B) if B >= statistics.MIN_PATIENTS and not of_seeds else None
    found, within = (
        _shares(values[:, :, None])[:, 0],
        float(np.var(values - values.mean(axis=(0, 1, 3), keepdims=True))),
    )
    ends = _ends(found, None if drawn is None else _shares(values[:, :, drawn]).T, units, "difference")
    shares = []
    for source, value, low, high in zip(SOURCES, found.tolist(), *ends, strict=True):
        if not (source == PAIR and B == 1):
            low, high = np.clip((low, high), 0, 1).tolist()
            shares.append(Share(source, value, low, high, float(np.sqrt(value * within))))
    means = []
    for factor, names, axis in ((ENCODER, encoders, 0), (HEAD, heads, 1)):
        of = values.mean(axis=(axis, 3))  # [K, B]
        means += _means(factor, names, of, drawn, units, scale, higher_is_better=higher_is_better)
    of_blocks = float(values.mean(axis=(0, 1, 3)).std(ddof=1)) if B > 1 else float("nan")
    return Effects(E, H, B, S, of_seeds, of_blocks, tuple(shares), tuple(means))


def _drawn(blocks: int) -> np.ndarray:
    """[R, B] blocks drawn with replacement."""
    return np.random.default_rng(0).integers(0, blocks, (statistics.BOOTSTRAPS, blocks))


def _shares(values: np.ndarray) -> np.ndarray:
    """[4, R] the share of each source in the variance within blocks of values [H, E, R, B, S], for each draw R."""
    H, E, _, B, _ = values.shape
    values = values - values.mean(axis=(0, 1, 4), keepdims=True)
    within = np.square(values).mean(axis=(0, 1, 3, 4))
    y = values.mean(axis=4)  # [H, E, R, B]
    e, h = (y.mean(axis=axes, keepdims=True) for axes in ((0, 3), (1, 3)))
    pair = y.mean(axis=3, keepdims=True) - e - h
    encoder, head, pairs = (np.square(each).mean(axis=(0, 1, 3)) for each in (e, h, pair))
    if B > 1:
        # What is alike in all patients, less what their own differences leave in the mean of B of them.
        e_b, h_b = (y.mean(axis=axis, keepdims=True) for axis in (0, 1))
        own = (e_b - e, h_b - h, y - e_b - h_b - pair)
        own = [np.square(each).mean(axis=(0, 1, 3)) for each in own]
        parts = [part - by / (B - 1) for part, by in zip((encoder, head, pairs), own, strict=True)]
    else:  # a pair's own cannot be told from chance
        parts = [encoder - pairs / (H - 1), head - pairs / (E - 1), np.zeros_like(pairs)]
    with np.errstate(invalid="ignore", divide="ignore"):
        known = [np.maximum(part, 0) / within for part in parts]
    return np.stack([*known, 1 - np.sum(known, axis=0)])


def _ends(
    estimate: np.ndarray, draws: np.ndarray | None, units: statistics.Units, scale: str
) -> tuple[list[float], list[float]]:
    """The ends of intervals of estimates [K], from draws [R, K]; NaN where nothing is drawn."""
    if draws is None:
        unknown = [float("nan")] * len(estimate)
        return unknown, unknown
    low, high = statistics.intervals(estimate, [draws], units, scale=scale)
    return low.tolist(), high.tolist()


def _means(
    factor: str,
    names: list[str],
    of: np.ndarray,
    drawn: np.ndarray | None,
    units: statistics.Units,
    scale: str,
    *,
    higher_is_better: bool,
) -> list[Mean]:
    """Of every level of a factor, from its figure in each block, [K, B]; the best first."""
    mean = of.mean(axis=1)
    order = np.argsort(-mean if higher_is_better else mean, kind="stable")
    beside = of - of[order[0]]
    draws = [None if drawn is None else each[:, drawn].mean(axis=2).T for each in (of, beside)]
    columns = [mean, *_ends(mean, draws[0], units, scale)]
    columns += [beside.mean(axis=1), *_ends(beside.mean(axis=1), draws[1], units, "difference")]
    found = []
    for place in order.tolist():
        value, low, high, difference, *ends = (float(column[place]) for column in columns)
        if place == order[0]:
            ends = [float("nan")] * 2
        found.append(Mean(factor, names[place], value, low, high, difference, *ends))
    return found
