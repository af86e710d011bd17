"""Faces of successive frames: which are detected, which interpolated, and that batches do not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from extract import faces
from extract.boxes import compute_iou
from extract.detectors import Detections
from extract.faces import FaceFinder, SeenFrame
from extract.specs import TrackSpec
from extract.video import Frame
from tests.conftest import FACE
from tests.fakes import FixedDetector
from tests.media import Frames, carphone_frames

PATCH = tuple(slice(int(FACE[k]), int(FACE[k + 2])) for k in (1, 0))
GROUND = 90


class PatchDetector(FixedDetector):
    """Finds what is not of the ground's colour, one box a frame."""

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        self.batches.append(frames.shape)
        return [find_patch(frame) for frame in frames]


def find_patch(frame: NDArray[np.uint8]) -> Detections:
    rows, columns = np.nonzero((frame != GROUND).any(axis=2))
    if not len(rows):
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return Detections(np.array([box], np.float32), np.full(1, 0.9, np.float32))


def move_face(steps_px: Sequence[int]) -> Frames:
    """A face of real footage on a plain ground, that many pixels further to the right in each frame."""
    face = carphone_frames(1)[0][PATCH]
    frames = []
    for left in np.cumsum(steps_px):
        frame = np.full((120, 240, 3), GROUND, np.uint8)
        frame[20 : 20 + face.shape[0], left : left + face.shape[1]] = face
        frames.append(frame)
    return frames


def find(frames: Frames, spec: TrackSpec | None = None) -> tuple[list[SeenFrame], int]:
    """The frames with their faces, and how many of them were detected."""
    detector = PatchDetector()
    timed = [Frame(0.1 * i, rgb) for i, rgb in enumerate(frames)]
    seen = list(FaceFinder(detector, spec or TrackSpec()).find(timed))
    assert [s.frame.time_s for s in seen] == [frame.time_s for frame in timed]
    return seen, sum(shape[0] for shape in detector.batches)


def test_a_face_that_moves_evenly_is_detected_in_every_second_frame() -> None:
    frames = move_face([2] * 12)
    seen, detected = find(frames)
    assert detected == 7  # frames 1, 3 .. 11, and 0, which has no neighbour before it
    for frame, found in zip(frames, seen, strict=True):
        assert np.allclose(found.faces.boxes, find_patch(frame).boxes, atol=1e-4)
        assert np.allclose(found.faces.scores, 0.9)


def test_every_frame_is_detected_where_no_interpolation_is_wanted() -> None:
    assert find(move_face([2] * 12), TrackSpec(interpolate_iou=None))[1] == 12


def test_a_face_that_jumps_and_returns_is_detected() -> None:
    seen, detected = find(move_face([20, 0, 0, 0, 9, -9, 0, 0]))
    assert seen[4].faces.boxes[0, 0] == 29
    assert detected == 5 + 1


def test_a_face_that_is_hidden_between_two_frames_is_not_made_up() -> None:
    frames = move_face([20, 0, 0, 0, 0, 0])
    frames[2][:] = GROUND
    assert [len(s.faces.boxes) for s in find(frames)[0]] == [1, 1, 0, 1, 1, 1]


def test_a_face_that_comes_or_goes_is_detected() -> None:
    frames = move_face([20] + [0] * 7)
    for frame in frames[:4]:
        frame[:] = GROUND
    seen, detected = find(frames)
    assert [len(s.faces.boxes) for s in seen] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert detected == 7  # all but frame 6


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_what_is_found_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    frames = move_face([3, 2, 1, 9, 0, 2, 4, 4, 4, 2, 0, 0, 7, 1, 1, 2, 2, 2, 0])
    expected, detected = find(frames)
    monkeypatch.setattr(faces, "MOST_BATCH_FRAMES", most)
    seen, again = find(frames)
    assert again == detected < len(frames)
    for a, b in zip(seen, expected, strict=True):
        assert np.array_equal(a.faces.boxes, b.faces.boxes)
        assert np.array_equal(a.faces.scores, b.faces.scores)


def test_frames_too_large_to_be_held_together_are_all_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = move_face([2] * 6)
    monkeypatch.setattr(faces, "MOST_BATCH_BYTES", 2 * frames[0].nbytes - 1)
    seen, detected = find(frames)
    assert detected == 6
    assert len(seen) == 6


def test_frames_of_several_sizes_are_never_in_one_batch() -> None:
    frames = [*move_face([2] * 5), *(frame[:-10] for frame in move_face([2] * 5))]
    seen, detected = find(frames)
    assert detected == 2 * 4  # in each, 1 and 3; 0 and 4 have a neighbour on one side only
    assert all(len(s.faces.boxes) == 1 for s in seen)


def test_nothing_is_interpolated_across_a_cut() -> None:
    frames = carphone_frames(3)
    frames = [frames[0], frames[1], np.full_like(frames[0], 250) - frames[2], frames[2]]
    detector = FixedDetector(FACE)
    seen = list(FaceFinder(detector, TrackSpec()).find(Frame(0.1 * i, rgb) for i, rgb in enumerate(frames)))
    assert [s.shot for s in seen] == [0, 0, 1, 0]
    assert sum(shape[0] for shape in detector.batches) == 4


def test_real_footage_is_interpolated_close_to_what_a_detector_finds() -> None:
    from extract.mtcnn import open_mtcnn

    frames = carphone_frames(24)
    detector = open_mtcnn()
    seen = list(FaceFinder(detector, TrackSpec()).find(Frame(0.04 * i, rgb) for i, rgb in enumerate(frames)))
    found = detector.detect(np.stack(frames))
    overlaps = [compute_iou(s.faces.boxes, f.boxes).max() for s, f in zip(seen, found, strict=True)]
    interpolated = [o for o in overlaps if o < 1]
    assert interpolated
    assert min(interpolated) > 0.85  # MTCNN's own boxes jump as much from one frame to the next
