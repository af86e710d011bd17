"""Intervals hold the truth as often as they say, also where there are few persons or no errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from tests.population import Population, ungroup
from train.measures.bootstrap import (
    Spread,
    Units,
    bound_difference,
    bound_loss,
    bound_share,
    count_units,
    find_spread,
    resample,
)
from train.measures.metrics import Clustering, Predictions
from train.measures.ranking import Ranking
from train.measures.tallies import Tallies

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=30).map(lambda sizes: np.array(sizes, np.int64))


def estimate(predictions: Predictions, names: list[str], resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """The intervals of some metrics; (0, 1), which holds everything, where there is none."""
    clusters = Clustering(predictions.fake, predictions.groups)
    ranking = Ranking(predictions.fake, predictions.logits, clusters.of_video)
    tallies = Tallies(
        predictions.fake, predictions.logits, predictions.flagged, clusters.of_video, len(clusters.classes)
    )

    def evaluate(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return ranking.evaluate_auc(weights) | tallies.evaluate(weights)

    replicates = resample(evaluate, clusters.classes, resamples, seed)
    found = {name: clusters.estimate(name, replicates) for name in names}
    return {name: (0.0 if e.low is None else e.low, 1.0 if e.high is None else e.high) for name, e in found.items()}


def count_held(
    population: Population, people: int, draws: int, resamples: int, grouped: bool = True
) -> dict[str, float]:
    """The share of draws of which the interval holds the truth."""
    rng = np.random.default_rng((people, draws))
    held = dict.fromkeys(population.truth, 0)
    for draw in range(draws):
        predictions = population.sample(people, rng)
        if not grouped:
            predictions = replace(predictions, groups=ungroup(predictions))
        for name, (low, high) in estimate(predictions, list(held), resamples, draw).items():
            held[name] += low <= population.truth[name] <= high
    return {name: count / draws for name, count in held.items()}


def test_intervals_hold_the_truth_where_persons_are_drawn_and_do_not_where_videos_are() -> None:
    population = Population(auc=0.85, alike=0.8)
    by_person = count_held(population, 20, 300, 300)
    by_video = count_held(population, 20, 300, 300, grouped=False)
    assert min(by_person.values()) >= 0.93, by_person
    assert max(by_video.values()) < 0.90, by_video


# The percentiles of the same replicates hold an AUC of .99 in 75 to 91 of 100 draws.
@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.1, 0.6])
@pytest.mark.parametrize("auc", [0.7, 0.85, 0.95, 0.99])
@pytest.mark.parametrize("people", [14, 20, 30, 60, 150])
def test_intervals_hold_the_truth_in_93_of_100_draws(people: int, auc: float, alike: float) -> None:
    held = count_held(Population(auc, alike), people, 1000, 1000)
    assert min(held.values()) >= 0.93, held


def test_replicates_are_the_same_however_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = Population(0.8, 0.5).sample(13, np.random.default_rng(0))
    whole = estimate(predictions, ["auc", "fpr"], 101, seed=3)
    monkeypatch.setattr("train.measures.bootstrap.CHUNK", 7 * len(predictions.labels))
    assert estimate(predictions, ["auc", "fpr"], 101, seed=3)["auc"] == pytest.approx(whole["auc"], abs=1e-12)
    assert estimate(predictions, ["auc", "fpr"], 101, seed=4)["auc"] != pytest.approx(whole["auc"], abs=1e-4)


def test_every_replicate_draws_as_many_clusters_as_there_are() -> None:
    drawn: list[NDArray[np.float64]] = []

    def keep(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        drawn.append(weights)
        return {"drawn": weights.sum(1)}

    found = resample(keep, np.ones((8, 2), np.int64), 500, seed=0)
    assert (found.values["drawn"] == 8).all()
    assert drawn[1].mean(0) == pytest.approx(np.ones(8), abs=0.2)  # 1 on average; 0.04 is the standard error
    assert drawn[1].var() == pytest.approx(7 / 8, abs=0.1)  # a binomial of 8 draws at 1/8


def test_a_replicate_without_a_class_that_the_videos_have_is_left_out() -> None:
    def count(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"first": weights[:, 0]}

    one_each = resample(count, np.array([[1, 0], [0, 1]]), 400, seed=0)
    assert 150 < one_each.kept < 250  # half of the draws take one of the two twice
    assert set(one_each.values["first"]) == {1.0}
    assert resample(count, np.array([[1, 0], [2, 0]]), 400, seed=0).kept == 400


@settings(deadline=None)
@given(SIZES)
def test_clusters_count_fewer_the_less_equal_they_are(sizes: NDArray[np.int64]) -> None:
    units = count_units(sizes)
    held = sizes[sizes > 0]
    assert units.count == len(held)
    assert units.effective <= len(held) + 1e-9
    assert units.effective == pytest.approx(held.sum() / np.average(held, weights=held) if len(held) else 0.0)


def test_the_pull_of_a_cluster_is_its_part_of_the_variance() -> None:
    values = np.random.default_rng(0).normal(size=40)

    def average(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"mean": weights @ values / 40}

    found = resample(average, np.ones((40, 1), np.int64), 20_000, seed=0)
    # The influence of each value on a mean; the noise of a covariance over 20,000 draws is 0.001.
    assert found.pull["mean"] == pytest.approx((values - values.mean()) / 40, abs=0.005)
    spread = find_spread(found.values["mean"], found.pull["mean"], Units(40, 40.0))
    assert spread is not None
    assert spread.error == pytest.approx(values.std(ddof=1) / 40**0.5, rel=0.02)


@pytest.mark.parametrize(("pull", "freedom"), [([1, 0, 0, 0, 0], 1), ([1, 1, 0, 0, 0], 2), ([1, -1, 1, -1, 1], 4)])
def test_a_deviation_that_few_clusters_make_has_few_degrees_of_freedom(pull: list[float], freedom: float) -> None:
    spread = find_spread(np.array([0.0, 1.0]), np.array(pull), Units(5, 5.0))
    assert spread is not None
    assert spread.freedom == freedom


@pytest.mark.parametrize(("values", "count"), [([np.nan, np.nan], 5), ([], 5), ([0.4, 0.6], 1), ([0.4, 0.6], 0)])
def test_nothing_is_told_by_no_replicate_or_by_one_cluster(values: list[float], count: int) -> None:
    assert find_spread(np.array(values), np.ones(5), Units(count, float(count))) is None


@settings(deadline=None)
@given(st.integers(2, 200), st.data())
def test_where_nothing_varies_a_rate_is_that_of_whole_clusters(clusters: int, data: st.DataObject) -> None:
    hits = data.draw(st.sampled_from([0, clusters]))
    expected = binomtest(hits, clusters).proportion_ci(0.95, "exact")
    found = bound_share(hits / clusters, Spread(0.0, 1.0), Units(clusters, clusters))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_of_independent_videos_has_the_interval_of_clopper_and_pearson() -> None:
    error = (0.25 * 0.75 / 200) ** 0.5
    expected = binomtest(50, 200).proportion_ci(0.95, "exact")
    found = bound_share(0.25, Spread(error, np.inf), Units(200, 200.0))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@settings(deadline=None)
@given(st.floats(0.001, 0.999), st.floats(0, 0.5), st.integers(2, 100))
def test_an_interval_of_a_share_holds_it_and_stays_within_0_and_1(value: float, error: float, clusters: int) -> None:
    units = Units(clusters, float(clusters))
    for at_least in (True, False):
        low, high = bound_share(value, Spread(error, clusters - 1), units, at_least)
        assert 0 <= low <= value <= high <= 1


def test_one_person_with_an_error_is_no_worse_than_one_of_twenty() -> None:
    units = Units(20, 20.0)
    none, one = (bound_share(value, Spread(value, 1.0), units) for value in (0.0, 0.05))
    assert one == pytest.approx(tuple(binomtest(1, 20).proportion_ci(0.95, "exact")), abs=1e-9)
    assert none[1] < one[1]


def test_a_rate_at_a_fixed_fpr_may_vary_more_than_a_share_of_clusters() -> None:
    units, spread = Units(40, 40.0), Spread(0.25, 39.0)
    low, high = bound_share(0.5, spread, units, at_least=False)
    assert high - low > 0.8
    assert bound_share(0.5, spread, units) == pytest.approx(bound_share(0.5, Spread(0.0, 1.0), units))


def test_the_interval_of_a_loss_is_even_on_its_logarithm() -> None:
    low, high = bound_loss(0.5, Spread(0.05, np.inf))
    assert high == pytest.approx(0.5 * np.exp(1.959964 * 0.1), rel=1e-6)
    assert low * high == pytest.approx(0.25)
    assert bound_loss(0.0, Spread(0.0, 3.0)) == (0.0, 0.0)


def test_two_perfect_heads_are_not_proven_equal() -> None:
    units = Units(20, 20.0)
    low, high = bound_difference(1.0, 1.0, Spread(0.0, 19.0), units)
    assert high == -low == pytest.approx(1 - 0.025 ** (1 / 20))
    assert bound_difference(0.8, 0.8, Spread(0.0, 19.0), units) == (0.0, 0.0)
    assert bound_difference(0.9, 0.8, Spread(0.01, np.inf), units) == pytest.approx((0.0804, 0.1196), abs=1e-4)
