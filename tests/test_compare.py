"""Two heads on the same videos: what tells them apart, and what is only chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.population import Population
from train.measures.compare import Comparison, compare
from train.measures.metrics import Estimate, Predictions, measure


def sample(people: int = 50, seed: int = 0) -> Predictions:
    return Population(0.85, 0.5).sample(people, np.random.default_rng(seed))


def worsen(predictions: Predictions, noise: float, seed: int = 9) -> Predictions:
    """A head that sees the same and something random besides."""
    logits = predictions.logits + noise * np.random.default_rng(seed).normal(size=predictions.logits.shape)
    return replace(predictions, logits=logits, flagged=logits >= 0.5)


def require(estimate: Estimate) -> tuple[float, float, float]:
    """Value and ends, which are there."""
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.value, estimate.low, estimate.high


def test_differences_are_those_of_the_figures_of_each_side() -> None:
    a = sample()
    b = worsen(a, 1.0)
    found, alone = compare(a, b, resamples=200), [measure(side, resamples=0) for side in (a, b)]
    assert (found.auc_a, found.auc_b) == (alone[0].auc.value, alone[1].auc.value)
    for name, difference in found.differences.items():
        of_a, of_b = (getattr(side, name).value for side in alone)
        assert difference.value == pytest.approx(of_a - of_b, abs=1e-12), name
    assert {"auc", "ap", "eer", "tpr_at_fpr_5", "balanced_accuracy", "recall", "fpr"} <= found.differences.keys()


def test_a_much_better_head_is_distinguishable_and_its_rival_is_as_much_worse() -> None:
    a = sample()
    better, worse = compare(a, worsen(a, 2.0)), compare(worsen(a, 2.0), a)
    assert better.distinguishable
    assert worse.distinguishable
    value, low, high = require(better.differences["auc"])
    assert low > 0
    assert require(worse.differences["auc"]) == pytest.approx((-value, -high, -low))


def test_a_head_is_not_distinguishable_from_itself() -> None:
    found = compare(sample(), sample(), resamples=100)
    assert not found.distinguishable
    assert require(found.differences["auc"]) == (0.0, 0.0, 0.0)


def test_pairs_are_sharper_than_two_figures_side_by_side() -> None:
    a = sample()
    b = worsen(a, 0.3)
    _, low, high = require(compare(a, b).differences["auc"])
    _, alone_low, alone_high = require(measure(a).auc)
    assert high - low < 0.6 * (alone_high - alone_low)


def test_an_interval_of_a_difference_holds_no_difference_in_most_draws() -> None:
    rng = np.random.default_rng(0)
    population = Population(0.85, 0.6)
    told = 0
    for draw in range(120):
        truth = population.sample(20, rng)
        a, b = (worsen(truth, 0.8, seed=2 * draw + side) for side in (0, 1))
        told += compare(a, b, resamples=200, seed=draw).distinguishable
    assert told <= 12  # 5 % is 6; a sound method passes 12 in 1 of 140 runs of other seeds


def test_sides_may_have_different_numbers_of_seeds() -> None:
    a = sample()
    b = worsen(a, 0.5)
    three = replace(b, logits=np.stack([b.logits] * 3), flagged=np.stack([b.flagged] * 3))
    assert require(compare(a, three).differences["auc"]) == pytest.approx(require(compare(a, b).differences["auc"]))


def test_the_summary_says_whether_the_two_can_be_told_apart() -> None:
    found = Comparison(
        n_videos=61,
        n_groups=47,
        cluster="group",
        auc_a=0.842,
        auc_b=0.811,
        differences={"auc": Estimate(value=0.031, low=-0.02, high=0.085)},
        distinguishable=False,
        resamples=2000,
        resamples_skipped=0,
    )
    assert found.summary == (
        "AUC 0.842 against 0.811: difference +0.031 [-0.020, 0.085], not distinguishable on 61 videos of 47 groups"
    )
    sure = found.model_copy(update={"distinguishable": True, "cluster": "target id", "n_groups": 1})
    assert sure.summary.endswith(", distinguishable on 61 videos of 1 target id")


def test_one_class_cannot_tell_two_heads_apart() -> None:
    a = sample()
    fakes = replace(a, labels=np.ones_like(a.labels))
    found = compare(fakes, worsen(fakes, 1.0), resamples=100)
    assert found.differences["auc"] == Estimate(value=None)
    assert found.differences["recall"].low is not None
    assert not found.distinguishable
    assert found.summary.startswith("AUC not defined on")


def test_one_group_tells_a_difference_without_an_interval() -> None:
    a = sample()
    alone = replace(a, groups=np.full_like(a.groups, "p0"))
    found = compare(alone, worsen(alone, 1.0), resamples=100)
    assert found.differences["auc"].low is None
    assert not found.distinguishable
    assert "without an interval" in found.summary


@pytest.mark.parametrize("field", ["labels", "groups"])
def test_predictions_for_other_videos_are_refused(field: str) -> None:
    a = sample()
    other = replace(a, **{field: np.roll(getattr(a, field), 1)})
    with pytest.raises(ValueError, match="same videos in one order"):
        compare(a, other)
    with pytest.raises(ValueError, match="same videos in one order"):
        compare(a, sample(people=10))
