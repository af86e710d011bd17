"""From a probability to a decision: thresholds for a stated target, and what the data can promise of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from extract.errors import UsageError
from extract.specs import Spec
from train.calibrate import EVEN_ODDS, Floats, Source
from train.operating_points import CONFIDENCE, TOLERANCE, ClassScores, Indices, Sample, Unit, bound_share, require_hits

Kind = Literal["recall", "fpr", "balanced", "cost"]
Decision = Literal["FAKE", "UNCERTAIN", "REAL"]

# Of the bounds where both classes choose the threshold, so that after the choice they hold with CONFIDENCE.
SELECTED_CONFIDENCE = 0.99
BAND = 0.90  # of the resampled thresholds lie within the band
CHUNK = 1 << 21  # resampled shares held at once, in numbers
EXAMPLES = "recall=0.99, fpr=0.05, balanced, cost=10 or cost=10@0.01"


class Target(Spec):
    """What a threshold is chosen for.

    `recall`: flag at least this share of the fakes; `fpr`: flag at most this share of the reals; `balanced`: the
    highest balanced accuracy; `cost`: the lowest cost where a missed fake costs as much as `value` false alarms and
    a share of `prevalence` is fake.
    """

    kind: Kind
    value: float | None = None
    prevalence: float = EVEN_ODDS

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads `recall=0.99`, `fpr=0.05`, `balanced`, `cost=10` (at even odds) or `cost=10@0.01`."""
        kind, equals, rest = text.strip().partition("=")
        value, at, share = rest.partition("@")
        if kind == "balanced" and not equals:
            return cls(kind="balanced")
        if kind == "cost" and at:
            return cls(kind="cost", value=_read_number(text, value), prevalence=_read_number(text, share))
        if kind in ("recall", "fpr", "cost") and not at:
            return cls.model_validate({"kind": kind, "value": _read_number(text, value)})
        raise UsageError(f"target {text!r} is not understood; write {EXAMPLES}")

    @property
    def name(self) -> str:
        """The target as `parse` reads it."""
        if self.value is None:
            return self.kind
        share = "" if self.prevalence == EVEN_ODDS else f"@{_write_number(self.prevalence)}"
        return f"{self.kind}={_write_number(self.value)}{share}"

    @model_validator(mode="after")
    def _require_sense(self) -> Target:
        value = math.nan if self.value is None else self.value
        if self.kind == "balanced" and self.value is not None:
            raise UsageError(f"target balanced with the value {value:g}: expected none; write balanced")
        if self.kind == "recall" and not 0 < value <= 1:
            raise UsageError(f"target recall={value:g}: expected a share above 0, up to 1, for example recall=0.99")
        if self.kind == "fpr" and not 0 <= value < 1:
            raise UsageError(f"target fpr={value:g}: expected a share from 0 to below 1, for example fpr=0.05")
        if self.kind == "cost" and not 0 < value < math.inf:
            raise UsageError(f"target cost={value:g}: expected a number above 0, for example cost=10")
        if not 0 < self.prevalence < 1:
            raise UsageError(
                f"target with prevalence {self.prevalence:g}: expected a share between 0 and 1, for example "
                "cost=10@0.01"
            )
        return self


PRESETS: dict[str, Target] = {
    "security": Target(kind="recall", value=0.95),
    "balanced": Target(kind="balanced"),
    "newsroom": Target(kind="fpr", value=0.01),
}
DEFAULT_PRESET = "security"


class Threshold(Spec):
    """A video is FAKE where P(fake) >= `value`, or, with the band, UNCERTAIN where `low` <= P(fake) < `high`.

    `recall` and `fpr` are those of the data it was chosen on, the band left aside, every video counting alike.
    `recall_bound` and `fpr_bound` are what they are at least, or at most, on new videos of the same kind, each with
    95 % confidence; where that reaches the target, it is `guaranteed`: not so for the head of a cross-validation, which
    is another than those of the folds, nor where `ungrouped` videos name no group, as nobody knows how many persons
    they show. Validation chose the epoch of the head too, which makes its figures a little too good. `uncertain_fake`
    and `uncertain_real` are the shares of fakes and reals in the band, which comes from drawing `resampled` again.
    """

    value: float = Field(ge=0, le=1)
    target: Target
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    recall: float
    fpr: float
    recall_bound: float
    fpr_bound: float
    guaranteed: bool
    uncertain_fake: float
    uncertain_real: float
    resampled: Unit
    source: Source
    n_fake: int
    n_real: int
    fake_groups: int
    real_groups: int
    ungrouped: int = 0

    @model_validator(mode="after")
    def _require_order(self) -> Threshold:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"expected low <= value <= high, found {self.low} {self.value} {self.high}")
        return self

    def describe(self) -> str:
        """What the threshold does, as a sentence for people."""
        named = not self.ungrouped
        fakes, reals = (_count_units(count, named) for count in (self.fake_groups, self.real_groups))
        return (
            f"P >= {self.value:.3g} flags {self.recall:.2f} of fakes (at least {self.recall_bound:.2f} on new ones, "
            f"95 % confidence, {fakes}{self._promise('recall')}) and {self.fpr:.2f} of reals "
            f"(at most {self.fpr_bound:.2f}, {reals}{self._promise('fpr')}); {self._describe_band()}"
        )

    def _promise(self, kind: Kind) -> str:
        if self.target.kind != kind:
            return ""
        goal = f"{'FPR' if kind == 'fpr' else kind} {self.target.value:g}"
        return f": {goal} guaranteed" if self.guaranteed else f": {goal} not guaranteed"

    def _describe_band(self) -> str:
        if self.low == self.high:
            return "nothing is UNCERTAIN"
        few = ", from resampled videos: too few persons" if self.resampled == "videos" else ""
        return (
            f"UNCERTAIN from {self.low:.3g} to {self.high:.3g} ({self.uncertain_fake:.2f} of fakes, "
            f"{self.uncertain_real:.2f} of reals{few})"
        )


def decide(prob: float, threshold: Threshold) -> Decision:
    """What a probability is taken for; in the band, other validation persons might have turned it round."""
    return cast(Decision, decide_each(np.array(prob), threshold.value, threshold.low, threshold.high).item())


def decide_each(probs: Floats, value: Floats | float, low: Floats | float, high: Floats | float) -> NDArray[np.str_]:
    """The same for many at once, with thresholds that may differ; all broadcast."""
    unsure = (probs >= low) & (probs < high)
    return np.where(unsure, "UNCERTAIN", np.where(probs >= value, "FAKE", "REAL"))


def choose_threshold(
    probs: Floats, labels: NDArray[np.int64], groups: NDArray[np.str_], source: Source, target: Target, seed: int = 0
) -> Threshold:
    """The threshold for one target; `probs` are (V,), or (S, V) of S heads that count alike. Needs both classes.

    For a recall it is the highest that reaches it, for an FPR the lowest. Where a promise can be made and the persons
    are enough (59 for a
    recall of 0.95, 299 for an FPR of 0.01, if all agree), what reaches the target is the bound; else it is the share
    in the data. That bound is not spoilt by the choice: recall falls as thresholds rise, so a threshold that misses
    the target is only taken where the bound already fails at the one that just meets it. For `balanced` and `cost`, of
    thresholds that tie, the middle of the lowest run is taken. Those choices do favour luck, so their bounds are
    computed at 99 % confidence; simulated, they hold in 96 to 99 % of samples (93 % for a head that knows nothing).

    A threshold lies midway between two neighbouring scores, so that the rounding of another runtime moves no video
    of the data across it. No threshold beyond 1 exists, so an FPR is missed where reals score exactly 1.

    The band holds the middle 90 % of the thresholds chosen when persons are drawn again with replacement (videos,
    where a class has fewer than 5 persons). Of ten persons it tells too little: simulated, it held the threshold of
    the whole population in 54 % of samples for a recall of 0.95, with forty persons in 78 to 88 %.
    """
    sample = Sample.arrange(probs, labels, groups)
    return _choose(sample, target, source, sample.draw(seed))


def choose_thresholds(
    probs: Floats,
    labels: NDArray[np.int64],
    groups: NDArray[np.str_],
    source: Source,
    extra: Sequence[Target] = (),
    seed: int = 0,
) -> dict[str, Threshold]:
    """The presets' thresholds by their names, and those for `extra` targets by theirs."""
    sample = Sample.arrange(probs, labels, groups)
    draws = sample.draw(seed)
    targets = PRESETS | {target.name: target for target in extra}
    return {name: _choose(sample, target, source, draws) for name, target in targets.items()}


@dataclass(frozen=True)
class _Demand:
    """The share that has to be right for a threshold to be taken: where videos count alike, and where persons do."""

    videos: float
    persons: float = 0.0


def _choose(sample: Sample, target: Target, source: Source, draws: Floats) -> Threshold:
    can_promise = source == "validation" and not sample.ungrouped
    demand = _set_demand(sample, target, can_promise)
    index = int(_pick(sample, target, demand, np.ones((1, len(sample.labels))))[0])
    low, high = _find_band(_pick(sample, target, demand, draws), index)
    fakes, reals = sample.fake.measure_shares(), sample.real.measure_shares()  # (2, T)
    confidence = CONFIDENCE if target.kind in ("recall", "fpr") else SELECTED_CONFIDENCE
    recall_bound = _bound_least(fakes[:, index].min(), sample.fake.persons, confidence)
    fpr_bound = 1 - _bound_least(1 - reals[:, index].max(), sample.real.persons, confidence)
    return Threshold(
        value=float(sample.values[index]),
        target=target,
        low=float(sample.values[low]),
        high=float(sample.values[high]),
        recall=float(fakes[0, index]),
        fpr=float(reals[0, index]),
        recall_bound=recall_bound,
        fpr_bound=fpr_bound,
        guaranteed=can_promise and _is_guaranteed(target, recall_bound, fpr_bound),
        uncertain_fake=float(fakes[0, low] - fakes[0, high]),
        uncertain_real=float(reals[0, low] - reals[0, high]),
        resampled=sample.unit,
        source=source,
        n_fake=int((sample.labels == 1).sum()),
        n_real=int((sample.labels == 0).sum()),
        fake_groups=sample.fake.persons,
        real_groups=sample.real.persons,
        ungrouped=sample.ungrouped,
    )


def _is_guaranteed(target: Target, recall_bound: float, fpr_bound: float) -> bool:
    if target.value is None or target.kind == "cost":
        return False
    if target.kind == "recall":
        return recall_bound >= target.value - TOLERANCE
    return fpr_bound <= target.value + TOLERANCE


def _set_demand(sample: Sample, target: Target, can_promise: bool) -> _Demand:
    """What makes the bound reach a recall or FPR, where that can be had; else the target itself."""
    if target.value is None or target.kind == "cost":
        return _Demand(0.0)
    side = sample.fake if target.kind == "recall" else sample.real
    goal = target.value if target.kind == "recall" else 1 - target.value
    hits = require_hits(goal, side.persons) if can_promise else None
    if hits is None:
        return _Demand(goal)
    sure = _Demand(hits / side.persons, hits / side.persons)
    everyone = np.ones((1, len(sample.labels)))
    return sure if _suffices(side, target, sure, everyone).any() else _Demand(goal)


def _pick(sample: Sample, target: Target, demand: _Demand, weights: Floats) -> Indices:
    """The index of the threshold chosen under each row of weights (R, V)."""
    step = max(1, CHUNK // len(sample.values))
    parts = [_pick_some(sample, target, demand, weights[i : i + step]) for i in range(0, len(weights), step)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _pick_some(sample: Sample, target: Target, demand: _Demand, weights: Floats) -> Indices:
    last = len(sample.values) - 1
    if target.kind == "recall":
        enough = _suffices(sample.fake, target, demand, weights)
        return np.asarray(last - np.argmax(enough[:, ::-1], axis=1))
    if target.kind == "fpr":
        enough = _suffices(sample.real, target, demand, weights)
        return np.where(enough.any(axis=1), np.argmax(enough, axis=1), last)
    miss = 1.0 if target.value is None else target.value * target.prevalence / (1 - target.prevalence)
    cost = miss * (1 - sample.fake.share(weights)) + sample.real.share(weights)  # (R, T), in false alarms
    return _find_middle(cost <= cost.min(axis=1, keepdims=True) + TOLERANCE * min(miss, 1.0))


def _find_middle(best: NDArray[np.bool_]) -> Indices:
    """The middle of the first run of True in each row (R, T)."""
    first = np.argmax(best, axis=1)
    beyond = ~best & (np.arange(best.shape[1]) > first[:, None])
    end = np.where(beyond.any(axis=1), np.argmax(beyond, axis=1), best.shape[1])
    return np.asarray((first + end - 1) // 2)


def _suffices(side: ClassScores, target: Target, demand: _Demand, weights: Floats) -> NDArray[np.bool_]:
    """Which thresholds (R, T) flag enough of the fakes, or leave enough of the reals alone."""
    enough = _share_right(side, target, weights) >= demand.videos - TOLERANCE
    if demand.persons:
        enough &= _share_right(side, target, weights * side.level) >= demand.persons - TOLERANCE
    return enough


def _share_right(side: ClassScores, target: Target, weights: Floats) -> Floats:
    flagged: Floats = side.share(weights)
    return flagged if target.kind == "recall" else 1 - flagged


def _find_band(resampled: Indices, index: int) -> tuple[int, int]:
    """The lowest and highest threshold between which BAND of the resampled ones lie, widened to hold `index`."""
    ranked = np.sort(resampled)
    cut = round(len(ranked) * (1 - BAND) / 2)
    inner = ranked[cut : len(ranked) - cut].tolist()
    return min([index, *inner]), max([index, *inner])


def _bound_least(share: float, persons: int, confidence: float) -> float:
    return bound_share(float(share) * persons, persons, confidence)


def _read_number(text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise UsageError(f"target {text!r}: {number!r} is not a number; write {EXAMPLES}") from None


def _write_number(number: float) -> str:
    return np.format_float_positional(number, trim="-")


def _count_units(count: int, named: bool) -> str:
    if not named:
        return f"{count} groups or videos without one"
    return f"{count} person{'' if count == 1 else 's'}"
