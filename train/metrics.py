"""What a set of video predictions is worth, with intervals that resample people rather than videos.

Fake is the positive class. A metric that the data cannot define is null, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.specs import Spec

CONFIDENCE = 0.95
CHUNK = 1 << 21  # weights held at once, in numbers


class Estimate(Spec):
    """A metric and its percentile bootstrap 95 % interval; null where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Confusion(Spec):
    """Counts of videos; fake is positive."""

    tp: int
    fn: int
    fp: int
    tn: int


class Metrics(Spec):
    """Video-level metrics of one set of predictions.

    `resamples_skipped` counts bootstrap replicates left out because they held one class only.
    """

    n_videos: int
    n_groups: int
    n_real: int
    n_fake: int
    auc: Estimate
    accuracy: Estimate
    balanced_accuracy: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    fpr: Estimate
    confusion: Confusion
    resamples: int
    resamples_skipped: int


@dataclass(frozen=True)
class Predictions:
    """What was said of V videos: the truth, a score that rises with fakeness, and whether it was flagged as fake."""

    labels: NDArray[np.int64]  # (V,) 1 = fake
    scores: NDArray[np.float64]  # (V,)
    flagged: NDArray[np.bool_]  # (V,)
    groups: NDArray[np.str_]  # (V,)


def measure(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> Metrics:
    """All metrics with intervals: whole groups are drawn with replacement (Field & Welsh 2007, cluster bootstrap).

    Videos of one person are alike, so resampling single videos would give intervals that are too narrow. With
    fewer than two groups, or with one class, there is no interval.
    """
    fake = predictions.labels == 1
    names, group = np.unique(predictions.groups, return_inverse=True)
    values = {name: _finite(value[0]) for name, value in _evaluate(predictions, np.ones((1, len(fake)))).items()}
    replicates: dict[str, NDArray[np.float64]] = {}
    kept = 0
    if len(names) > 1 and fake.any() and not fake.all():
        drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
        weights = drawn[:, group]  # (R, V) how often each video was drawn
        weights = weights[(weights[:, fake].sum(1) > 0) & (weights[:, ~fake].sum(1) > 0)]
        kept = len(weights)
        step = max(1, CHUNK // len(fake))
        parts = [_evaluate(predictions, weights[i : i + step].astype(np.float64)) for i in range(0, kept, step)]
        replicates = {name: np.concatenate([part[name] for part in parts]) for name in values if parts}
    estimates = {name: _estimate(value, replicates.get(name)) for name, value in values.items()}
    return Metrics(
        n_videos=len(fake),
        n_groups=len(names),
        n_real=int((~fake).sum()),
        n_fake=int(fake.sum()),
        confusion=Confusion(
            tp=int((fake & predictions.flagged).sum()),
            fn=int((fake & ~predictions.flagged).sum()),
            fp=int((~fake & predictions.flagged).sum()),
            tn=int((~fake & ~predictions.flagged).sum()),
        ),
        resamples=resamples,
        resamples_skipped=resamples - kept,
        **estimates,
    )


def compute_auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve over videos; null with one class."""
    return _finite(_weigh_auc(labels == 1, scores, np.ones((1, len(labels))))[0])


def _evaluate(predictions: Predictions, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Each metric for each row of weights (R, V); NaN where it is not defined."""
    fake, flagged = predictions.labels == 1, predictions.flagged
    tp, fn = weights @ (fake & flagged), weights @ (fake & ~flagged)
    fp, tn = weights @ (~fake & flagged), weights @ (~fake & ~flagged)
    recall, fpr = _divide(tp, tp + fn), _divide(fp, fp + tn)
    return {
        "auc": _weigh_auc(fake, predictions.scores, weights),
        "accuracy": _divide(tp + tn, weights.sum(1)),
        "balanced_accuracy": (recall + 1 - fpr) / 2,
        "precision": _divide(tp, tp + fp),
        "recall": recall,
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "fpr": fpr,
    }


def _weigh_auc(
    fake: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(score of a fake > score of a real) + half of P(equal), the Mann-Whitney form, for each row of weights."""
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # where each distinct score begins
    fakes = np.add.reduceat(np.where(fake[order], weights[:, order], 0.0), first, axis=1)  # (R, distinct)
    reals = np.add.reduceat(np.where(fake[order], 0.0, weights[:, order]), first, axis=1)
    below = np.cumsum(reals, axis=1) - reals
    return _divide((fakes * (below + reals / 2)).sum(1), fakes.sum(1) * reals.sum(1))


def _divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return result


def _estimate(value: float | None, replicates: NDArray[np.float64] | None) -> Estimate:
    defined = np.zeros(0) if replicates is None else replicates[~np.isnan(replicates)]
    if value is None or not defined.size:
        return Estimate(value=value)
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=float(low), high=float(high))


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
