"""Every operating point of some scores: the threshold, what it flags of whom, and what that lets one promise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from train.calibrate import Floats, count_classes

Unit = Literal["persons", "videos"]
Indices = NDArray[np.int64]

CONFIDENCE = 0.95  # of the bounds, one-sided
RESAMPLES = 300
FEWEST_PERSONS = 5  # of each class; with fewer, videos are drawn again instead of persons
TOLERANCE = 1e-9  # of shares, which are sums of fractions
UNNAMED = "\n"  # begins the group of a video that names none


class Grouped(Protocol):
    """A video with the group that the manifest names, if any."""

    @property
    def id(self) -> str:
        """The path in the manifest."""

    @property
    def group(self) -> str:
        """The person or source."""


def name_groups(videos: Iterable[Grouped]) -> NDArray[np.str_]:
    """The group (V,) of each video; one without a group gets a name that no group can have."""
    return np.array([video.group or f"{UNNAMED}{video.id}" for video in videos])


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class, and how many of them lie below each threshold."""

    video: Indices  # (E,) whose each score is, ascending by score
    below: Indices  # (T,)
    level: Floats  # (V,) weights under which every person of this class weighs alike
    persons: int

    def share(self, weights: Floats) -> Floats:
        """The share that each threshold flags: (R, T), for each row of weights (R, V)."""
        passed = np.zeros((len(weights), len(self.video) + 1))
        np.cumsum(weights[:, self.video], axis=1, out=passed[:, 1:])
        whole = passed[:, -1:]
        result: Floats = (whole - passed[:, self.below]) / whole
        return result

    def measure_shares(self) -> Floats:
        """The share that each threshold flags: (2, T), where videos count alike and where persons do."""
        return self.share(np.stack([np.ones_like(self.level), self.level]))


@dataclass(frozen=True)
class Sample:
    """The scores of some videos, and every threshold that they can tell apart."""

    fake: ClassScores
    real: ClassScores
    labels: NDArray[np.int64]  # (V,)
    person: Indices  # (V,)
    values: Floats  # (T,) the thresholds, ascending: the first flags all, the last nothing that scores below 1
    ungrouped: int  # videos that name no group and count as a person each

    @classmethod
    def arrange(cls, probs: Floats, labels: NDArray[np.int64], groups: NDArray[np.str_]) -> Sample:
        scores = np.atleast_2d(np.asarray(probs, dtype=np.float64))  # (S, V)
        if scores.shape[1:] != labels.shape or not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError(f"expected probabilities (S, V) or (V,) for labels {labels.shape}, found {scores.shape}")
        count_classes(labels)
        values = _place_between(np.unique(scores))
        person = np.unique(groups, return_inverse=True)[1]
        fake, real = (_arrange_class(scores, np.flatnonzero(labels == label), person, values) for label in (1, 0))
        return cls(fake, real, labels, person, values, sum(name.startswith(UNNAMED) for name in groups.tolist()))

    @property
    def unit(self) -> Unit:
        """What is drawn again for the band."""
        return "persons" if min(self.fake.persons, self.real.persons) >= FEWEST_PERSONS else "videos"

    def draw(self, seed: int) -> Floats:
        """How often each video is drawn: (R, V); draws without both classes are left out."""
        unit = self.person if self.unit == "persons" else np.arange(len(self.labels))
        count = int(unit.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
        weights: Floats = drawn[:, unit].astype(np.float64)
        both = (weights[:, self.labels == 1].sum(axis=1) > 0) & (weights[:, self.labels == 0].sum(axis=1) > 0)
        return np.compress(both, weights, axis=0)


def bound_share(hits: float, persons: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided lower bound of a share of hits, which may be fractional.

    Videos of one person are alike, so `persons` are the trials, and a person of whom some videos are hit is a part of
    a hit. For shares within [0, 1] the binomial is the worst case: persons of whom all videos are hit or none.
    """
    from scipy.stats import beta  # here, since serving imports this module without scipy

    if hits <= TOLERANCE:
        return 0.0
    return float(beta.ppf(1 - confidence, min(hits, persons), persons - min(hits, persons) + 1))


def require_hits(goal: float, persons: int) -> float | None:
    """The fewest hits whose `bound_share` reaches `goal`; None where even `persons` hits do not."""
    from scipy.optimize import brentq
    from scipy.special import betainc

    if goal >= 1 or goal**persons > 1 - CONFIDENCE:
        return None
    return float(brentq(lambda hits: betainc(hits, persons - hits + 1, goal) - (1 - CONFIDENCE), TOLERANCE, persons))


def _place_between(distinct: Floats) -> Floats:
    """A threshold below each distinct score, midway to the next lower one, and one above all unless that is 1."""
    upper = np.append(distinct, 1.0) if distinct[-1] < 1 else distinct
    lower = np.concatenate([[0.0], distinct])[: len(upper)]
    middle = (lower + upper) / 2
    return np.where(middle > lower, middle, upper)  # two neighbouring floats have nothing between them


def _arrange_class(scores: Floats, videos: Indices, person: Indices, values: Floats) -> ClassScores:
    counted = scores[:, videos]  # (S, E / S)
    order = np.argsort(counted, axis=None, kind="stable")
    below = np.searchsorted(counted.ravel()[order], values, side="left")
    each = np.bincount(person[videos], minlength=int(person.max()) + 1)
    level = 1 / np.maximum(each, 1)[person]
    return ClassScores(videos[order % len(videos)], below, level, int((each > 0).sum()))
