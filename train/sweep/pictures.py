"""Pictures of a sweep: its trials in time, and what mattered among the choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.plots import BLUE, GREY, ORANGE, PALE, add_legend, save_png, set_title, start_figure
from train.sweep.study import Trial


def draw_history(trials: Sequence[Trial], name: str, path: Path) -> None:
    """The value of each trial in the order they were begun, and the best complete one so far."""
    figure, axes = start_figure(7.0, 4.2)
    ordered = sorted(trials, key=lambda trial: trial.number)
    marks: dict[str, dict[str, Any]] = {
        "complete": {"marker": "o", "color": BLUE},
        "pruned": {"marker": "x", "color": GREY},
    }
    for state, mark in marks.items():
        shown = [(t.number, t.value) for t in ordered if t.state == state and t.value is not None]
        axes.plot(*_transpose(shown), linestyle="none", markersize=5, label=f"{state}: {len(shown)}", **mark)
    axes.plot(*_transpose(_trace_best(ordered)), color=ORANGE, linewidth=2, drawstyle="steps-post", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("validation video AUC, smoothed")
    axes.grid(color=PALE, linewidth=0.8)
    add_legend(axes, loc="lower right")
    set_title(axes, name, "the best of many is flattering: each was valued on the same validation videos")
    save_png(figure, path)


def draw_importances(shares: Mapping[str, float], name: str, path: Path) -> None:
    """How much each choice decided which trials were among the best tenth."""
    figure, axes = start_figure(6.4, 1.4 + 0.36 * len(shares))
    names = list(shares)[::-1]
    bars = axes.barh([each.replace("_", " ") for each in names], [shares[each] for each in names], color=BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlim(0, 1.08 * max(shares.values()))
    axes.set_xlabel("share of importance (PED-ANOVA)")
    set_title(axes, name, "which choices set the best tenth of all trials apart")
    save_png(figure, path)


def _trace_best(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    best: list[tuple[int, float]] = []
    for trial in trials:
        if trial.state == "complete" and trial.value is not None:
            best.append((trial.number, max(trial.value, best[-1][1] if best else trial.value)))
    return best


def _transpose(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
