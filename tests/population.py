"""People whose videos err together, drawn from a population in which the true AUC, recall and FPR are known."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from train.measures.metrics import Predictions

NORMAL = NormalDist()


@dataclass(frozen=True)
class Population:
    """Scores are normal, those of fakes higher; `alike` of their variance is a person's, half of it in one class only.

    Each person has 2 to 12 videos, of which 60 % are fake.
    """

    auc: float
    alike: float
    recall: float = 0.9

    @property
    def distance(self) -> float:
        """Between the means of fakes and reals, in standard deviations of either."""
        return NORMAL.inv_cdf(self.auc) * 2**0.5

    @property
    def threshold(self) -> float:
        """At which the recall is what it is."""
        return self.distance + NORMAL.inv_cdf(1 - self.recall)

    @property
    def truth(self) -> dict[str, float]:
        """What an interval should hold."""
        fpr = 1 - NORMAL.cdf(self.threshold)
        return {"auc": self.auc, "recall": self.recall, "fpr": fpr, "balanced_accuracy": (self.recall + 1 - fpr) / 2}

    def sample(self, people: int, rng: np.random.Generator) -> Predictions:
        """Videos of some persons, all drawn anew."""
        person = np.repeat(np.arange(people), rng.integers(2, 13, people))
        labels = (rng.random(len(person)) < 0.6).astype(np.int64)
        share = (self.alike / 2) ** 0.5
        scores = self.distance * labels + rng.normal(size=len(person)) * (1 - self.alike) ** 0.5
        scores += share * rng.normal(size=people)[person] + share * rng.normal(size=(people, 2))[person, labels]
        return Predictions(labels, scores, scores >= self.threshold, np.char.mod("p%d", person))


def ungroup(predictions: Predictions) -> NDArray[np.str_]:
    """Every video a cluster of its own: what must not be done."""
    return np.arange(len(predictions.labels)).astype(np.str_)
