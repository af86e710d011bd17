"""The pictures: what they are drawn from, and that no name or picture can spoil them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.evaluation.pictures import measure_bins, plan_figures
from train.fit import Epoch
from train.measures.metrics import Estimate, Metrics, Predictions, measure
from train.plots import (
    Figure,
    count_flagged,
    draw_confusion,
    draw_loss,
    draw_roc,
    format_estimate,
    plot_confusion,
    plot_roc,
    render_svg,
    save_png,
    start_figure,
)
from train.thresholds import Threshold, choose_thresholds

AWKWARD = "a$x_{$b <b>&amp; \\frac .h5"
SCORED = st.lists(st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), st.booleans()), min_size=1, max_size=40)


def make_predictions(seeds: int = 1) -> Predictions:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    logits = labels + rng.normal(size=(seeds, 40))
    return Predictions(labels, logits, logits > 0.5, np.array([f"p{i // 4}" for i in range(40)]))


def make_thresholds(predictions: Predictions) -> dict[str, Threshold]:
    probs = 1 / (1 + np.exp(-predictions.logits))
    return choose_thresholds(probs, predictions.labels, predictions.groups, "validation")


def plan(seeds: int = 1, name: str = "toy.h5") -> tuple[Metrics, dict[str, Callable[[], Figure]]]:
    predictions = make_predictions(seeds)
    metrics = measure(predictions, resamples=20)
    return metrics, plan_figures(predictions, metrics, make_thresholds(predictions), "security", name)


def list_texts(figure: Figure) -> list[str]:
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    return titles + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_picture_is_a_png_whatever_the_data_is_called(tmp_path: Path) -> None:
    _, plans = plan(2, AWKWARD)
    assert list(plans) == ["scores", "roc", "pr", "thresholds", "reliability", "confusion"]
    for name, plot in plans.items():
        save_png(plot(), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG"), name


def test_the_pictures_of_a_run_are_drawn_whatever_the_data_is_called(tmp_path: Path) -> None:
    predictions = make_predictions()
    metrics = measure(predictions, resamples=20)
    draw_roc(predictions, metrics, AWKWARD, AWKWARD, tmp_path / "roc.png")
    draw_confusion(metrics, AWKWARD, tmp_path / "confusion.png")
    curve = [Epoch(number=1, train_loss=0.7), Epoch(number=2, train_loss=0.6, val_loss=0.5, val_auc=None)]
    draw_loss(curve, 2, AWKWARD, AWKWARD, tmp_path / "loss.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    _, plans = plan()
    for name in ("a.png", "b.png"):
        save_png(plans["scores"](), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert render_svg(plans["scores"](), "scores") == render_svg(plans["scores"](), "scores")


def test_two_pictures_on_one_page_share_no_id_and_name_no_address() -> None:
    _, plans = plan()
    first, second = (render_svg(plans[name](), name) for name in ("scores", "roc"))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= own
        assert "http" not in svg


def test_a_name_in_a_picture_is_escaped() -> None:
    _, plans = plan(name="<script>x</script>")
    svg = render_svg(plans["roc"](), "roc")
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg


def test_a_long_name_is_cut_and_a_short_one_is_not() -> None:
    metrics, _ = plan()
    for name, shown in (("n" * 44, "n" * 44), ("n" * 45, "n" * 43 + "…")):
        assert f"{shown}\n" in list_texts(plot_confusion(metrics, name))


def test_the_roc_has_a_curve_for_every_seed_and_ends_in_both_corners() -> None:
    predictions = make_predictions(seeds=3)
    figure = plot_roc(predictions, measure(predictions, resamples=20), "toy", "threshold")
    lines = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]
    curves = [line for line in lines if len(line) > 2]
    assert len(curves) == 3
    assert all(curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1] for curve in curves)


def test_the_confusion_matrix_shows_counts_where_they_belong() -> None:
    metrics, _ = plan()
    figure = plot_confusion(metrics, "toy")
    found = metrics.confusion
    shown = {text.get_text(): text.get_position() for text in figure.axes[0].texts if text.get_fontsize() == 24}
    places = {(0, 0): found.tn, (1, 0): found.fp, (0, 1): found.fn, (1, 1): found.tp}
    assert len(set(places.values())) == len(shown)
    for count, (x, y) in shown.items():
        assert places[round(x), round(y)] == int(count)


@given(SCORED)
def test_what_a_score_flags_is_counted_from_the_highest_down(scored: list[tuple[float, bool]]) -> None:
    scores, fake = np.array([s for s, _ in scored]), np.array([f for _, f in scored])
    hits, alarms = count_flagged(fake, scores)
    expected = [(0, 0)]
    for score in sorted(set(scores.tolist()), reverse=True):
        expected.append((int((fake & (scores >= score)).sum()), int((~fake & (scores >= score)).sum())))
    assert list(zip(hits.tolist(), alarms.tolist(), strict=True)) == expected


@given(SCORED)
def test_bins_weigh_both_classes_alike_and_count_every_video(scored: list[tuple[float, bool]]) -> None:
    logits, fake = np.array([s for s, _ in scored]), np.array([f for _, f in scored])
    mean, share, count = measure_bins(Predictions(fake.astype(int), logits, fake, np.arange(len(fake)).astype(str)))
    assert count.sum() == len(scored)
    assert ((mean >= 0) & (mean <= 1) & (share >= 0) & (share <= 1 + 1e-12)).all()
    probs = 1 / (1 + np.exp(-logits))
    for place, found in zip(sorted({min(int(p * 10), 9) for p in probs}), share, strict=True):
        inside = np.minimum((probs * 10).astype(int), 9) == place
        fakes, reals = (inside & fake).sum() / max(1, fake.sum()), (inside & ~fake).sum() / max(1, (~fake).sum())
        assert found == pytest.approx(fakes / (fakes + reals))


def test_an_estimate_is_written_with_as_much_as_it_has() -> None:
    assert format_estimate(Estimate(value=0.93, low=0.881, high=0.9724)) == "0.930 [0.881, 0.972]"
    assert format_estimate(Estimate(value=0.93, low=0.881, high=0.9724), 2) == "0.93 [0.88, 0.97]"
    assert format_estimate(Estimate(value=0.93)) == "0.930"
    assert format_estimate(Estimate(value=None)) == "undefined"


def list_labels(figure: Figure) -> list[str]:
    return [str(artist.get_label()) for axes in figure.axes for artist in axes.lines]


def test_pictures_of_folds_tell_the_saved_heads_threshold_from_the_folds_own() -> None:
    predictions = make_predictions()
    metrics = measure(predictions, resamples=20)
    given = predictions, metrics, make_thresholds(predictions), "security", "toy"
    folds, test = plan_figures(*given, "out-of-fold"), plan_figures(*given)
    assert any(label.startswith("security (saved head): decides at ") for label in list_labels(folds["scores"]()))
    assert any(label.startswith("security (folds' own): recall ") for label in list_labels(folds["roc"]()))
    assert any(text.endswith("lines: the saved head's") for text in list_texts(folds["thresholds"]()))
    assert any(label.startswith("security: decides at ") for label in list_labels(test["scores"]()))


def test_a_picture_of_one_class_is_drawn_all_the_same(tmp_path: Path) -> None:
    both = make_predictions()
    logits = both.logits[:, both.labels == 1]
    one = Predictions(np.ones(20, np.int64), logits, logits > 0, np.arange(20).astype(str))
    plans = plan_figures(one, measure(one, resamples=20), make_thresholds(both), "security", "fakes alone")
    for name, plot in plans.items():
        save_png(plot(), tmp_path / f"{name}.png")
    assert len(list(tmp_path.iterdir())) == len(plans)


def test_a_figure_has_the_size_that_was_asked_for() -> None:
    figure, _ = start_figure(3.0, 2.0)
    assert figure.get_size_inches().tolist() == [3.0, 2.0]
