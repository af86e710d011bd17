"""From a video's logit to a probability and a decision: calibration and threshold, and how they are chosen."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from extract.specs import Spec

Source = Literal["validation", "out-of-fold"]

MAX_SLOPE = 20.0
TARGET_RECALL = 0.95
BOUND_CONFIDENCE = 0.95


class Calibration(Spec):
    """P(fake) = sigmoid(slope * logit + intercept); the slope is positive, so order and aggregation are kept.

    `nll_before` and `nll_after` are the mean negative log-likelihoods in nats a video on the data it was fitted to.
    """

    method: Literal["temperature"] = "temperature"
    slope: float = Field(gt=0)
    intercept: float = 0.0
    source: Source
    n_fake: int
    n_real: int
    nll_before: float
    nll_after: float

    def scale(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated logits (...,) from video logits (...,)."""
        return self.slope * np.asarray(logits, dtype=np.float64) + self.intercept

    def apply(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities (...,) of being fake, from video logits (...,)."""
        return apply_sigmoid(self.scale(logits))


class Threshold(Spec):
    """A video is FAKE when P(fake) >= `value`.

    `recall` and `fpr` are those of the data it was chosen on. `recall_bound` is the recall that the same threshold
    reaches on new videos of the same kind with 95 % confidence; where it reaches the target, that is `guaranteed`.
    """

    value: float = Field(ge=0, le=1)
    target_recall: float = Field(gt=0, le=1)
    recall: float
    fpr: float
    recall_bound: float
    guaranteed: bool
    source: Source
    n_fake: int
    n_real: int


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64], source: Source) -> Calibration:
    """Temperature scaling (Guo et al. 2017): the slope 1/T that minimises the NLL, within [1/20, 20].

    The targets are Platt's (1999), (n_fake + 1) / (n_fake + 2) and 1 / (n_real + 2) instead of 1 and 0: data that
    the logits separate perfectly then has a finite optimum too. Needs both classes.
    """
    from scipy.optimize import minimize_scalar  # here, since serving imports this module without scipy

    n_fake, n_real = _count(labels)
    targets = np.where(labels == 1, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    edge = math.log(MAX_SLOPE)
    found = minimize_scalar(
        lambda log_slope: compute_nll(math.exp(log_slope) * logits, targets),
        bounds=(-edge, edge),
        method="bounded",
        options={"xatol": 1e-6},
    )
    slope = math.exp(float(found.x))
    return Calibration(
        slope=slope,
        source=source,
        n_fake=n_fake,
        n_real=n_real,
        nll_before=compute_nll(logits, labels),
        nll_after=compute_nll(slope * logits, labels),
    )


def choose_threshold(
    probs: NDArray[np.float64], labels: NDArray[np.int64], source: Source, target_recall: float = TARGET_RECALL
) -> Threshold:
    """The highest threshold that still flags a share of `target_recall` of the fakes. Needs both classes.

    It is the k-th highest probability of a fake. The recall of such a threshold on new fakes is distributed as
    Beta(k, n - k + 1) (Wilks 1941), whose 5 % quantile is also the Clopper-Pearson one-sided lower bound. Both take the
    videos as independent, so with several fakes of one person the bound is too high.
    """
    from scipy.stats import beta

    n_fake, n_real = _count(labels)
    needed = max(1, math.ceil(target_recall * n_fake - 1e-9))
    value = float(np.sort(probs[labels == 1])[n_fake - needed])
    flagged = probs >= value
    hits = int(flagged[labels == 1].sum())
    bound = float(beta.ppf(1 - BOUND_CONFIDENCE, hits, n_fake - hits + 1))
    return Threshold(
        value=value,
        target_recall=target_recall,
        recall=hits / n_fake,
        fpr=float(flagged[labels == 0].mean()),
        recall_bound=bound,
        guaranteed=bound >= target_recall,
        source=source,
        n_fake=n_fake,
        n_real=n_real,
    )


def compute_nll(logits: NDArray[np.float64], targets: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Mean negative log-likelihood in nats of targets in [0, 1] under sigmoid(logits)."""
    return float(np.mean(np.logaddexp(0.0, logits) - targets * logits))


def apply_sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))


def _count(labels: NDArray[np.int64]) -> tuple[int, int]:
    n_fake = int((labels == 1).sum())
    n_real = len(labels) - n_fake
    if not n_fake or not n_real:
        raise ValueError(f"expected fake and real videos, found {n_fake} fake and {n_real} real")
    return n_fake, n_real
