"""What the order of scores is worth: AUC, AP, EER and the recall at a false-positive rate, for many weightings at once.

All of it is read from one pass down the sorted scores. A weighting says how often each cluster of videos counts;
equal scores are passed together, as in every ROC curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FPR_LIMITS = {"tpr_at_fpr_1": 0.01, "tpr_at_fpr_5": 0.05}
ROUNDING = 1e-9  # of a weight that is a whole number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Passed:
    """Weights of fakes and reals at each of U distinct scores, the highest first, and their sums down to it."""

    fakes: Floats  # (R, U)
    reals: Floats  # (R, U)
    hits: Floats  # (R, U)
    alarms: Floats  # (R, U)

    @property
    def total(self) -> tuple[Floats, Floats]:
        """All fakes and all reals (R,)."""
        return self.hits[:, -1], self.alarms[:, -1]


class Ranking:
    """V scores, sorted once; fake is positive, `cluster` (V,) says in which of G each counts."""

    def __init__(self, fake: NDArray[np.bool_], scores: Floats, cluster: NDArray[np.int64]) -> None:
        order = np.argsort(-scores, kind="stable")
        self._fake = fake[order].astype(np.float64)  # (V,)
        self._cluster = cluster[order]
        self._first = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # where each distinct score begins

    def walk(self, weights: Floats) -> Passed:
        """Passes the scores with weights (R, G) of clusters; there is at least one score."""
        fakes = weights[:, self._cluster]
        reals = fakes * (1 - self._fake)
        fakes *= self._fake
        if len(self._first) < len(self._fake):
            fakes, reals = (np.add.reduceat(each, self._first, axis=1) for each in (fakes, reals))
        return Passed(fakes, reals, fakes.cumsum(1), reals.cumsum(1))

    def evaluate_auc(self, weights: Floats) -> dict[str, Floats]:
        """The AUC (R,) alone, for weights (R, G)."""
        return {"auc": find_auc(self.walk(weights)) if len(self._fake) else np.full(len(weights), np.nan)}

    def evaluate(self, weights: Floats) -> dict[str, Floats]:
        """Each metric (R,) for weights (R, G); NaN where a class is missing."""
        if not len(self._fake):
            return dict.fromkeys(("auc", "ap", "eer", *FPR_LIMITS), np.full(len(weights), np.nan))
        passed = self.walk(weights)
        found = {"auc": find_auc(passed), "ap": find_ap(passed), "eer": find_eer(passed)}
        return found | {name: find_tpr(passed, limit) for name, limit in FPR_LIMITS.items()}


def find_auc(passed: Passed) -> Floats:
    """P(score of a fake > score of a real) + half of P(equal), the Mann-Whitney form."""
    fakes, reals = passed.total
    won = np.einsum("ru,ru->r", passed.hits, passed.reals) - np.einsum("ru,ru->r", passed.fakes, passed.reals) / 2
    return divide(won, fakes * reals)


def find_ap(passed: Passed) -> Floats:
    """Precision at each distinct score, weighted by the recall that it adds; no interpolation, as in scikit-learn."""
    fakes, reals = passed.total
    seen = np.maximum(passed.hits + passed.alarms, ROUNDING)  # nothing seen yet adds nothing
    return np.where(reals > 0, divide(np.einsum("ru,ru->r", passed.fakes, passed.hits / seen), fakes), np.nan)


def find_eer(passed: Passed) -> Floats:
    """The rate at which the ROC curve, drawn as straight lines between its points, has FPR = 1 - recall."""
    fakes, reals = passed.total
    rows = np.arange(len(fakes))
    enough = fakes * reals - ROUNDING
    end = _find_first(passed, lambda at: passed.hits[rows, at] * reals + passed.alarms[rows, at] * fakes >= enough)
    rise, run = divide(passed.fakes[rows, end], fakes), divide(passed.reals[rows, end], reals)
    recall, fpr = divide(passed.hits[rows, end], fakes) - rise, divide(passed.alarms[rows, end], reals) - run
    return fpr + run * divide(1 - recall - fpr, rise + run)


def find_tpr(passed: Passed, limit: float) -> Floats:
    """The largest recall of a threshold whose FPR is at most `limit`; what lies between two scores is no threshold."""
    fakes, reals = passed.total
    rows = np.arange(len(fakes))
    past = _find_first(passed, lambda at: passed.alarms[rows, at] > limit * reals + ROUNDING)
    found = divide(passed.hits[rows, past] - passed.fakes[rows, past], fakes)
    return np.where(reals > 0, found, np.nan)


def _find_first(passed: Passed, reached: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """The first score of each row at which something is reached that, once reached, stays; by bisection."""
    rows, scores = passed.hits.shape
    low, high = np.zeros(rows, np.int64), np.full(rows, scores - 1)
    while (low < high).any():
        middle = (low + high) // 2
        found = reached(middle)
        low, high = np.where(found, low, np.minimum(middle + 1, high)), np.where(found, middle, high)
    return low


def divide(part: Floats, whole: Floats) -> Floats:
    """Quotients (..., R), NaN where there is nothing to divide by (R,)."""
    result: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result
