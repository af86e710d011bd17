"""What a set of video predictions is worth, with intervals that resample people rather than videos.

Fake is the positive class. A metric that the data cannot define is null, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extract.errors import UsageError
from extract.specs import Spec
from train.measures.bootstrap import (
    Replicates,
    Spread,
    Units,
    Values,
    bound_loss,
    bound_share,
    count_units,
    find_spread,
    resample,
)
from train.measures.ranking import FPR_LIMITS, Ranking
from train.measures.tallies import Tallies

ClusterKind = Literal["group", "target id"]
PREVALENCES = (0.01, 0.1)
FRAME_RESAMPLES = 200


class Estimate(Spec):
    """A metric and its 95 % interval (`train.measures.bootstrap` says which); null where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def format_estimate(estimate: Estimate, digits: int = 3) -> str:
    """`0.930 [0.881, 0.972]`, without the interval where there is none, `undefined` without a value."""
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


class Confusion(Spec):
    """Counts of videos; fake is positive. Of several seeds, those of the first."""

    tp: int
    fn: int
    fp: int
    tn: int


class Metrics(Spec):
    """Video-level metrics of one set of predictions.

    With several seeds each metric is the mean of what every seed's predictions have, so its interval is that of the
    figure to expect of one head. Probabilities are meant for even odds, so both classes weigh alike in `log_loss`
    (nats), `brier` and `ece`; `ap`, `accuracy`, `precision` and `f1` are at the data's own share of fakes, `ppv` and
    `npv` at the shares that name them. `resamples_skipped` counts bootstrap replicates left out because they held one
    class only.

    Two figures lean, and their intervals with them. Below 100 reals, `tpr_at_fpr_1` is the recall without any false
    alarm: it lies below that of many videos. An `ece` is never 0 on few videos, however well calibrated the head is.
    """

    n_videos: int
    n_groups: int
    n_real: int
    n_fake: int
    cluster: ClusterKind
    seeds: int
    auc: Estimate
    ap: Estimate
    eer: Estimate
    tpr_at_fpr_1: Estimate
    tpr_at_fpr_5: Estimate
    balanced_accuracy: Estimate
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    fpr: Estimate
    log_loss: Estimate
    brier: Estimate
    ece: Estimate
    ppv: dict[str, Estimate]
    npv: dict[str, Estimate]
    confusion: Confusion
    resamples: int
    resamples_skipped: int


@dataclass(frozen=True)
class Predictions:
    """What was said of V videos, once or by S seeds: the truth, calibrated logits, and what was flagged as fake."""

    labels: NDArray[np.int64]  # (V,) 1 = fake
    logits: NDArray[np.float64]  # (S, V) or (V,)
    flagged: NDArray[np.bool_]  # (S, V) or (V,)
    groups: NDArray[np.str_]  # (V,) the cluster of each video
    cluster: ClusterKind = "group"

    def __post_init__(self) -> None:
        videos = len(self.labels)
        if self.logits.shape != self.flagged.shape or self.logits.shape[-1] != videos or len(self.groups) != videos:
            raise ValueError(
                f"expected {videos} groups and logits and flags (S, {videos}), found {len(self.groups)}, "
                f"{self.logits.shape}, {self.flagged.shape}"
            )
        if not np.isfinite(self.logits).all():
            raise ValueError("a logit is not finite")

    @property
    def fake(self) -> NDArray[np.bool_]:
        """Which of the videos are fake (V,)."""
        return np.equal(self.labels, 1)


class Evaluator:
    """Every metric of some predictions, for any number of times that each of its G clusters counts."""

    def __init__(self, predictions: Predictions) -> None:
        fake = predictions.fake
        logits, flagged = np.atleast_2d(predictions.logits), np.atleast_2d(predictions.flagged)
        self.clusters = Clustering(fake, predictions.groups, flagged.mean(axis=0))
        cluster, count = self.clusters.of_video, len(self.clusters.classes)
        self._seeds = [
            (Ranking(fake, of_seed, cluster), Tallies(fake, of_seed, said, cluster, count))
            for of_seed, said in zip(logits, flagged, strict=True)
        ]

    def evaluate(self, weights: NDArray[np.float64]) -> Values:
        """Each metric (R,) for weights (R, G): the mean over seeds, NaN where one of them does not define it."""
        found = [ranking.evaluate(weights) | tallies.evaluate(weights) for ranking, tallies in self._seeds]
        return {name: np.mean([of_seed[name] for of_seed in found], axis=0) for name in found[0]}

    def evaluate_whole(self) -> dict[str, float]:
        """Each metric of the videos as they are."""
        return {
            name: float(value[0]) for name, value in self.evaluate(np.ones((1, len(self.clusters.classes)))).items()
        }


class Clustering:
    """The G clusters of V videos, and how many reals, fakes and flagged videos (a mean over seeds) each holds."""

    def __init__(
        self, fake: NDArray[np.bool_], groups: NDArray[np.str_], flagged: NDArray[np.float64] | None = None
    ) -> None:
        names, self.of_video = np.unique(groups, return_inverse=True)
        counts = [np.bincount(self.of_video[fake == which], minlength=len(names)) for which in (False, True)]
        self.classes = np.stack(counts, axis=1)  # (G, 2)
        shares = np.ones(len(fake)) if flagged is None else flagged
        self._flagged = np.bincount(self.of_video, weights=shares, minlength=len(names))  # (G,)

    def count_units(self, name: str) -> Units:
        """The clusters that a metric rests on: those of its class, those that were flagged, or the fewer of a class."""
        if name == "precision":
            return count_units(self._flagged)
        reals, fakes = (count_units(sizes) for sizes in self.classes.T)
        if name in ("recall", "fpr"):
            return fakes if name == "recall" else reals
        held = [units for units in (reals, fakes) if units.count]
        return min(held, key=lambda units: units.effective, default=Units(0, 0.0))

    def find_spread(self, name: str, replicates: Replicates) -> Spread | None:
        """How far chance moves a metric."""
        return find_spread(replicates.values[name], replicates.pull[name], self.count_units(name))

    def estimate(self, name: str, replicates: Replicates) -> Estimate:
        """A metric with its interval."""
        value, spread = replicates.point[name], self.find_spread(name, replicates)
        if np.isnan(value) or spread is None:
            return Estimate(value=None if np.isnan(value) else value)
        if name == "log_loss":
            low, high = bound_loss(value, spread)
        else:
            low, high = bound_share(value, spread, self.count_units(name), at_least=name not in FPR_LIMITS)
        return Estimate(value=value, low=low, high=high)


def measure(
    predictions: Predictions, resamples: int = 1000, seed: int = 0, prevalences: Sequence[float] = PREVALENCES
) -> Metrics:
    """All metrics with intervals: whole groups are drawn with replacement.

    A metric that rests on fewer than two groups has no interval.
    """
    evaluator = Evaluator(predictions)
    clusters = evaluator.clusters
    replicates = resample(evaluator.evaluate, clusters.classes, resamples, seed)
    estimates = {name: clusters.estimate(name, replicates) for name in replicates.point}
    recall, fpr = estimates["recall"], estimates["fpr"]
    return Metrics(
        n_videos=len(predictions.labels),
        n_groups=len(clusters.classes),
        n_real=int((~predictions.fake).sum()),
        n_fake=int(predictions.fake.sum()),
        cluster=predictions.cluster,
        seeds=len(np.atleast_2d(predictions.logits)),
        ppv={f"{share:g}": find_ppv(recall, fpr, share) for share in prevalences},
        npv={f"{share:g}": find_npv(recall, fpr, share) for share in prevalences},
        confusion=count_outcomes(predictions),
        resamples=resamples,
        resamples_skipped=resamples - replicates.kept,
        **estimates,
    )


def measure_frames(
    labels: NDArray[np.int64],
    logits: NDArray[np.float64],
    groups: NDArray[np.str_],
    resamples: int = FRAME_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """AUC over frames, each with the label (F,) and the group (F,) of its video; whole groups are resampled.

    200 replicates tell a standard error to 5 %, and half a million frames take seconds.
    """
    clusters = Clustering(labels == 1, groups)
    ranking = Ranking(labels == 1, logits, clusters.of_video)
    replicates = resample(ranking.evaluate_auc, clusters.classes, resamples, seed)
    return clusters.estimate("auc", replicates)


def compute_auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve over videos; null with one class."""
    ranking = Ranking(labels == 1, scores, np.zeros(len(labels), np.int64))
    auc = float(ranking.evaluate_auc(np.ones((1, 1)))["auc"][0])
    return None if np.isnan(auc) else auc


def find_ppv(recall: Estimate, fpr: Estimate, share: float) -> Estimate:
    """Of what is flagged, the part that is fake, where `share` of all videos are fake (Bayes' theorem).

    Its ends take the worse ends of recall and FPR together, and the better ones: no narrower than 95 %, and honest
    where no real was flagged.
    """
    ends = ((recall.value, fpr.value), (recall.low, fpr.high), (recall.high, fpr.low))
    return _combine([_apply_bayes(hit, alarm, share) for hit, alarm in ends])


def find_npv(recall: Estimate, fpr: Estimate, share: float) -> Estimate:
    """Of what is not flagged, the part that is real, where `share` of all videos are fake; ends as in `find_ppv`."""
    ends = ((recall.value, fpr.value), (recall.low, fpr.high), (recall.high, fpr.low))
    return _combine([_apply_bayes(_reverse(alarm), _reverse(hit), 1 - share) for hit, alarm in ends])


def _apply_bayes(hit: float | None, alarm: float | None, share: float) -> float | None:
    """P(it is so | it was said), from P(said | so), P(said | not so) and P(so)."""
    if not 0 < share < 1:
        raise UsageError(f"{share:g} is no share of fakes among all videos; expected more than 0 and less than 1")
    if hit is None or alarm is None or hit == alarm == 0:
        return None
    return share * hit / (share * hit + (1 - share) * alarm)


def _reverse(rate: float | None) -> float | None:
    return None if rate is None else 1 - rate


def _combine(ends: Sequence[float | None]) -> Estimate:
    value, low, high = ends
    return Estimate(value=value, low=low, high=high) if value is not None else Estimate(value=None)


def count_outcomes(predictions: Predictions) -> Confusion:
    """The confusion matrix of the first seed."""
    fake, flagged = predictions.fake, np.atleast_2d(predictions.flagged)[0]
    return Confusion(
        tp=int((fake & flagged).sum()),
        fn=int((fake & ~flagged).sum()),
        fp=int((~fake & flagged).sum()),
        tn=int((~fake & ~flagged).sum()),
    )
