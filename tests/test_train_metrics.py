"""Metrics against scikit-learn and worked examples, for videos as they are and for any weighting of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from extract.errors import UsageError
from tests.population import Population, ungroup
from train.measures.metrics import (
    Estimate,
    Evaluator,
    Metrics,
    Predictions,
    compute_auc,
    find_npv,
    find_ppv,
    measure,
    measure_frames,
)
from train.measures.ranking import FPR_LIMITS
from train.measures.tallies import BINS

# One video: logit, weight, label. Few distinct logits, so that many tie.
VIDEO = st.tuples(st.one_of(st.floats(-6, 6, width=16), st.integers(-2, 2)), st.integers(0, 3), st.integers(0, 1))
Floats = NDArray[np.float64]
Videos = list[tuple[float, int, int]]
BOTH = st.lists(VIDEO, min_size=2, max_size=50).filter(lambda videos: {v[2] for v in videos if v[1]} == {0, 1})


def predict(labels: list[int], logits: list[float], cut: float = 0.0, groups: list[str] | None = None) -> Predictions:
    """Predictions of one seed, flagged from a logit up, each video a group of its own unless told."""
    names = groups or [str(video) for video in range(len(labels))]
    scores = np.array(logits, dtype=np.float64)
    return Predictions(np.array(labels, np.int64), scores, scores >= cut, np.array(names, dtype=np.str_))


def sample(people: int = 20, auc: float = 0.85, alike: float = 0.5, seed: int = 0) -> Predictions:
    return Population(auc, alike).sample(people, np.random.default_rng(seed))


def weigh(videos: Videos) -> tuple[dict[str, float], NDArray[np.int64], Floats, Floats]:
    """Each metric of videos that count as often as their weight says, with labels, logits and weights."""
    labels = np.array([v[2] for v in videos])
    logits, weights = np.array([float(v[0]) for v in videos]), np.array([float(v[1]) for v in videos])
    groups = np.char.mod("%04d", np.arange(len(videos)))
    found = Evaluator(Predictions(labels, logits, logits >= 0.5, groups)).evaluate(weights[np.newaxis])
    return {name: float(value[0]) for name, value in found.items()}, labels, logits, weights


def sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


@settings(deadline=None, max_examples=50)
@given(BOTH)
def test_auc_and_average_precision_are_those_of_scikit_learn(videos: Videos) -> None:
    found, labels, logits, weights = weigh(videos)
    assert found["auc"] == pytest.approx(sklearn.roc_auc_score(labels, logits, sample_weight=weights), abs=1e-9)
    expected = sklearn.average_precision_score(labels, logits, sample_weight=weights)
    assert found["ap"] == pytest.approx(expected, abs=1e-9)
    plain = sklearn.roc_auc_score(labels, logits)
    assert compute_auc(labels, logits) == pytest.approx(plain, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(BOTH)
def test_the_recall_at_an_fpr_is_the_best_point_of_the_curve_of_scikit_learn(videos: Videos) -> None:
    found, labels, logits, weights = weigh(videos)
    fpr, tpr, _ = sklearn.roc_curve(labels, logits, sample_weight=weights, drop_intermediate=False)
    for name, limit in FPR_LIMITS.items():
        assert found[name] == pytest.approx(tpr[fpr <= limit + 1e-9].max(), abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(BOTH)
def test_the_eer_is_where_the_curve_of_scikit_learn_crosses_the_diagonal(videos: Videos) -> None:
    found, labels, logits, weights = weigh(videos)
    fpr, tpr, _ = sklearn.roc_curve(labels, logits, sample_weight=weights, drop_intermediate=False)
    fine = np.linspace(0, len(fpr) - 1, 20 * (len(fpr) - 1) + 1)  # along the curve
    x, y = np.interp(fine, np.arange(len(fpr)), fpr), np.interp(fine, np.arange(len(tpr)), tpr)
    nearest = np.abs(x + y - 1).argmin()
    step = np.abs(np.diff(x + y)).max()  # how far two neighbours on the line are apart
    assert found["eer"] == pytest.approx((x[nearest] + 1 - y[nearest]) / 2, abs=step)


@settings(deadline=None, max_examples=50)
@given(BOTH)
def test_rates_at_the_threshold_are_those_of_scikit_learn(videos: Videos) -> None:
    found, labels, logits, weights = weigh(videos)
    said = {"y_true": labels, "y_pred": logits >= 0.5, "sample_weight": weights}
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(**said))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(**said))
    assert found["recall"] == pytest.approx(sklearn.recall_score(**said))
    assert found["fpr"] == pytest.approx(1 - sklearn.recall_score(**said, pos_label=0))
    assert found["precision"] == pytest.approx(sklearn.precision_score(**said, zero_division=np.nan), nan_ok=True)
    assert found["f1"] == pytest.approx(sklearn.f1_score(**said))


@settings(deadline=None, max_examples=50)
@given(BOTH)
def test_losses_are_those_of_scikit_learn_with_classes_that_weigh_alike(videos: Videos) -> None:
    found, labels, logits, weights = weigh(videos)
    even = weights / np.where(labels == 1, weights[labels == 1].sum(), weights[labels == 0].sum())
    assert found["log_loss"] == pytest.approx(sklearn.log_loss(labels, sigmoid(logits), sample_weight=even))
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(labels, sigmoid(logits), sample_weight=even))


@settings(deadline=None, max_examples=50)
@given(BOTH)
def test_the_calibration_error_is_the_mean_gap_of_15_bins(videos: Videos) -> None:
    found, labels, logits, weights = weigh(videos)
    even = weights / np.where(labels == 1, weights[labels == 1].sum(), weights[labels == 0].sum()) / 2
    probs, expected = sigmoid(logits), 0.0
    for k in range(BINS):
        inside = (k <= probs * BINS) & (probs * BINS < k + 1)
        if even[inside].sum():
            share, mean = (np.average(of[inside], weights=even[inside]) for of in (labels, probs))
            expected += even[inside].sum() * abs(share - mean)
    assert found["ece"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("fakes", "reals", "eer"),
    [
        ([4, 3], [2, 1], 0.0),
        ([1, 2], [3, 4], 1.0),
        ([4, 2], [3, 1], 0.5),
        ([5, 5], [5, 5], 0.5),  # one point that joins (0, 0) and (1, 1)
        ([9, 8, 7, 3], [6, 5, 2, 1], 0.25),
        ([9, 5, 5], [5, 2, 1], 2 / 9),  # the line from (0, 1/3) to (1/3, 1): 1/3 + 2 x = 1 - x
    ],
)
def test_the_equal_error_rate_of_small_examples(fakes: list[float], reals: list[float], eer: float) -> None:
    found = measure(predict([1] * len(fakes) + [0] * len(reals), [*fakes, *reals]), resamples=0).eer.value
    assert found == pytest.approx(eer)


def test_counts_and_rates_agree_with_the_published_example() -> None:
    labels = np.repeat([1, 0], 30)
    flagged = np.concatenate([np.arange(30) < 27, np.arange(30) < 10])
    metrics = measure(Predictions(labels, flagged.astype(float), flagged, np.arange(60).astype(np.str_)))
    found = metrics.confusion
    assert (found.tp, found.fn, found.fp, found.tn) == (27, 3, 10, 20)
    assert metrics.accuracy.value == pytest.approx(47 / 60)
    assert metrics.recall.value == pytest.approx(0.9)
    assert metrics.precision.value == pytest.approx(27 / 37)
    assert metrics.f1.value == pytest.approx(54 / 67)
    assert metrics.fpr.value == pytest.approx(1 / 3)
    assert metrics.balanced_accuracy.value == pytest.approx((0.9 + 2 / 3) / 2)
    assert metrics.ppv["0.01"].value == pytest.approx(0.027, abs=5e-4)  # of its alarms at 1 % fakes, 2.7 % are right
    assert metrics.npv["0.1"].value == pytest.approx(0.9 * 20 / 30 / (0.9 * 20 / 30 + 0.1 * 3 / 30))


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.001, 0.999))
def test_predictive_values_are_those_of_a_large_crowd(recall: float, fpr: float, share: float) -> None:
    fakes, reals = 1e9 * share, 1e9 * (1 - share)
    rates = Estimate(value=recall), Estimate(value=fpr)
    assert find_ppv(*rates, share).value == pytest.approx(fakes * recall / (fakes * recall + reals * fpr))
    assert find_npv(*rates, share).value == pytest.approx(
        reals * (1 - fpr) / (reals * (1 - fpr) + fakes * (1 - recall)), rel=1e-9
    )


def test_a_perfect_score_on_few_reals_does_not_promise_that_every_alarm_is_right() -> None:
    recall, fpr = Estimate(value=1.0, low=0.9, high=1.0), Estimate(value=0.0, low=0.0, high=0.1)
    found = find_ppv(recall, fpr, 0.01)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.009 / (0.009 + 0.099))
    found = find_npv(recall, fpr, 0.01)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.99 * 0.9 / (0.99 * 0.9 + 0.01 * 0.1))


def test_where_nothing_is_flagged_no_alarm_has_a_value() -> None:
    never = Estimate(value=0.0, low=0.0, high=0.2)
    assert find_ppv(never, never, 0.1) == Estimate(value=None)
    assert find_npv(never, never, 0.1).value == pytest.approx(0.9)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_prevalence_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="more than 0 and less than 1"):
        measure(sample(), resamples=10, prevalences=(share,))


def list_estimates(metrics: Metrics) -> dict[str, Estimate]:
    single = {name: value for name in Metrics.model_fields if isinstance(value := getattr(metrics, name), Estimate)}
    return single | {f"ppv {name}": value for name, value in metrics.ppv.items()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 25), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_an_interval_contains_its_value(seed: int, people: int, auc: float) -> None:
    found = list_estimates(measure(sample(people, auc, seed=seed), resamples=100, seed=seed))
    assert len(found) == 16
    for name, estimate in found.items():
        if estimate.value is not None and estimate.low is not None and estimate.high is not None:
            assert estimate.low <= estimate.value <= estimate.high, name
            assert estimate.low < estimate.high, name


def test_an_interval_is_wider_when_the_videos_of_a_person_err_together() -> None:
    clustered = sample(people=40, alike=0.9)
    single = replace(clustered, groups=ungroup(clustered))
    for name in ("auc", "recall", "fpr", "ap"):
        found = [getattr(measure(predictions), name) for predictions in (clustered, single)]
        assert found[0].high - found[0].low > 1.3 * (found[1].high - found[1].low), name


def test_the_bootstrap_repeats_with_its_seed() -> None:
    predictions = sample()
    assert measure(predictions, seed=1) == measure(predictions, seed=1)
    assert measure(predictions, seed=1) != measure(predictions, seed=2)


def test_figures_survive_being_written_and_read() -> None:
    metrics = measure(sample(), resamples=50)
    assert Metrics.model_validate_json(metrics.model_dump_json()) == metrics


def test_what_one_class_cannot_define_is_null() -> None:
    metrics = measure(predict([0] * 4, [-4.0, -3.0, -2.0, -1.0]))
    missing = ("auc", "ap", "eer", "recall", "precision", "f1", "balanced_accuracy", "log_loss", "brier", "ece")
    for name in (*missing, *FPR_LIMITS):
        assert getattr(metrics, name) == Estimate(value=None), name
    assert metrics.ppv["0.01"] == metrics.npv["0.1"] == Estimate(value=None)
    assert metrics.fpr.value == 0.0
    assert metrics.accuracy.value == 1.0


def test_fakes_alone_have_a_recall_with_an_interval() -> None:
    metrics = measure(predict([1] * 40, [-1.0, 1.0] * 20))
    assert metrics.recall.value == 0.5
    assert metrics.recall.low == pytest.approx(0.34, abs=0.02)  # Clopper and Pearson for 20 of 40
    assert metrics.resamples_skipped == 0


def test_no_videos_have_no_figures() -> None:
    metrics = measure(predict([], []))
    assert (metrics.n_videos, metrics.n_groups) == (0, 0)
    assert set(list_estimates(metrics).values()) == {Estimate(value=None)}


def test_replicates_with_one_class_are_left_out_and_counted() -> None:
    metrics = measure(predict([0, 1, 0, 1], [-1.0, 1.0, -1.0, 1.0], groups=["a", "b", "c", "b"]), resamples=900)
    expected = (1 / 3) ** 3 + (2 / 3) ** 3  # b three times, or never
    assert metrics.resamples_skipped / 900 == pytest.approx(expected, abs=0.05)


def test_thirty_hits_of_thirty_do_not_prove_a_recall_of_1() -> None:
    people = [f"p{video % 20}" for video in range(60)]
    metrics = measure(predict([1] * 40 + [0] * 20, [2.0] * 40 + [-2.0] * 20, groups=people))
    bound = 0.025 ** (1 / 20)  # no error in 20 persons, by Clopper and Pearson
    for name in ("recall", "auc", "ap", "balanced_accuracy", "precision", "f1", "accuracy", *FPR_LIMITS):
        found = getattr(metrics, name)
        assert (found.value, found.high) == (1.0, 1.0), name
        assert found.low == pytest.approx(bound), name
    for found in (metrics.fpr, metrics.eer):
        assert (found.value, found.low) == (0.0, 0.0)
        assert found.high == pytest.approx(1 - bound)


def test_an_auc_of_1_is_bounded_by_the_class_with_fewer_people() -> None:
    people = [f"f{video}" for video in range(50)] + [f"r{video % 5}" for video in range(10)]
    metrics = measure(predict([1] * 50 + [0] * 10, [1.0] * 50 + [-1.0] * 10, groups=people))
    assert metrics.auc.low == pytest.approx(0.025 ** (1 / 5))
    assert metrics.recall.low == pytest.approx(0.025 ** (1 / 50))


def test_one_group_has_no_interval() -> None:
    predictions = sample()
    metrics = measure(replace(predictions, groups=np.full_like(predictions.groups, "p0")))
    assert metrics.auc.value is not None
    assert {estimate.low for estimate in list_estimates(metrics).values()} == {None}


def test_several_seeds_are_measured_by_the_mean_of_their_figures() -> None:
    one = sample()
    logits = one.logits + np.random.default_rng(1).normal(size=(3, len(one.labels)))
    stacked = replace(one, logits=logits, flagged=logits >= 1)
    seeds = [measure(replace(one, logits=row, flagged=row >= 1)) for row in logits]
    metrics = measure(stacked)
    assert metrics.seeds == 3
    assert metrics.confusion == seeds[0].confusion
    for name, found in list_estimates(metrics).items():
        if not name.startswith("ppv"):  # of the mean rates
            assert found.value == pytest.approx(np.mean([getattr(seed, name).value for seed in seeds])), name


def test_equal_seeds_have_the_interval_of_one() -> None:
    one = sample()
    twice = replace(one, logits=np.stack([one.logits] * 2), flagged=np.stack([one.flagged] * 2))
    assert measure(twice).auc == measure(one).auc


@pytest.mark.parametrize("broken", ["logits", "flagged", "groups"])
def test_predictions_of_two_lengths_are_refused(broken: str) -> None:
    predictions = sample()
    with pytest.raises(ValueError, match="expected"):
        replace(predictions, **{broken: getattr(predictions, broken)[:-1]})


def test_a_logit_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        predict([0, 1], [0.0, float("nan")])


def test_frames_are_measured_by_their_auc_with_whole_groups_resampled() -> None:
    videos = sample(people=30, alike=0.9)
    labels, groups = np.repeat(videos.labels, 16), np.repeat(videos.groups, 16)
    logits = np.repeat(videos.logits, 16) + np.random.default_rng(0).normal(size=len(labels))
    found = measure_frames(labels, logits, groups)
    assert found.value == pytest.approx(sklearn.roc_auc_score(labels, logits), abs=1e-12)
    assert found.low is not None
    assert found.high is not None
    of_videos = measure_frames(labels, logits, np.repeat(ungroup(videos), 16))
    assert of_videos.low is not None
    assert of_videos.high is not None
    assert found.high - found.low > 1.3 * (of_videos.high - of_videos.low)


def test_frames_of_one_class_have_no_auc() -> None:
    assert measure_frames(np.ones(5, np.int64), np.arange(5.0), np.arange(5).astype(np.str_)) == Estimate(value=None)
    assert measure_frames(np.ones(0, np.int64), np.zeros(0), np.zeros(0, np.str_)) == Estimate(value=None)


def test_extreme_logits_have_finite_figures() -> None:
    for high, low in product((800.0, 50.0), repeat=2):
        metrics = measure(predict([1, 1, 0, 0], [high, -low, -high, low]), resamples=50)
        assert metrics.log_loss.value == pytest.approx(low / 2)
        assert metrics.brier.value == pytest.approx(0.5)


def test_a_precision_of_few_alarms_is_as_unsure_as_a_share_of_these() -> None:
    labels, flagged = np.repeat([1, 0], 100), np.arange(200) < 3
    metrics = measure(Predictions(labels, flagged.astype(np.float64), flagged, np.arange(200).astype(np.str_)))
    assert metrics.precision.value == 1.0
    assert metrics.precision.low == pytest.approx(0.025 ** (1 / 3), abs=1e-3)  # Clopper-Pearson of 3 of 3
