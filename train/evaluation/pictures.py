"""Pictures of an evaluation: precision and recall, reliability, scores by class, and what each threshold would give.

Of several seeds every curve is drawn, and counts are means over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train.calibrate import apply_sigmoid
from train.measures.metrics import Metrics, Predictions
from train.measures.tallies import BINS as ECE_BINS
from train.plots import (
    BLUE,
    DASHED,
    GREY,
    INK,
    ORANGE,
    PALE,
    SIZE,
    add_legend,
    count_flagged,
    format_estimate,
    mark_point,
    plot_confusion,
    plot_roc,
    set_title,
    start_figure,
)
from train.thresholds import Threshold

if TYPE_CHECKING:
    from train.evaluation.judged import Kind
    from train.plots import Figure

BINS = 10  # of probabilities, in reliability
BARS = 20  # of probabilities, in the histogram
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2}  # for a legend


def plan_figures(
    predictions: Predictions,
    metrics: Metrics,
    thresholds: Mapping[str, Threshold],
    preset: str,
    data_name: str,
    kind: Kind = "test",
) -> dict[str, Callable[[], Figure]]:
    """Every picture by the name of its file, in the order in which they are shown; each is drawn when it is called.

    Out of folds, `thresholds` are those of the saved head and `metrics` come from the folds' own.
    """
    own, folds = thresholds[preset], kind == "out-of-fold"
    line, point = (f"{preset} (saved head)", f"{preset} (folds' own)") if folds else (preset, preset)
    return {
        "scores": lambda: plot_scores(predictions, own, line, data_name),
        "roc": lambda: plot_roc(predictions, metrics, data_name, point),
        "pr": lambda: plot_pr(predictions, metrics, point, data_name),
        "thresholds": lambda: plot_thresholds(predictions, thresholds, data_name, folds),
        "reliability": lambda: plot_reliability(predictions, metrics, data_name),
        "confusion": lambda: plot_confusion(metrics, f"{data_name}, {point}"),
    }


def plot_pr(predictions: Predictions, metrics: Metrics, preset: str, data_name: str) -> Figure:
    """Precision against recall at the data's own share of fakes, with the point at which the run decides."""
    figure, axes = start_figure(*SIZE)
    fake = predictions.labels == 1
    share = float(fake.mean())
    axes.axhline(share, color=GREY, linewidth=1, linestyle=DASHED, label=f"chance: {share:.0%} are fake")
    for number, logits in enumerate(np.atleast_2d(predictions.logits)):
        hits, alarms = (counts[1:] for counts in count_flagged(fake, logits))
        recall, precision = hits / max(1, hits[-1]), hits / (hits + alarms)
        label = "_" if number else "this head" if metrics.seeds == 1 else f"{metrics.seeds} heads, one a seed"
        axes.plot(recall, precision, color=BLUE, linewidth=2 if metrics.seeds == 1 else 1, label=label, clip_on=False)
    if metrics.recall.value is not None and metrics.precision.value is not None:
        place = f"{preset}: recall {metrics.recall.value:.2f}, precision {metrics.precision.value:.2f}"
        mark_point(axes, metrics.recall.value, metrics.precision.value, place)
    axes.set(xlim=(0, 1), ylim=(0, 1.0), aspect="equal")
    axes.set_xlabel("recall (fake videos flagged)")
    axes.set_ylabel("precision (flagged videos that are fake)")
    axes.grid(color=PALE, linewidth=0.8)
    add_legend(axes, loc="lower left")
    set_title(axes, data_name, f"average precision {format_estimate(metrics.ap)}")
    return figure


def plot_scores(predictions: Predictions, threshold: Threshold, preset: str, data_name: str) -> Figure:
    """How many videos of each class have which P(fake), with the threshold and the band in which none is decided."""
    figure, axes = start_figure(*SIZE)
    logits = np.atleast_2d(predictions.logits)
    probs, fake = apply_sigmoid(logits), np.broadcast_to(predictions.labels == 1, logits.shape)
    edges = np.linspace(0, 1, BARS + 1)
    real_count, fake_count = (np.histogram(probs[fake == which], edges)[0] / len(logits) for which in (False, True))
    if threshold.high > threshold.low:
        band = f"UNCERTAIN: {threshold.low:.2f} to {threshold.high:.2f}"
        axes.axvspan(threshold.low, threshold.high, color=GREY, alpha=0.25, linewidth=0, label=band)
    axes.stairs(real_count, edges, color=BLUE, linewidth=2, label="real videos", zorder=3)
    fakes: dict[str, Any] = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 1}
    axes.bar(edges[:-1], fake_count, width=1 / BARS, align="edge", label="fake videos", **fakes)
    axes.axvline(threshold.value, color=INK, linewidth=1.5, label=f"{preset}: decides at {threshold.value:.2f}")
    axes.set(xlim=(0, 1))
    axes.set_xlabel("P(fake), at even odds")
    axes.set_ylabel("videos")
    add_legend(axes, **{**BELOW, "ncols": 1})  # its labels are long
    set_title(axes, data_name, _count_classes(predictions))
    return figure


def plot_thresholds(
    predictions: Predictions, thresholds: Mapping[str, Threshold], data_name: str, folds: bool = False
) -> Figure:
    """Recall and FPR at every threshold there could be, with those of the run; in `folds` others decided."""
    figure, axes = start_figure(*SIZE)
    fake = predictions.labels == 1
    grid = np.linspace(0, 1, 401)
    for rows, style, name in ((fake, "-", "recall (fakes flagged)"), (~fake, "--", "FPR (reals flagged)")):
        if rows.any():
            colour = BLUE if style == "-" else ORANGE
            axes.plot(grid, _share_above(predictions, rows, grid), style, color=colour, linewidth=2, label=name)
    ranked = sorted(thresholds.items(), key=lambda item: item[1].value)
    for place, (name, threshold) in enumerate(ranked):
        axes.axvline(threshold.value, color=INK, linewidth=1, linestyle=":")
        height = 0.97 - 0.08 * (place % 4)
        right = threshold.value > 0.75
        text: dict[str, Any] = {"color": INK, "fontsize": 8, "parse_math": False, "ha": "right" if right else "left"}
        axes.text(threshold.value + (-0.008 if right else 0.008), height, f"{name} {threshold.value:.2f}", **text)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel("threshold on P(fake)")
    axes.set_ylabel("share of the class that is flagged")
    axes.grid(color=PALE, linewidth=0.8)
    add_legend(axes, **BELOW)
    set_title(axes, data_name, _count_classes(predictions) + (" · lines: the saved head's" if folds else ""))
    return figure


def plot_reliability(predictions: Predictions, metrics: Metrics, data_name: str) -> Figure:
    """Share of fakes against P(fake) with both classes weighing alike, and how many videos each point stands for."""
    figure, axes = start_figure(*SIZE)
    mean, share, count = measure_bins(predictions)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHED, label="calibrated")
    axes.plot(mean, share, "o-", color=BLUE, linewidth=1.5, markersize=6, label="videos, in ten bins", clip_on=False)
    for x, y, number in zip(mean, share, count, strict=True):
        low = y > 0.5
        text: dict[str, Any] = {"color": INK, "fontsize": 8, "ha": "center", "va": "top" if low else "bottom"}
        axes.annotate(f"{number:.0f}", (x, y), (0, -9 if low else 9), textcoords="offset points", **text)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("P(fake) said")
    axes.set_ylabel("share of fakes found, classes weighing alike")
    axes.grid(color=PALE, linewidth=0.8)
    add_legend(axes, loc="upper left")
    set_title(axes, data_name, f"ECE {format_estimate(metrics.ece)} by {ECE_BINS} bins · numbers: videos")
    return figure


def measure_bins(
    predictions: Predictions,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean P(fake), share of fakes (classes weighing alike) and number of videos of each bin that is not empty."""
    logits = np.atleast_2d(predictions.logits)
    probs = apply_sigmoid(logits).ravel()
    fake = np.broadcast_to(predictions.labels == 1, logits.shape).ravel()
    place = np.minimum((probs * BINS).astype(np.int64), BINS - 1)
    weight = np.where(fake, 1 / max(1, int(fake.sum())), 1 / max(1, int((~fake).sum())))
    count, mass, of_fakes, of_probs = (
        np.bincount(place, values, BINS) for values in (np.ones(len(place)), weight, weight * fake, weight * probs)
    )
    filled = count > 0
    return (
        (of_probs / np.maximum(mass, 1e-300))[filled],
        (of_fakes / np.maximum(mass, 1e-300))[filled],
        (count[filled] / len(logits)),
    )


def _share_above(predictions: Predictions, rows: NDArray[np.bool_], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    probs = np.sort(apply_sigmoid(np.atleast_2d(predictions.logits)[:, rows]).ravel())
    return 1 - np.searchsorted(probs, grid, "left") / len(probs)


def _count_classes(predictions: Predictions) -> str:
    fakes = int(predictions.labels.sum())
    return f"{len(predictions.labels) - fakes} real and {fakes} fake videos"
