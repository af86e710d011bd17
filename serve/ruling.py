"""From a score to an outcome: which threshold decides, what it costs, and what that means at a given prevalence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.contract import Contract
from extract.errors import UsageError
from serve.verdict import Odds, Outcome, Rates
from train.calibrate import Calibration, apply_sigmoid
from train.measures.metrics import Estimate, find_npv, find_ppv
from train.thresholds import Threshold, decide_each

OWN = "threshold"  # the preset's name where the threshold is one's own


@dataclass(frozen=True)
class Ruling:
    """A threshold with its band; `known` is the model's own, of which the rates are known."""

    preset: str
    value: float
    low: float
    high: float
    calibration: Calibration
    known: Threshold | None = None
    prevalence: float | None = None

    @classmethod
    def choose(
        cls,
        contract: Contract,
        preset: str | None = None,
        threshold: float | None = None,
        prevalence: float | None = None,
    ) -> Ruling:
        """A preset of the model, its default one unless named; or a threshold of one's own, without a band."""
        if prevalence is not None and not 0 < prevalence < 1:
            raise UsageError(f"prevalence {prevalence:g}: expected a share between 0 and 1, such as 0.01")
        if threshold is None:
            name, known = contract.choose_threshold(preset)
            return cls(name, known.value, known.low, known.high, contract.calibration, known, prevalence)
        if preset is not None:
            raise UsageError(f"a preset, {preset}, and a threshold, {threshold:g}, exclude each other; choose one")
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold {threshold:g}: expected a probability above 0, at most 1")
        return cls(OWN, threshold, threshold, threshold, contract.calibration, None, prevalence)

    def decide(self, logit: float) -> Outcome:
        """The outcome for a video's calibrated logit."""
        return Outcome(decide_each(np.array(as_prob(logit)), self.value, self.low, self.high).item())

    @property
    def rates(self) -> Rates | None:
        """What the threshold did on the data it was chosen on."""
        known = self.known
        if known is None:
            return None
        return Rates(
            known.target.name,
            known.recall,
            known.fpr,
            known.recall_bound,
            known.fpr_bound,
            known.guaranteed,
            known.n_fake,
            known.n_real,
            known.source,
        )

    def weigh(self, logit: float | None) -> Odds | None:
        """A score where fakes are as frequent as was said, if it was said."""
        if self.prevalence is None:
            return None
        prob = None if logit is None else float(self.calibration.shift(np.array(as_prob(logit)), self.prevalence))
        known = self.known
        if known is None:
            return Odds(self.prevalence, prob, None, None, None, None)
        recall = Estimate(value=known.recall, low=known.recall_bound)
        fpr = Estimate(value=known.fpr, high=known.fpr_bound)
        ppv, npv = (find(recall, fpr, self.prevalence) for find in (find_ppv, find_npv))
        return Odds(self.prevalence, prob, ppv.value, ppv.low, npv.value, npv.low)


def as_prob(logit: float) -> float:
    """Its sigmoid."""
    return float(apply_sigmoid(np.array(logit)))
