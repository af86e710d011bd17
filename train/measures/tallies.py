"""What adds up over videos: decisions at the threshold, and losses and calibration errors of probabilities.

Sums are taken once for each cluster, so a weighting of clusters costs a matrix product, however many videos there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.calibrate import apply_sigmoid
from train.measures.ranking import divide

BINS = 15
COUNTS = ("tp", "fn", "fp", "tn")


class Tallies:
    """Sums over the videos of each cluster (G, columns)."""

    def __init__(
        self,
        fake: NDArray[np.bool_],
        logits: NDArray[np.float64],
        flagged: NDArray[np.bool_],
        cluster: NDArray[np.int64],
        clusters: int,
    ) -> None:
        probs = apply_sigmoid(logits)
        wrong = np.where(fake, 1 - probs, probs)  # (V,) the probability given to what it is not
        bins = np.minimum((probs * BINS).astype(np.int64), BINS - 1)
        columns = [fake & flagged, fake & ~flagged, ~fake & flagged, ~fake & ~flagged]
        loss = np.logaddexp(0, np.where(fake, -logits, logits))
        for per_video in (loss, wrong**2, *(wrong * (bins == k) for k in range(BINS))):
            columns += [np.where(fake, per_video, 0.0), np.where(fake, 0.0, per_video)]
        sums = [np.bincount(cluster, weights=column, minlength=clusters) for column in columns]
        self._sums = np.stack(sums, axis=1)

    def evaluate(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Each metric (R,) for weights (R, G) of clusters; NaN where it is not defined."""
        sums = weights @ self._sums
        tp, fn, fp, tn = sums[:, : len(COUNTS)].T
        return _rate(tp, fn, fp, tn) | _weigh_probs(sums[:, len(COUNTS) :], tp + fn, fp + tn)


def _rate(
    tp: NDArray[np.float64], fn: NDArray[np.float64], fp: NDArray[np.float64], tn: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    recall, fpr = divide(tp, tp + fn), divide(fp, fp + tn)
    return {
        "balanced_accuracy": (recall + 1 - fpr) / 2,
        "accuracy": divide(tp + tn, tp + fn + fp + tn),
        "precision": divide(tp, tp + fp),
        "recall": recall,
        "f1": divide(2 * tp, 2 * tp + fp + fn),
        "fpr": fpr,
    }


def _weigh_probs(
    sums: NDArray[np.float64], fakes: NDArray[np.float64], reals: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Means in which each class weighs half: log loss (nats), Brier score and ECE.

    The ECE is that of Guo et al. (2017) with 15 equal bins: the mean over bins, by their weight, of |share of fakes -
    mean probability|. Both are sums over the same bin, so their difference is a sum of errors: of 1 - p over its
    fakes, less that of p over its reals.
    """
    on_fakes, on_reals = divide(sums[:, 0::2].T / 2, fakes), divide(sums[:, 1::2].T / 2, reals)  # (columns, R)
    loss, brier = (on_fakes + on_reals)[:2]
    return {"log_loss": loss, "brier": brier, "ece": np.abs(on_fakes[2:] - on_reals[2:]).sum(0)}
