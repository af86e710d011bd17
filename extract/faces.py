"""The faces of sampled frames: found by the detector, or placed between two frames where nothing stirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import cv2
import numpy as np
from numpy.typing import NDArray

from extract.boxes import pair_boxes
from extract.crops import cut_crop
from extract.cuts import ShotCounter
from extract.detectors import Detections, Detector
from extract.specs import CropSpec, TrackSpec
from extract.video import Frame

MOST_BATCH_BYTES = 128 << 20
MOST_BATCH_FRAMES = 8
VIEW = CropSpec(scale=1.0, size_px=32)


@dataclass(frozen=True)
class SeenFrame:
    """A frame with its faces and the number of its shot."""

    frame: Frame
    shot: int
    faces: Detections


@dataclass(frozen=True)
class Anchor:
    """What is remembered of a frame that was detected, to place the faces of its neighbours."""

    time_s: float
    shot: int
    faces: Detections
    views: list[NDArray[np.float64]]  # a small picture of each face


class FaceFinder:
    """Finds the faces of successive frames with a detector that others may use at the same time.

    Every second frame is detected. The faces of one between two of these are interpolated if both show the same ones
    and its picture confirms it; else it is detected too. What is found does not depend on how frames are batched.

    Measured on 61 clips of talking faces, sampled every 0.09 to 0.3 s, with RetinaFace-MobileNet: at the default
    limits 27 % of the detections are saved, and no face is lost. Interpolated boxes overlap those that detection would
    have found by 0.98 (median; 1st percentile 0.93, least 0.90); the crop moves by 0.9 of its 224 px (median; 99th
    percentile 4.0). Shifting the frame by 1 px moves the detector's own by 0.3 px (2.4), with overlaps of 0.99 (0.945,
    0.92). Without the pictures' confirmation, as many would be saved at a 1st percentile of 0.88, and at worst 0.81.
    """

    def __init__(self, detector: Detector, spec: TrackSpec) -> None:
        self._detector = detector
        self._spec = spec
        self._leaves_out = spec.interpolate_iou is not None
        self._shots = ShotCounter(spec)

    def find(self, frames: Iterable[Frame]) -> Iterator[SeenFrame]:
        """The frames of one clip with their faces; a few of them are in memory at a time."""
        for _, alike in groupby(frames, key=lambda frame: frame.rgb.shape):
            before: Anchor | None = None
            for window in _take_windows(alike):
                shots = [self._shots.count(frame.rgb) for frame in window]
                anchors = self._detect(
                    window, shots, range(1, len(window), 2) if self._leaves_out else range(len(window))
                )
                placed = self._place_between(window, shots, before, anchors) if self._leaves_out else {}
                rest = self._detect(window, shots, [i for i in range(len(window)) if i not in anchors | placed])
                found = {i: anchor.faces for i, anchor in (anchors | rest).items()} | placed
                before = anchors.get(len(window) - 1)
                yield from (SeenFrame(frame, shots[i], found[i]) for i, frame in enumerate(window))

    def _detect(self, window: Sequence[Frame], shots: Sequence[int], chosen: Sequence[int]) -> dict[int, Anchor]:
        if not chosen:
            return {}
        found = self._detector.detect(np.stack([window[i].rgb for i in chosen]))
        return {
            i: Anchor(window[i].time_s, shots[i], faces, [_cut_view(window[i], box) for box in faces.boxes])
            for i, faces in zip(chosen, found, strict=True)
        }

    def _place_between(
        self, window: Sequence[Frame], shots: Sequence[int], before: Anchor | None, anchors: dict[int, Anchor]
    ) -> dict[int, Detections]:
        placed: dict[int, Detections] = {}
        for i in range(0, len(window), 2):
            left, right = anchors.get(i - 1, before), anchors.get(i + 1)
            if left is None or right is None or not left.shot == shots[i] == right.shot:
                continue
            faces = interpolate_faces(window[i], left, right, self._spec)
            if faces is not None:
                placed[i] = faces
        return placed


def interpolate_faces(frame: Frame, left: Anchor, right: Anchor, spec: TrackSpec) -> Detections | None:
    """The faces of a frame between two that were detected, or None if it has to be detected itself."""
    count = len(left.faces.boxes)
    if spec.interpolate_iou is None or not count or len(right.faces.boxes) != count:
        return None
    pairs = pair_boxes(left.faces.boxes, right.faces.boxes, spec.interpolate_iou)
    if len(pairs) < count:
        return None
    partners = [pairs[i] for i in range(count)]
    share = (frame.time_s - left.time_s) / max(right.time_s - left.time_s, 1e-9)
    boxes, scores = (
        (a + share * (b[partners] - a)).astype(np.float32)
        for a, b in ((left.faces.boxes, right.faces.boxes), (left.faces.scores, right.faces.scores))
    )
    for box, a, partner in zip(boxes, left.views, partners, strict=True):
        view = _cut_view(frame, box)
        if min(_correlate(view, a), _correlate(view, right.views[partner])) < spec.interpolate_likeness:
            return None
    best_first = np.argsort(-scores, kind="stable")
    return Detections(boxes[best_first], scores[best_first])


def _take_windows(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Successive frames of one shape, as many as fit in memory: an even number, or one alone.

    Frames so large that only one fits have no neighbours and are all detected.
    """
    rest = iter(frames)
    for first in rest:
        fit = MOST_BATCH_BYTES // first.rgb.nbytes
        most = 1 if fit < 2 else min(2 * MOST_BATCH_FRAMES, fit - fit % 2)
        yield [first, *islice(rest, most - 1)]


def _cut_view(frame: Frame, box: NDArray[np.float32]) -> NDArray[np.float64]:
    """A face in grey, less its mean, of length 1; zero where it is plain."""
    grey = cv2.cvtColor(cut_crop(frame.rgb, box, VIEW), cv2.COLOR_RGB2GRAY).astype(np.float64)
    grey -= grey.mean()
    view: NDArray[np.float64] = grey / max(float(np.linalg.norm(grey)), 1e-9)
    return view


def _correlate(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float((a * b).sum())
