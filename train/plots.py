"""Pictures of a run: ROC curve, confusion matrix, loss; and the look that all pictures share.

Nothing is told by colour alone, and text is never read as mathematics: it holds names of files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from train.fit import Epoch
from train.measures.metrics import Metrics, Predictions, format_estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUE", "DASHED", "GREY", "INK", "ORANGE", "PALE", "PAPER", "SIZE", "Figure", "add_legend", "count_flagged",
    "draw_confusion", "draw_loss", "draw_roc", "format_estimate", "mark_point", "plot_confusion", "plot_roc",
    "render_svg", "save_png", "set_title", "start_figure",
]  # fmt: skip

# Each is used for one thing, so that a page may put its own colours in their place.
INK, BLUE, ORANGE, GREY, PALE, PAPER = "#1f2933", "#2166ac", "#d6604d", "#9aa5b1", "#e4e7eb", "#ffffff"
DASHED = (0, (4, 4))
SIZE = (4.6, 4.5)  # inches of a picture with one panel
LONGEST_TITLE = 44
SVG_METADATA = ("Creator", "Date", "Format", "Type")
ID = re.compile(r' id="|url\(#|href="#')
NAMESPACE = re.compile(r' xmlns(:\w+)?="[^"]*"')


def draw_roc(predictions: Predictions, metrics: Metrics, data_name: str, point_name: str, path: Path) -> None:
    """The ROC curve over videos, with the point at which the run decides (`point_name` says by which threshold)."""
    save_png(plot_roc(predictions, metrics, data_name, point_name), path)


def plot_roc(predictions: Predictions, metrics: Metrics, data_name: str, point_name: str) -> Figure:
    """The same as a figure: one curve a seed."""
    figure, axes = start_figure(*SIZE)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHED, label="chance")
    for number, logits in enumerate(np.atleast_2d(predictions.logits)):
        fpr, tpr = _trace_roc(predictions.labels == 1, logits)
        label = "_" if number else "this head" if metrics.seeds == 1 else f"{metrics.seeds} heads, one a seed"
        axes.plot(fpr, tpr, color=BLUE, linewidth=2 if metrics.seeds == 1 else 1, label=label, clip_on=False, zorder=3)
    if metrics.fpr.value is not None and metrics.recall.value is not None:
        place = f"{point_name}: recall {metrics.recall.value:.2f}, FPR {metrics.fpr.value:.2f}"
        mark_point(axes, metrics.fpr.value, metrics.recall.value, place)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("false-positive rate (real videos flagged)")
    axes.set_ylabel("recall (fake videos flagged)")
    axes.grid(color=PALE, linewidth=0.8)
    add_legend(axes, loc="lower right")
    set_title(axes, data_name, f"{_count(metrics)} · video AUC {format_estimate(metrics.auc)}")
    return figure


def draw_confusion(metrics: Metrics, data_name: str, path: Path) -> None:
    """The confusion matrix at the run's threshold: counts, and shares of each true class."""
    save_png(plot_confusion(metrics, data_name), path)


def plot_confusion(metrics: Metrics, data_name: str) -> Figure:
    """The same as a figure; of several seeds it shows the first."""
    figure, axes = start_figure(*SIZE)
    found = metrics.confusion
    counts = np.array([[found.tn, found.fp], [found.fn, found.tp]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(2, 2):
        # Drawn as rectangles: an image would be a bitmap within a picture that is not one.
        box = (column - 0.48, row - 0.48), 0.96, 0.96
        axes.add_patch(Rectangle(*box, facecolor=BLUE, alpha=0.08 + 0.42 * shares[row, column], edgecolor="none"))
        axes.text(column, row - 0.06, f"{counts[row, column]}", ha="center", va="center", fontsize=24, color=INK)
        axes.text(column, row + 0.17, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=11, color=INK)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    axes.set_xticks([0, 1], ["called real", "called fake"])
    axes.set_yticks([0, 1], ["real", "fake"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    which = "first seed" if metrics.seeds > 1 else _count(metrics)
    subtitle = f"{which} · balanced accuracy {format_estimate(metrics.balanced_accuracy)}"
    set_title(axes, data_name, subtitle)
    return figure


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
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=DASHED, label=f"kept: epoch {best_epoch}")
        axes.grid(color=PALE, linewidth=0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _dress(axes)
    add_legend(panels[0])
    panels[-1].set_xlabel("epoch")
    set_title(panels[0], data_name, f"{count}, {len(curve)} epochs")
    save_png(figure, path)


def start_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure (in inches) with one panel."""
    figure = _make_figure(width, height)
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def mark_point(axes: Axes, x: float, y: float, label: str) -> None:
    """One point that the legend explains."""
    axes.plot(x, y, "o", label=label, color=ORANGE, markersize=8, clip_on=False, zorder=4)


def add_legend(axes: Axes, **place: Any) -> None:
    """A legend whose texts are plain."""
    legend = axes.legend(frameon=False, fontsize=9, labelcolor=INK, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


def set_title(axes: Axes, title: str, subtitle: str) -> None:
    """A title and, smaller, what has to be known beside it."""
    shown = title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1]}…"
    axes.set_title(f"{shown}\n", loc="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    said = axes.text(0, 1.025, subtitle, transform=axes.transAxes, fontsize=8.5, color=INK, parse_math=False)
    said.set_in_layout(False)  # a long one would narrow the panel


def save_png(figure: Figure, path: Path) -> None:
    """Writes a figure; the same figure gives the same bytes."""
    figure.savefig(path, format="png", metadata={"Software": None})


def render_svg(figure: Figure, name: str) -> str:
    """A figure as SVG to be put into a page; `name` begins all its ids, which a page may hold once alone."""
    written = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    text = written.getvalue()
    text = NAMESPACE.sub("", text[text.index("<svg") :])  # a page needs none, and names no address then
    return ID.sub(rf"\g<0>{name}-", text)


def _trace_roc(fake: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(FPR, recall) at every distinct score, from (0, 0) to (1, 1)."""
    hits, alarms = count_flagged(fake, scores)
    return alarms / max(1, int((~fake).sum())), hits / max(1, int(fake.sum()))


def count_flagged(fake: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many fakes and reals score at least each distinct score, the highest first; begins with none of either."""
    order = np.argsort(-scores, kind="stable")
    scores, fake = scores[order], fake[order]
    last = np.append(np.flatnonzero(np.diff(scores) != 0), len(scores) - 1)  # where each distinct score ends
    return np.append(0, np.cumsum(fake)[last]), np.append(0, np.cumsum(~fake)[last])


def _count(metrics: Metrics) -> str:
    return f"{metrics.n_videos} videos, {metrics.n_fake} fake"


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(color=INK, labelcolor=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def _make_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
