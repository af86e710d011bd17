"""Boxes of successive frames linked into tracks: who is who, and which face is the main one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.boxes import compute_iou
from extract.specs import TrackSpec


@dataclass(frozen=True)
class _LastSeen:
    time_s: float
    box: NDArray[np.float32]


class Tracker:
    """Gives each box the number of its track, frame after frame; numbers hold for the whole video."""

    def __init__(self, spec: TrackSpec, step_s: float) -> None:
        """`step_s` is the time between sampled frames: a face may be missed in two of them in a row."""
        self._spec = spec
        self._max_gap_s = max(spec.max_gap_s, 3.01 * step_s)
        self._tracks: dict[int, _LastSeen] = {}
        self._next = 0

    def link(self, time_s: float, boxes: NDArray[np.float32]) -> list[int]:
        """Track numbers of a frame's boxes (n, 4); the pairs that overlap most are joined first."""
        self._tracks = {k: seen for k, seen in self._tracks.items() if time_s - seen.time_s <= self._max_gap_s}
        known = list(self._tracks)
        numbers = [-1] * len(boxes)
        if known and len(boxes):
            overlap = compute_iou(boxes, np.stack([self._tracks[k].box for k in known]))
            for flat in np.argsort(-overlap, axis=None, kind="stable"):
                i, j = divmod(int(flat), len(known))
                if overlap[i, j] < self._spec.min_iou:
                    break
                if numbers[i] < 0 and known[j] not in numbers:
                    numbers[i] = known[j]
        for i, box in enumerate(boxes):
            if numbers[i] < 0:
                numbers[i], self._next = self._next, self._next + 1
            self._tracks[numbers[i]] = _LastSeen(time_s, box)
        return numbers


def choose_main(tracks: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> int:
    """The track of greatest size x length x confidence, from {number: (boxes (n, 4), scores (n,))}."""

    def weigh(number: int) -> float:
        boxes, scores = tracks[number]
        size_px = np.max(boxes[:, 2:] - boxes[:, :2], axis=1).mean()
        return float(size_px * len(boxes) * scores.mean())

    return max(tracks, key=lambda number: (weigh(number), -number))
