"""Pictures of a run as PNG files: ROC curve, confusion matrix, loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.fit import Epoch
from train.metrics import Estimate, Metrics, Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, BLUE, ORANGE, GREY = "#1f2933", "#2166ac", "#d6604d", "#9aa5b1"


def draw_roc(predictions: Predictions, metrics: Metrics, data_name: str, point_name: str, path: Path) -> None:
    """The ROC curve over videos, with the point at which the run decides (`point_name` says by which threshold)."""
    figure, axes = _start_figure(5.2, 5.4)
    fpr, tpr = _trace_roc(predictions)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 4)), label="chance")
    axes.plot(fpr, tpr, color=BLUE, linewidth=2, label="this head", clip_on=False, zorder=3)
    if metrics.fpr.value is not None and metrics.recall.value is not None:
        place = f"{point_name}: recall {metrics.recall.value:.2f}, FPR {metrics.fpr.value:.2f}"
        point: dict[str, Any] = {"color": ORANGE, "markersize": 8, "clip_on": False, "zorder": 4}
        axes.plot(metrics.fpr.value, metrics.recall.value, "o", label=place, **point)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("false-positive rate (real videos flagged)")
    axes.set_ylabel("recall (fake videos flagged)")
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.legend(loc="lower right", frameon=False)
    _set_title(axes, data_name, f"{_count(metrics)} · video AUC {format_estimate(metrics.auc)}")
    _save(figure, path)


def draw_confusion(metrics: Metrics, data_name: str, path: Path) -> None:
    """The confusion matrix at the run's threshold: counts, and shares of each true class."""
    figure, axes = _start_figure(5.2, 5.0)
    found = metrics.confusion
    counts = np.array([[found.tn, found.fp], [found.fn, found.tp]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        colour = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row - 0.06, f"{counts[row, column]}", ha="center", va="center", fontsize=24, color=colour)
        axes.text(column, row + 0.17, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=11, color=colour)
    axes.set_xticks([0, 1], ["called real", "called fake"])
    axes.set_yticks([0, 1], ["real", "fake"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.axhline(0.5, color="white", linewidth=3)
    axes.axvline(0.5, color="white", linewidth=3)
    _set_title(axes, data_name, f"{_count(metrics)} · balanced accuracy {format_estimate(metrics.balanced_accuracy)}")
    _save(figure, path)


def draw_loss(curve: Sequence[Epoch], best_epoch: int, data_name: str, count: str, path: Path) -> None:
    """Loss of each epoch and, where there was validation, its AUC below."""
    numbers = [epoch.number for epoch in curve]
    validated = all(epoch.val_loss is not None for epoch in curve)
    figure = _make_figure(6.4, 5.4 if validated else 3.8)
    panels = figure.subplots(2 if validated else 1, 1, sharex=True, squeeze=False)[:, 0]
    panels[0].plot(numbers, [epoch.train_loss for epoch in curve], color=BLUE, linewidth=2, label="training, a clip")
    panels[0].set_ylabel("loss (nats)")
    if validated:
        losses = [epoch.val_loss or 0.0 for epoch in curve]
        panels[0].plot(numbers, losses, color=ORANGE, linewidth=2, label="validation, a video")
        aucs = [epoch.val_auc if epoch.val_auc is not None else np.nan for epoch in curve]
        panels[1].plot(numbers, aucs, color=ORANGE, linewidth=2)
        panels[1].set_ylabel("validation video AUC")
    for axes in panels:
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=(0, (4, 4)), label=f"kept: epoch {best_epoch}")
        axes.grid(color="#e4e7eb", linewidth=0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    panels[-1].set_xlabel("epoch")
    _set_title(panels[0], data_name, f"{count}, {len(curve)} epochs")
    _save(figure, path)


def format_estimate(estimate: Estimate) -> str:
    """`0.93 [0.88, 0.97]`, without the interval where there is none, `undefined` without a value."""
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _trace_roc(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(FPR, recall) at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-predictions.scores, kind="stable")
    scores, fake = predictions.scores[order], predictions.labels[order] == 1
    last = np.append(np.flatnonzero(np.diff(scores) != 0), len(scores) - 1)  # where each distinct score ends
    hits, alarms = np.cumsum(fake)[last], np.cumsum(~fake)[last]
    return (
        np.concatenate([[0.0], alarms / max(1, int((~fake).sum()))]),
        np.concatenate([[0.0], hits / max(1, int(fake.sum()))]),
    )


def _count(metrics: Metrics) -> str:
    return f"{metrics.n_videos} videos, {metrics.n_fake} fake"


def _make_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _start_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _make_figure(width, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _set_title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, fontsize=9, color=INK)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})
