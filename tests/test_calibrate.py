"""From logits to probabilities: the fit against a slow reference, and what no data may do to it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.errors import UsageError
from train.aggregate import aggregate_video
from train.calibrate import MAX_SLOPE, Calibration, Floats, Method, apply_sigmoid, compute_nll, fit_calibration

Labels = NDArray[np.int64]
LOGITS = st.floats(-20, 20, width=32)
CLIPS = st.lists(st.tuples(LOGITS, st.integers(-2, 3)), min_size=1, max_size=20)
SCORED = st.lists(st.tuples(LOGITS, st.integers(0, 1)), min_size=2, max_size=40)
METHODS: tuple[Method, ...] = ("temperature", "platt")


def split(scored: list[tuple[float, int]]) -> tuple[Floats, Labels]:
    """Logits and labels of both classes; an example without one is passed over."""
    labels = np.array([label for _, label in scored])
    assume(0 < labels.sum() < len(labels))
    return np.array([logit for logit, _ in scored]), labels


def judge(slope: Floats | float, intercept: Floats | float, logits: Floats, labels: Labels) -> Floats:
    """The loss by its definition, for each slope and intercept: smoothed targets, each class's mean, half and half."""
    counts = [int((labels == label).sum()) for label in (0, 1)]
    doubt = 1 / (2 / (1 / counts[0] + 1 / counts[1]) + 2)
    scaled = np.multiply.outer(np.asarray(slope), logits) + np.asarray(intercept)[..., None]
    losses = np.logaddexp(0, scaled) - np.where(labels == 1, 1 - doubt, doubt) * scaled
    mean: Floats = (losses[..., labels == 0].mean(axis=-1) + losses[..., labels == 1].mean(axis=-1)) / 2
    return mean


def draw_logits(count: int, seed: int = 0, share: float = 0.5) -> tuple[Floats, Labels]:
    """Logits that are log-odds at even odds: N(+-2, 4), of which a share is fake."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) < share * count).astype(np.int64)
    return rng.normal(4.0 * labels - 2.0, 2.0), labels


@settings(deadline=None, max_examples=30)
@given(SCORED, st.sampled_from(METHODS))
def test_no_other_slope_and_intercept_have_a_lower_loss(scored: list[tuple[float, int]], method: Method) -> None:
    logits, labels = split(scored)
    found = fit_calibration(logits, labels, "validation", method)
    best = judge(found.slope, found.intercept, logits, labels)
    boundaries = np.linspace(-21, 21, 85) if method == "platt" else np.zeros(1)
    slopes, boundaries = np.meshgrid(np.geomspace(1 / MAX_SLOPE, MAX_SLOPE, 50), boundaries)
    assert (best <= judge(slopes, -slopes * boundaries, logits, labels) + 1e-6).all()  # the solver's tolerance


@settings(deadline=None, max_examples=30)
@given(SCORED, st.sampled_from(METHODS))
def test_a_calibration_is_finite_and_keeps_the_order(scored: list[tuple[float, int]], method: Method) -> None:
    logits, labels = split(scored)
    found = fit_calibration(logits, labels, "validation", method)
    assert 1 / MAX_SLOPE <= found.slope <= MAX_SLOPE
    assert np.isfinite([found.intercept, found.nll_before, found.nll_after]).all()
    assert Calibration.model_validate_json(found.model_dump_json()) == found


@given(CLIPS, st.floats(0.05, 20), st.floats(-5, 5))
def test_calibration_commutes_with_aggregation(clips: list[tuple[float, int]], slope: float, shift: float) -> None:
    logits, tracks = np.array([c[0] for c in clips]), [c[1] for c in clips]
    before = aggregate_video(slope * logits + shift, tracks)
    assert before == pytest.approx(slope * aggregate_video(logits, tracks) + shift, abs=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.86])
def test_the_share_of_fakes_in_the_data_does_not_move_the_probabilities(share: float) -> None:
    logits, labels = draw_logits(20_000, share=share)
    found = fit_calibration(3 * logits - 7, labels, "validation")
    assert found.slope == pytest.approx(1 / 3, rel=0.05)  # four standard errors and more
    assert found.intercept == pytest.approx(7 / 3, abs=0.1)
    assert found.prevalence == 0.5


def test_calibration_mends_overconfident_logits() -> None:
    logits, labels = draw_logits(2000)
    found = fit_calibration(logits * 5, labels, "validation", "temperature")
    assert found.slope == pytest.approx(0.2, rel=0.15)
    assert found.intercept == 0.0
    assert found.nll_after < found.nll_before
    assert found.nll_after == pytest.approx(compute_nll(found.scale(logits * 5), labels))  # as many fakes as reals
    assert (found.n_fake, found.n_real) == (1000, 1000)


@pytest.mark.parametrize("method", METHODS)
def test_data_that_is_separated_perfectly_does_not_explode_the_calibration(method: Method) -> None:
    labels = np.repeat([0, 1], 20)
    found = fit_calibration(np.where(labels == 1, 1.0, -1.0), labels, "validation", method)
    assert found.apply(np.array([1.0]))[0] == pytest.approx(21 / 22, abs=1e-4)  # Platt's target


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("fakes", "reals"), [(50, 50), (90, 10)])
def test_logits_that_say_nothing_become_even_odds(method: Method, fakes: int, reals: int) -> None:
    logits = np.tile([-3.0, 3.0], (fakes + reals) // 2)
    found = fit_calibration(logits, np.repeat([1, 0], [fakes, reals]), "out-of-fold", method)
    assert np.abs(found.apply(np.array([-3.0, 0.0, 3.0])) - 0.5).max() < 0.05


@pytest.mark.parametrize("logit", [0.0, 7.0])
def test_logits_that_are_all_equal_become_even_odds(logit: float) -> None:
    found = fit_calibration(np.full(30, logit), np.repeat([1, 0], [20, 10]), "validation")
    assert found.apply(np.array([logit]))[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_takes_reals_for_fakes_is_not_turned_round(method: Method) -> None:
    logits, labels = draw_logits(200)
    found = fit_calibration(-logits, labels, "validation", method)
    assert found.slope == pytest.approx(1 / MAX_SLOPE)


def test_outlying_logits_do_not_keep_the_solver_from_the_optimum() -> None:
    logits, labels = draw_logits(400)
    logits[-1] = -1e5
    found = fit_calibration(logits, labels, "validation")
    best = judge(found.slope, found.intercept, logits, labels)
    assert best <= judge(np.geomspace(0.05, 20, 200), np.zeros(200), logits, labels).min() + 1e-6


def test_several_heads_count_alike_and_videos_are_counted_once() -> None:
    logits, labels = draw_logits(300)
    one = fit_calibration(logits, labels, "validation")
    same = fit_calibration(np.stack([logits, logits]), labels, "validation")
    other = fit_calibration(np.stack([logits, 2 * logits]), labels, "validation")
    assert same.model_dump() == pytest.approx(one.model_dump(), abs=1e-6)
    assert (other.n_fake, other.n_real) == (150, 150)
    assert one.slope / 2 < other.slope < one.slope


def test_another_prevalence_follows_bayes_rule() -> None:
    logits, labels = draw_logits(100)
    found = fit_calibration(logits, labels, "validation")
    shifted = found.shift(np.array([0.0, 0.5, 0.9, 1.0]), 0.01)
    assert shifted == pytest.approx([0.0, 0.01, 0.9 * 0.01 / (0.9 * 0.01 + 0.1 * 0.99), 1.0])
    for own in (found, found.model_copy(update={"prevalence": 0.2})):
        assert own.shift(np.array([0.3]), own.prevalence) == pytest.approx([0.3])


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, float("nan")])
def test_a_prevalence_that_is_no_share_is_refused(prevalence: float) -> None:
    logits, labels = draw_logits(100)
    with pytest.raises(UsageError, match=r"prevalence of .* between 0 and 1"):
        fit_calibration(logits, labels, "validation").shift(np.array([0.5]), prevalence)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_cannot_be_calibrated(label: int) -> None:
    with pytest.raises(UsageError, match=r"expected some of both"):
        fit_calibration(np.zeros(3), np.full(3, label), "validation")


@pytest.mark.parametrize("logits", [np.zeros(2), np.zeros((2, 2)), np.array([0.0, np.nan, 1.0])])
def test_logits_that_do_not_fit_the_labels_are_refused(logits: Floats) -> None:
    with pytest.raises(ValueError, match="expected finite logits"):
        fit_calibration(logits, np.array([0, 1, 1]), "validation")


def test_the_sigmoid_does_not_overflow() -> None:
    assert apply_sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


def test_what_serving_imports_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, train.aggregate, train.calibrate, train.config, train.thresholds; "
        "assert not {'torch', 'sklearn', 'scipy', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
