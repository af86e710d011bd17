"""Where a face looks fake: stretches of its frames above the threshold, single frames smoothed away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from serve.verdict import FrameScore, Interval

SMOOTHED = 3  # frames whose median stands for the middle one
FEWEST_FRAMES = 2
LONGEST_GAP = 3.0  # in usual steps between frames; the tracker bridges as much


def find_intervals(frames: Sequence[FrameScore], threshold: float) -> tuple[Interval, ...]:
    """The stretches in which the median of each frame and its neighbours is at least `threshold`, in order.

    None goes on over a time in which the face was not seen.
    """
    times = np.array([frame.time_s for frame in frames])
    if len(times) < FEWEST_FRAMES:
        return ()
    steps = np.diff(times)
    gaps = np.flatnonzero(steps > LONGEST_GAP * np.median(steps)) + 1
    parts = [frames[first:stop] for first, stop in pairwise([0, *gaps.tolist(), len(frames)])]
    return tuple(interval for part in parts for interval in _find(part, threshold))


def _find(frames: Sequence[FrameScore], threshold: float) -> Iterator[Interval]:
    probs = np.array([frame.p_fake for frame in frames])
    padded = np.pad(probs, SMOOTHED // 2, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), axis=1)
    above = np.concatenate([[False], smooth >= threshold, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)  # first, and one past the last
    for first, stop in edges.tolist():
        if stop - first >= FEWEST_FRAMES:
            yield Interval(frames[first].time_s, frames[stop - 1].time_s, float(probs[first:stop].max()))
