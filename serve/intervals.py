"""Where a face looks fake: stretches of its frames above the threshold, single frames smoothed away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve.verdict import FrameScore, Interval

SMOOTHED = 3  # frames whose median stands for the middle one
FEWEST_FRAMES = 2


def find_intervals(frames: Sequence[FrameScore], threshold: float) -> tuple[Interval, ...]:
    """The stretches in which the median of each frame and its neighbours is at least `threshold`, in order."""
    if len(frames) < FEWEST_FRAMES:
        return ()
    probs = np.array([frame.p_fake for frame in frames])
    padded = np.pad(probs, SMOOTHED // 2, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), axis=1)
    above = np.concatenate([[False], smooth >= threshold, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)  # first, and one past the last
    return tuple(
        Interval(frames[first].time_s, frames[stop - 1].time_s, float(probs[first:stop].max()))
        for first, stop in edges.tolist()
        if stop - first >= FEWEST_FRAMES
    )
