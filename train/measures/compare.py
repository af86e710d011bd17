"""Whether two heads differ on the same videos: both are judged in every replicate, so what moves both cancels out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from extract.audit.report import count_noun
from extract.specs import Spec
from train.measures.bootstrap import Replicates, Values, bound_difference, resample
from train.measures.metrics import Clustering, ClusterKind, Estimate, Evaluator, Predictions

RESAMPLES = 2000


class Comparison(Spec):
    """Metrics of A less those of B, on the same videos with the same clusters drawn for both.

    `distinguishable`: the interval of the difference in AUC leaves 0 out.
    """

    n_videos: int
    n_groups: int
    cluster: ClusterKind
    auc_a: float | None
    auc_b: float | None
    differences: dict[str, Estimate]
    distinguishable: bool
    resamples: int
    resamples_skipped: int

    @property
    def summary(self) -> str:
        """One sentence: both figures, their difference, and whether it tells the two apart on so many videos."""
        found = self.differences["auc"]
        where = f"on {count_noun(self.n_videos, 'video')} of {count_noun(self.n_groups, self.cluster)}"
        if self.auc_a is None or self.auc_b is None or found.value is None:
            return f"AUC not defined {where}: one class only"
        between = f"AUC {self.auc_a:.3f} against {self.auc_b:.3f}: difference {found.value:+.3f}"
        if found.low is None or found.high is None:
            return f"{between}, without an interval {where}"
        verdict = "distinguishable" if self.distinguishable else "not distinguishable"
        return f"{between} [{found.low:.3f}, {found.high:.3f}], {verdict} {where}"


def compare(a: Predictions, b: Predictions, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compares two sets of predictions for the same videos in the same order; ValueError where they are others.

    With several seeds a side is the mean of its heads, and the two may have different numbers of them.
    """
    _require_same_videos(a, b)
    first, second = Evaluator(a), Evaluator(b)
    clusters = first.clusters

    def evaluate(weights: NDArray[np.float64]) -> Values:
        of_b = second.evaluate(weights)
        return {name: value - of_b[name] for name, value in first.evaluate(weights).items()}

    replicates = resample(evaluate, clusters.classes, resamples, seed)
    of_a, of_b = first.evaluate_whole(), second.evaluate_whole()
    differences = {name: _estimate(name, (of_a[name], of_b[name]), replicates, clusters) for name in of_a}
    auc = differences["auc"]
    return Comparison(
        n_videos=len(a.labels),
        n_groups=len(clusters.classes),
        cluster=a.cluster,
        auc_a=None if np.isnan(of_a["auc"]) else of_a["auc"],
        auc_b=None if np.isnan(of_b["auc"]) else of_b["auc"],
        differences=differences,
        distinguishable=auc.low is not None and auc.high is not None and not auc.low <= 0 <= auc.high,
        resamples=resamples,
        resamples_skipped=resamples - replicates.kept,
    )


def _require_same_videos(a: Predictions, b: Predictions) -> None:
    if not np.array_equal(a.labels, b.labels) or not np.array_equal(a.groups, b.groups):
        raise ValueError(
            f"expected two predictions for the same videos in one order, found {len(a.labels)} and {len(b.labels)} "
            "videos with different labels or groups"
        )


def _estimate(name: str, of_both: tuple[float, float], replicates: Replicates, clusters: Clustering) -> Estimate:
    difference = of_both[0] - of_both[1]
    if np.isnan(difference):
        return Estimate(value=None)
    spread = clusters.find_spread(name, replicates)
    if spread is None:
        return Estimate(value=difference)
    low, high = bound_difference(*of_both, spread, clusters.count_units(name))
    return Estimate(value=difference, low=low, high=high)
