"""What a model must beat: predictors that know nothing of tissue structure; and what it is measured against."""

import dataclasses

import numpy as np
from scipy.spatial import KDTree

from stjax import metrics

RIDGE_PENALTIES = np.logspace(-2, 5, 15)
NEAREST = 6  # neighbours of a hexagonal lattice


def colour_statistics(images: np.ndarray) -> np.ndarray:
    """About thirty numbers on the colour and texture of each patch.

    Args:
        images: [N, H, W, 3] uint8.

    Returns:
        [N, 30] float64: per channel of RGB and of optical density mean, deviation and quartiles; dark and bright
        fractions; mean absolute gradient along rows and columns; correlations between channels.
    """
    rows = []
    for image in images:
        rgb = image.reshape(-1, 3).astype(np.float32)
        density = -np.log((rgb + 1.0) / 256.0)
        grey = image.astype(np.float32).mean(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):  # a channel of one value has no correlation
            correlation = np.nan_to_num(np.corrcoef(density.T))
        rows.append(
            np.concatenate(
                [
                    rgb.mean(axis=0),
                    rgb.std(axis=0),
                    np.quantile(rgb, (0.1, 0.5, 0.9), axis=0).ravel(),
                    density.mean(axis=0),
                    density.std(axis=0),
                    [
                        np.mean(grey < 100),
                        np.mean(grey < 140),
                        np.mean(grey > 220),
                        np.abs(np.diff(grey, axis=0)).mean(),
                        np.abs(np.diff(grey, axis=1)).mean(),
                        grey.std(),
                    ],
                    correlation[np.triu_indices(3, 1)],
                ]
            )
        )
    return np.array(rows, dtype=np.float64).reshape(len(images), -1)


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Ridge regression on standardised features; the penalty is chosen by generalised cross-validation.

    Attributes:
        coefficients: [D, G]; intercept: [G]; feature_mean, feature_std: [D]; penalty: the one chosen.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    feature_mean: np.ndarray
    feature_std: np.ndarray
    penalty: float

    @classmethod
    def fit(cls, features: np.ndarray, targets: np.ndarray) -> "Ridge":
        """Fits [N, D] features to [N, G] targets."""
        mean, std = features.mean(axis=0), metrics.scale_of(features)
        left, singular, right = np.linalg.svd((features - mean) / std, full_matrices=False)
        intercept = targets.mean(axis=0)
        projected = left.T @ (targets - intercept)  # [D, G]
        outside = np.sum((targets - intercept) ** 2) - np.sum(projected**2)
        scores = []
        for penalty in RIDGE_PENALTIES:
            shrink = singular**2 / (singular**2 + penalty)
            residual = outside + np.sum(((1 - shrink)[:, None] * projected) ** 2)
            scores.append(residual / max(1.0 - (shrink.sum() + 1) / len(features), 1e-6) ** 2)
        penalty = float(RIDGE_PENALTIES[int(np.argmin(scores))])
        coefficients = right.T @ ((singular / (singular**2 + penalty))[:, None] * projected)
        return cls(coefficients, intercept, mean, std, penalty)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """[N, D] features to [N, G] predictions."""
        return (features - self.feature_mean) / self.feature_std @ self.coefficients + self.intercept


@dataclasses.dataclass(frozen=True)
class TotalCounts:
    """A straight line from the log of a spot's total counts to each gene: how far depth alone goes.

    It reads the totals of the spots it predicts, which are measured expression, if of no single gene.

    Attributes:
        slope, intercept: [G].
    """

    slope: np.ndarray
    intercept: np.ndarray

    @classmethod
    def fit(cls, total: np.ndarray, targets: np.ndarray) -> "TotalCounts":
        """Fits totals [N] to [N, G] targets by least squares."""
        depth = np.log1p(total)
        centred = depth - depth.mean()
        square = np.square(centred).sum()
        slope = centred @ targets / square if metrics.varying(depth[:, None])[0] else np.zeros(targets.shape[1])
        return cls(slope, targets.mean(axis=0) - slope * depth.mean())

    def predict(self, total: np.ndarray) -> np.ndarray:
        """Totals [N] to [N, G] predictions."""
        return np.log1p(total)[:, None] * self.slope + self.intercept


def nearest_measured(truth: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """[S, G] mean of what was measured at the `NEAREST` other spots of the section: position alone, and no rival, for
    it sees test expression. NaN for a spot that is alone."""
    if len(xy) < 2:
        return np.full(truth.shape, np.nan)
    # A spot's own place among its neighbours is not sure where spots lie upon one another: it is left out by number.
    found = np.asarray(KDTree(xy).query(xy, k=min(NEAREST + 1, len(xy)))[1])
    others = found != np.arange(len(xy))[:, None]
    others[others.all(axis=1), -1] = False
    return truth[found[others].reshape(len(xy), -1)].mean(axis=1)
