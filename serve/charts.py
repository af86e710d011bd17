"""The drawings of a report as SVG: they fit any width, take the page's colours, and tell by shape what colour tells.

Lines and texts are placed in hundredths of the width, so that texts keep their size on a phone. What has many points
is one path in a square of 1000 units that is stretched, its strokes are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from serve.pictures import colour_heat
from serve.verdict import Interval, TrackScore
from serve.words import describe_scale, format_clock, format_prob

MOST_POINTS = 800  # drawn singly; beyond, the lowest and the highest of each column stand for all
COLUMNS = 400
CLOUD = 200  # points that are drawn smaller, and not above all else
LEAST_WIDTH = 0.3  # hundredths of the width, for a stretch that would not be seen
TICKS = 6
HOUR_S, WIDE_TICKS = 3600, 4  # 1:00:00 takes the room of two shorter ones
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
TOP_PX, PLOT_PX, FOOT_PX = 20, 96, 22
WORD_PX = 7.5  # of width, a letter of the words in the scale
SCALE_PX = 340  # the width of a scale on a phone

# Hatched for what is suspicious, dotted for what is uncertain; every drawing of the page refers to them.
PATTERNS = Markup(
    '<svg class="patterns" width="0" height="0" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" fill="var(--fake)" fill-opacity=".1"/>'
    '<line x1="0" y1="0" x2="0" y2="6" stroke="var(--fake)" stroke-width="1.6" stroke-opacity=".4"/></pattern>'
    '<pattern id="dots" width="5" height="5" patternUnits="userSpaceOnUse">'
    '<circle cx="1.5" cy="1.5" r=".9" fill="var(--faint)"/></pattern>'
    "</defs></svg>"
)

STRETCHED = Markup(
    '<svg class="free" y="{}" width="100%" height="{}" viewBox="0 0 1000 1000" preserveAspectRatio="none">{}</svg>'
)


@dataclass(frozen=True)
class Axis:
    """The seconds that a timeline shows, from 0."""

    end_s: float

    def place(self, time_s: float) -> float:
        """Hundredths of the width."""
        return min(max(100 * time_s / self.end_s, 0.0), 100.0)

    @property
    def step_s(self) -> float:
        """A round time from one tick to the next, long enough for a phone."""
        most = TICKS if self.end_s < HOUR_S else WIDE_TICKS
        step = next((step for step in STEPS_S if self.end_s / step <= most), STEPS_S[-1])
        return step * max(1, math.ceil(self.end_s / step / most))

    @property
    def ticks(self) -> list[float]:
        """Instants to name."""
        return [number * self.step_s for number in range(int(self.end_s / self.step_s) + 1)]


@dataclass(frozen=True)
class Level:
    """Where a verdict's threshold lies, and the band around it."""

    threshold: float
    low: float
    high: float


def draw_scale(prob: float, level: Level) -> Markup:
    """P(fake) from 0 to 1: what is called REAL, UNCERTAIN and FAKE, and where the file lies."""
    parts = [
        _box(0, 100 * level.low, 34, 20, "none"),
        _box(100 * level.low, 100 * (level.high - level.low), 34, 20, "url(#dots)"),
        _box(100 * level.high, 100 * (1 - level.high), 34, 20, "url(#hatch)"),
        _line(100 * level.threshold, 100 * level.threshold, 28, 82, "threshold"),
    ]
    edges = (0.0, level.low, level.high, 1.0)
    for word, left, right in zip(("REAL", "UNCERTAIN", "FAKE"), edges, edges[1:], strict=False):
        if (right - left) * SCALE_PX > WORD_PX * len(word) + 8:
            parts.append(_text(50 * (left + right), 48, word, "middle", "word"))
    parts += [
        _text(value * 100, 70, f"{value:g}", _anchor(value), "tick")
        for value in (0, 0.25, 0.5, 0.75, 1)
        if abs(value - level.threshold) > 0.04
    ]
    parts.append(
        _text(100 * level.threshold, 95, f"threshold {format_prob(level.threshold)}", _anchor(level.threshold))
    )
    parts.append(
        Markup('<svg x="{:.2f}%" class="free"><path class="mark" d="M0 33 l-8 -13 h16 z"/></svg>').format(100 * prob)
    )
    parts.append(_text(100 * prob, 14, f"this file {format_prob(prob)}", _anchor(prob), "own"))
    text = describe_scale(prob, level.threshold, level.low, level.high)
    return _frame(parts, 100, "scale", text)


def draw_timeline(
    track: TrackScore, axis: Axis, level: Level, exhibits: Sequence[tuple[str, float]], text: str
) -> Markup:
    """Frames as dots, clips as steps, suspicious stretches hatched, exhibits by their letters; `text` says the same."""
    bottom, threshold = TOP_PX + PLOT_PX, _height(level.threshold)
    parts = [
        _box(0, 100, _height(level.high), _height(level.low) - _height(level.high), "url(#dots)", "band"),
        *_draw_stretches(track, axis),
        *_draw_grid(axis, bottom),
        STRETCHED.format(TOP_PX, PLOT_PX, Markup("").join(_draw_scores(track, axis))),
        _line(0, 100, threshold, threshold, "threshold"),
    ]
    for letter, time_s in exhibits:
        parts.append(_line(axis.place(time_s), axis.place(time_s), TOP_PX - 3, bottom, "exhibit"))
        parts.append(_text(axis.place(time_s), TOP_PX - 7, letter, "middle", "own"))
    return _frame(parts, bottom + FOOT_PX, "timeline", text)


def draw_legend(steps: int = 24) -> Markup:
    """The colours of a heat map, from nothing to the most."""
    width = 100 / steps
    bars = [
        Markup('<rect x="{:.2f}%" y="0" width="{:.2f}%" height="10" fill="rgb({},{},{})"/>').format(
            number * width, width + 0.1, *(int(v) for v in colour)
        )
        for number, colour in enumerate(colour_heat(np.linspace(0, 1, steps)))
    ]
    return _frame(bars, 10, "legend", "from white, no drop, to dark, the largest drop")


def _draw_stretches(track: TrackScore, axis: Axis) -> list[Markup]:
    joined = _join_near(track.intervals, axis.end_s / COLUMNS)
    ends = [(axis.place(start_s), axis.place(end_s)) for start_s, end_s in joined]
    return [_box(left, max(LEAST_WIDTH, right - left), TOP_PX, PLOT_PX, "url(#hatch)") for left, right in ends]


def _draw_grid(axis: Axis, bottom: int) -> list[Markup]:
    parts = []
    for value in (0, 0.5, 1):
        parts.append(_line(0, 100, _height(value), _height(value), "grid"))
        label = Markup('<text x="-6" y="{:g}" text-anchor="end" class="tick">{:g}</text>')
        parts.append(label.format(_height(value) + 4, value))
    for time_s in axis.ticks:
        place = axis.place(time_s)
        parts.append(_line(place, place, bottom, bottom + 4, "grid"))
        parts.append(_text(place, bottom + 17, format_clock(time_s, axis.step_s < 1), _anchor(place / 100), "tick"))
    return parts


def _draw_scores(track: TrackScore, axis: Axis) -> list[Markup]:
    """Frames over clips; where the frames are many, a cloud under them."""
    clips = [
        _path(_draw_steps(track, axis, counted=counted), kind)
        for counted, kind in ((True, "clip"), (False, "clip beside"))
    ]
    many = sum(1 for _ in track.frames) > CLOUD
    frames = _path(_draw_frames(track, axis), "frames many" if many else "frames")
    return [frames, *clips] if many else [*clips, frames]


def _draw_frames(track: TrackScore, axis: Axis) -> str:
    points = np.array([(10 * axis.place(frame.time_s), 1000 * (1 - frame.p_fake)) for frame in track.frames])
    if len(points) <= MOST_POINTS:
        return "".join(f"M{x:.1f} {y:.0f}h0" for x, y in points.tolist())  # a round cap makes a dot of it
    return "".join(f"M{x:.1f} {low:.0f}V{high:.0f}" for x, low, high in _thin(points))


def _draw_steps(track: TrackScore, axis: Axis, *, counted: bool) -> str:
    clips = [clip for clip in track.clips if clip.counted == counted]
    if len(clips) <= MOST_POINTS:
        return "".join(
            f"M{10 * axis.place(clip.start_s):.1f} {1000 * (1 - clip.p_fake):.0f}H{10 * axis.place(clip.end_s):.1f}"
            for clip in clips
        )
    middles = np.array([(5 * (axis.place(c.start_s) + axis.place(c.end_s)), 1000 * (1 - c.p_fake)) for c in clips])
    half = 500 / COLUMNS
    return "".join(
        f"M{x - half:.1f} {y:.0f}H{x + half:.1f}" for x, low, high in _thin(middles) for y in sorted({low, high})
    )


def _thin(points: NDArray[np.float64]) -> Iterable[tuple[float, float, float]]:
    """For each column of the width that holds any of the points (n, 2): its middle, and the ends of what it holds."""
    columns = np.minimum(points[:, 0] * COLUMNS / 1000, COLUMNS - 1).astype(np.int64)
    for column in np.unique(columns).tolist():
        held = points[columns == column, 1]
        yield (column + 0.5) * 1000 / COLUMNS, float(held.min()), float(held.max())


def _join_near(intervals: Sequence[Interval], gap_s: float) -> list[tuple[float, float]]:
    """Stretches whose gap nobody could see are one."""
    joined: list[tuple[float, float]] = []
    for interval in intervals:
        if joined and interval.start_s - joined[-1][1] <= gap_s:
            joined[-1] = joined[-1][0], max(joined[-1][1], interval.end_s)
        else:
            joined.append((interval.start_s, interval.end_s))
    return joined


def _height(prob: float) -> float:
    return round(TOP_PX + PLOT_PX * (1 - prob), 1)


def _anchor(share: float) -> str:
    """How a text stands at a share of the width, so that it stays inside."""
    return "start" if share < 0.15 else "end" if share > 0.85 else "middle"


def _frame(parts: Iterable[Markup], height: int, kind: str, text: str) -> Markup:
    body = Markup("").join(parts)
    return Markup('<svg class="{}" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        kind, text, height, body
    )


def _box(left: float, width: float, top: float, height: float, fill: str, kind: str = "part") -> Markup:
    return Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" y="{:g}" height="{:g}" fill="{}"/>').format(
        kind, left, max(width, 0), top, max(height, 0), fill
    )


def _line(left: float, right: float, top: float, bottom: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="{:g}" y2="{:g}"/>').format(
        kind, left, right, top, bottom
    )


def _text(left: float, base: float, text: str, anchor: str, kind: str = "label") -> Markup:
    return Markup('<text class="{}" x="{:.2f}%" y="{:g}" text-anchor="{}">{}</text>').format(
        kind, left, base, anchor, text
    )


def _path(commands: str, kind: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(kind, commands) if commands else Markup("")
