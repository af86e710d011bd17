"""From a video's logit to a probability: an affine map, fitted so that both classes count alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from extract.errors import UsageError
from extract.specs import Spec

Source = Literal["validation", "out-of-fold"]
Method = Literal["temperature", "platt"]
Floats = NDArray[np.float64]

MAX_SLOPE = 20.0
EVEN_ODDS = 0.5


class Calibration(Spec):
    """P(fake) = sigmoid(slope * logit + intercept); the slope is positive, so order and aggregation are kept.

    The probability is the one at `prevalence`: even odds, whatever the share of fakes was in the data. Validation sets
    hold 50 to 86 % fakes and deployments 1 %; a base rate taken over from the data would be right for neither.
    `nll_before` and `nll_after` are negative log-likelihoods in nats a video on that data, both classes weighing alike.
    """

    method: Method
    slope: float = Field(gt=0)
    intercept: float = 0.0
    prevalence: float = Field(default=EVEN_ODDS, gt=0, lt=1)
    source: Source
    n_fake: int
    n_real: int
    nll_before: float
    nll_after: float

    def scale(self, logits: Floats) -> Floats:
        """Calibrated logits (...,) from video logits (...,)."""
        return self.slope * np.asarray(logits, dtype=np.float64) + self.intercept

    def apply(self, logits: Floats) -> Floats:
        """Probabilities (...,) of being fake at `self.prevalence`, from video logits (...,)."""
        return apply_sigmoid(self.scale(logits))

    def shift(self, probs: Floats, prevalence: float) -> Floats:
        """The same probabilities (...,) where a share of `prevalence` of all videos is fake (Bayes' rule)."""
        if not 0 < prevalence < 1:
            raise UsageError(
                f"a prevalence of {prevalence:g} was found, expected a share between 0 and 1, such as 0.01"
            )
        odds = prevalence / (1 - prevalence) * (1 - self.prevalence) / self.prevalence
        fake = np.asarray(probs, dtype=np.float64) * odds
        return fake / (fake + (1 - np.asarray(probs, dtype=np.float64)))


def fit_calibration(logits: Floats, labels: NDArray[np.int64], source: Source, method: Method = "platt") -> Calibration:
    """Fits slope (and intercept, unless by temperature) to the logits (V,), or (S, V) of S heads that count alike.

    Minimises the negative log-likelihood in which each class weighs one half, a convex problem, with the slope within
    [1/20, 20]. The targets are Platt's (1999), 1 - 1 / (n + 2) and 1 / (n + 2) instead of 1 and 0, so data that the
    logits separate perfectly has a finite optimum; n is the harmonic mean of the two counts of videos, for targets of
    unequal distance from 1/2 would move logits that say nothing away from even odds. Needs both classes.
    """
    found = _require_logits(logits, labels)
    n_fake, n_real = count_classes(labels)
    weights = np.where(labels == 1, 0.5 / n_fake, 0.5 / n_real)  # (V,), sum 1
    doubt = 1 / (2 * n_fake * n_real / (n_fake + n_real) + 2)
    slope, intercept = _minimise_nll(found, np.where(labels == 1, 1 - doubt, doubt), weights, method)
    return Calibration(
        method=method,
        slope=slope,
        intercept=intercept,
        source=source,
        n_fake=n_fake,
        n_real=n_real,
        nll_before=_weigh_nll(found, labels, weights),
        nll_after=_weigh_nll(slope * found + intercept, labels, weights),
    )


def compute_nll(logits: Floats, targets: NDArray[np.int64] | Floats) -> float:
    """Mean negative log-likelihood in nats of targets in [0, 1] under sigmoid(logits)."""
    return float(np.mean(np.logaddexp(0.0, logits) - targets * logits))


def apply_sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))


def count_classes(labels: NDArray[np.int64]) -> tuple[int, int]:
    """How many videos are fake and how many real; refuses to go on without both."""
    n_fake = int((labels == 1).sum())
    n_real = len(labels) - n_fake
    if not n_fake or not n_real:
        raise UsageError(
            f"{n_fake} fake and {n_real} real videos were found to calibrate and choose thresholds on, expected some "
            "of both; mark other videos `val`, or cross-validate with --folds"
        )
    return n_fake, n_real


def _require_logits(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    found = np.atleast_2d(np.asarray(logits, dtype=np.float64))  # (S, V)
    if found.ndim != 2 or found.shape[1:] != labels.shape or not np.isfinite(found).all():
        raise ValueError(f"expected finite logits (S, V) or (V,) for labels {labels.shape}, found {found.shape}")
    return found


def _weigh_nll(logits: Floats, targets: NDArray[np.int64] | Floats, weights: Floats) -> float:
    """The mean over heads (S, V) of the negative log-likelihood with weights (V,) that sum to one."""
    return float(((np.logaddexp(0.0, logits) - targets * logits) * weights).sum() / len(logits))


def _minimise_nll(logits: Floats, targets: Floats, weights: Floats, method: Method) -> tuple[float, float]:
    """Slope and intercept. Logits are centred and scaled first: L-BFGS needs parameters of like size."""
    from scipy.optimize import minimize  # here, since serving imports this module without scipy

    centre = float((logits * weights).sum() / len(logits)) if method == "platt" else 0.0
    size = float(np.abs(logits - centre).max()) or 1.0
    units = (logits - centre) / size  # (S, V) within [-1, 1]

    def evaluate(parameters: Floats) -> tuple[float, Floats]:
        scaled = parameters[0] * units + parameters[1]
        excess = (apply_sigmoid(scaled) - targets) * weights / len(units)
        return _weigh_nll(scaled, targets, weights), np.array([(excess * units).sum(), excess.sum()])

    lowest, highest = size / MAX_SLOPE, size * MAX_SLOPE
    # At an optimum the mean probability is 1/2, so it lies among the logits: the slope bounds the intercept too.
    edge = highest if method == "platt" else 0.0
    found = minimize(
        evaluate,
        np.array([size, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(lowest, highest), (-edge, edge)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    slope = float(np.clip(found.x[0] / size, 1 / MAX_SLOPE, MAX_SLOPE))
    return slope, float(found.x[1]) - slope * centre if method == "platt" else 0.0
