"""Aggregation, calibration, thresholds and metrics against slow references."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from train.aggregate import aggregate_video
from train.calibrate import Calibration, choose_threshold, compute_nll, fit_temperature
from train.metrics import Predictions, compute_auc, measure

LOGITS = st.floats(-20, 20, width=32)
CLIPS = st.lists(st.tuples(LOGITS, st.integers(-2, 3)), min_size=1, max_size=20)
SCORED = st.lists(st.tuples(st.floats(0, 1, width=16), st.integers(0, 1)), min_size=2, max_size=60)


def make_predictions(people: int = 20, each: int = 6, seed: int = 0, alike: float = 0.0) -> Predictions:
    """Scores that tell something; `alike` is how much the videos of one person err together."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    labels = np.tile(np.arange(each) % 2, people)
    scores = labels + rng.normal(size=len(labels)) + alike * rng.normal(size=people)[person]
    return Predictions(labels, scores, scores > 0.5, np.array([f"p{p}" for p in person]))


@given(CLIPS)
def test_a_videos_logit_is_the_max_over_tracks_of_the_mean_over_clips(clips: list[tuple[float, int]]) -> None:
    by_track: dict[int, list[float]] = {}
    for logit, track in clips:
        by_track.setdefault(track, []).append(logit)
    expected = max(math.fsum(values) / len(values) for values in by_track.values())
    assert aggregate_video([c[0] for c in clips], [c[1] for c in clips]) == pytest.approx(expected, abs=1e-9)


@given(CLIPS, st.floats(0.05, 20), st.floats(-5, 5))
def test_calibration_commutes_with_aggregation(clips: list[tuple[float, int]], slope: float, shift: float) -> None:
    logits, tracks = np.array([c[0] for c in clips]), [c[1] for c in clips]
    before = aggregate_video(slope * logits + shift, tracks)
    assert before == pytest.approx(slope * aggregate_video(logits, tracks) + shift, abs=1e-9)


def test_a_video_without_clips_has_no_logit() -> None:
    with pytest.raises(ValueError, match="C >= 1"):
        aggregate_video([], [])


@given(SCORED)
def test_the_threshold_is_the_highest_with_the_recall_asked_for(scored: list[tuple[float, int]]) -> None:
    probs, labels = np.array([s[0] for s in scored]), np.array([s[1] for s in scored])
    assume(0 < labels.sum() < len(labels))
    threshold = choose_threshold(probs, labels, "validation")
    recalls = {value: float((probs[labels == 1] >= value).mean()) for value in {*probs.tolist(), 0.0, 1.0}}
    assert threshold.value == max(value for value, recall in recalls.items() if recall >= 0.95)
    assert threshold.recall == recalls[threshold.value]
    assert threshold.fpr == float((probs[labels == 0] >= threshold.value).mean())


@pytest.mark.parametrize(("fakes", "guaranteed"), [(58, False), (59, True)])
def test_a_recall_of_95_percent_takes_59_fakes_without_a_miss(fakes: int, guaranteed: bool) -> None:
    probs = np.concatenate([np.full(fakes, 0.9), np.full(10, 0.1)])
    labels = np.concatenate([np.ones(fakes, np.int64), np.zeros(10, np.int64)])
    threshold = choose_threshold(probs, labels, "validation")
    assert threshold.recall_bound == pytest.approx(0.05 ** (1 / fakes))  # all hits: the closed form
    assert threshold.guaranteed is guaranteed


def test_calibration_mends_overconfident_logits_and_keeps_their_order() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=2000) * 2
    labels = (rng.random(2000) < 1 / (1 + np.exp(-true))).astype(np.int64)
    calibration = fit_temperature(true * 5, labels, "validation")
    assert calibration.slope == pytest.approx(0.2, rel=0.1)
    assert calibration.nll_after < calibration.nll_before
    assert calibration.nll_after == pytest.approx(compute_nll(calibration.scale(true * 5), labels))
    order = np.argsort(true)
    assert (np.diff(calibration.apply(true * 5)[order]) >= 0).all()


def test_data_that_is_separated_perfectly_does_not_explode_the_calibration() -> None:
    labels = np.repeat([0, 1], 20)
    calibration = fit_temperature(np.where(labels == 1, 1.0, -1.0), labels, "validation")
    assert calibration.apply(np.array([1.0]))[0] == pytest.approx(21 / 22, abs=1e-3)  # Platt's target


def test_logits_that_say_nothing_become_even_odds() -> None:
    logits = np.tile([-3.0, 3.0], 50)
    calibration = fit_temperature(logits, np.repeat([0, 1], 50), "out-of-fold")
    assert abs(calibration.apply(np.array([3.0]))[0] - 0.5) < 0.05


@given(st.lists(st.tuples(LOGITS, st.integers(0, 1)), min_size=2, max_size=40))
def test_a_calibration_always_has_a_positive_slope(scored: list[tuple[float, int]]) -> None:
    labels = np.array([s[1] for s in scored])
    assume(0 < labels.sum() < len(labels))
    calibration = fit_temperature(np.array([s[0] for s in scored]), labels, "validation")
    assert 0.05 <= calibration.slope <= 20.01
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration


@given(SCORED)
def test_the_auc_is_that_of_scikit_learn(scored: list[tuple[float, int]]) -> None:
    scores, labels = np.array([s[0] for s in scored]), np.array([s[1] for s in scored])
    assume(0 < labels.sum() < len(labels))
    assert compute_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_counts_and_rates_agree_with_the_published_example() -> None:
    labels = np.repeat([1, 0], 30)
    flagged = np.concatenate([np.arange(30) < 27, np.arange(30) < 10])
    metrics = measure(Predictions(labels, flagged.astype(float), flagged, np.arange(60).astype(str)))
    found = metrics.confusion
    assert (found.tp, found.fn, found.fp, found.tn) == (27, 3, 10, 20)
    assert metrics.accuracy.value == pytest.approx(47 / 60)
    assert metrics.recall.value == pytest.approx(0.9)
    assert metrics.precision.value == pytest.approx(27 / 37)
    assert metrics.f1.value == pytest.approx(54 / 67)
    assert metrics.fpr.value == pytest.approx(1 / 3)
    assert metrics.balanced_accuracy.value == pytest.approx((0.9 + 2 / 3) / 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_an_interval_contains_its_value(seed: int) -> None:
    metrics = measure(make_predictions(seed=seed), resamples=300, seed=seed)
    for name in ("auc", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "fpr"):
        estimate = getattr(metrics, name)
        assert estimate.low <= estimate.value <= estimate.high, name


def test_an_interval_is_wider_when_the_videos_of_a_person_err_together() -> None:
    clustered = make_predictions(alike=2.0)
    single = Predictions(
        clustered.labels, clustered.scores, clustered.flagged, np.arange(len(clustered.labels)).astype(str)
    )
    widths = []
    for predictions in (clustered, single):
        fpr = measure(predictions).fpr
        assert fpr.low is not None
        assert fpr.high is not None
        widths.append(fpr.high - fpr.low)
    assert widths[0] > 1.2 * widths[1]


def test_the_bootstrap_repeats_with_its_seed() -> None:
    predictions = make_predictions()
    assert measure(predictions, seed=1) == measure(predictions, seed=1)
    assert measure(predictions, seed=1) != measure(predictions, seed=2)


def test_what_one_class_cannot_define_is_null() -> None:
    metrics = measure(Predictions(np.zeros(4, np.int64), np.arange(4.0), np.zeros(4, bool), np.arange(4).astype(str)))
    assert metrics.auc.value is None
    assert metrics.recall.value is None
    assert metrics.precision.value is None
    assert metrics.f1.value is None
    assert metrics.balanced_accuracy.value is None
    assert metrics.fpr.value == 0.0
    assert metrics.accuracy.value == 1.0


def test_replicates_with_one_class_are_left_out_and_counted() -> None:
    predictions = Predictions(np.array([0, 1]), np.array([0.0, 1.0]), np.array([False, True]), np.array(["a", "b"]))
    metrics = measure(predictions, resamples=400)
    assert 100 < metrics.resamples_skipped < 300  # half of the draws take one person twice
    assert (metrics.auc.low, metrics.auc.high) == (1.0, 1.0)


def test_one_group_has_no_interval() -> None:
    predictions = make_predictions(people=1)
    metrics = measure(predictions)
    assert metrics.auc.value is not None
    assert metrics.auc.low is None


def test_what_serving_imports_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, train.aggregate, train.calibrate, train.config; "
        "assert not {'torch', 'sklearn', 'scipy', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
