"""Boxes of successive frames linked into tracks: who is who, and which faces are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.boxes import pair_boxes
from extract.specs import TrackSpec


@dataclass(frozen=True)
class _LastSeen:
    time_s: float
    shot: int
    box: NDArray[np.float32]


class Tracker:
    """Gives each box the number of its track, frame after frame; numbers hold for the whole video."""

    def __init__(self, spec: TrackSpec, step_s: float) -> None:
        """`step_s` is the time between sampled frames: a face may be missed in two of them in a row."""
        self._spec = spec
        self._max_gap_s = max(spec.max_gap_s, 3.01 * step_s)
        self._tracks: dict[int, _LastSeen] = {}
        self._next = 0

    def link(self, time_s: float, boxes: NDArray[np.float32], shot: int = 0) -> list[int]:
        """Track numbers of a frame's boxes (n, 4); no track goes on in another shot."""
        self._tracks = {k: seen for k, seen in self._tracks.items() if time_s - seen.time_s <= self._max_gap_s}
        known = [k for k, seen in self._tracks.items() if seen.shot == shot]
        pairs = {}
        if known and len(boxes):
            pairs = pair_boxes(boxes, np.stack([self._tracks[k].box for k in known]), self._spec.min_iou)
        numbers = []
        for i, box in enumerate(boxes):
            if i in pairs:
                number = known[pairs[i]]
            else:
                number, self._next = self._next, self._next + 1
            self._tracks[number] = _LastSeen(time_s, shot, box)
            numbers.append(number)
        return numbers


def choose_tracks(
    tracks: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]], spec: TrackSpec, min_frames: int
) -> list[int]:
    """The tracks of a clip that are kept, ascending, from {number: (boxes (n, 4), scores (n,))}.

    The main face is chosen before its frames are counted: a face in the background does not replace it.
    """
    candidates = sorted(tracks) if spec.keep == "all" or not tracks else [choose_main(tracks)]
    return [number for number in candidates if len(tracks[number][0]) >= min_frames]


def choose_main(tracks: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> int:
    """The track of greatest size x length x confidence, from {number: (boxes (n, 4), scores (n,))}."""

    def weigh(number: int) -> float:
        boxes, scores = tracks[number]
        size_px = np.max(boxes[:, 2:] - boxes[:, :2], axis=1).mean()
        return float(size_px * len(boxes) * scores.mean())

    return max(tracks, key=lambda number: (weigh(number), -number))
