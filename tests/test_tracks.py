"""Who is who: boxes linked into tracks, none of them across a cut, and the faces that are kept."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.boxes import compute_iou, pair_boxes
from extract.clips import ClipSpecs, read_clips
from extract.specs import CropSpec, EvenSampling, TrackSpec
from extract.tracks import Tracker, choose_main, choose_tracks
from extract.video import open_video
from tests.conftest import FACE
from tests.fakes import FixedDetector
from tests.media import carphone_frames, write_video

BOXES = st.lists(st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(1, 40)] * 2), min_size=1, max_size=8)


def as_boxes(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def lay_boxes(rows: list[tuple[float, ...]]) -> NDArray[np.float32]:
    return as_boxes(*((x, y, x + width, y + height) for x, y, width, height in rows))


def test_two_faces_keep_their_numbers_when_their_order_changes() -> None:
    tracker = Tracker(TrackSpec(), step_s=0.3)
    assert tracker.link(0.0, as_boxes((0, 0, 10, 10), (50, 50, 70, 70))) == [0, 1]
    assert tracker.link(0.3, as_boxes((52, 50, 72, 70), (1, 0, 11, 10))) == [1, 0]


def test_a_face_that_returns_after_the_gap_is_another_track() -> None:
    tracker = Tracker(TrackSpec(max_gap_s=1.0), step_s=0.3)
    tracker.link(0.0, as_boxes((0, 0, 10, 10)))
    assert tracker.link(1.0, as_boxes((0, 0, 10, 10))) == [0]
    assert tracker.link(2.5, as_boxes((0, 0, 10, 10))) == [1]


def test_a_track_ends_with_its_shot_and_goes_on_when_the_shot_does() -> None:
    tracker = Tracker(TrackSpec(), step_s=0.3)
    box = as_boxes((0, 0, 10, 10))
    assert [tracker.link(0.3 * i, box, shot) for i, shot in enumerate([0, 0, 1, 0])] == [[0], [0], [1], [0]]


@given(BOXES)
def test_no_two_boxes_of_a_frame_share_a_track(rows: list[tuple[float, ...]]) -> None:
    tracker = Tracker(TrackSpec(), step_s=0.3)
    for time_s in (0.0, 0.3, 0.6):
        numbers = tracker.link(time_s, lay_boxes(rows))
        assert len(set(numbers)) == len(numbers)


def test_overlap_of_known_boxes() -> None:
    found = compute_iou(as_boxes((0, 0, 2, 2), (5, 5, 6, 6)), as_boxes((1, 0, 3, 2), (0, 0, 2, 2)))
    assert np.allclose(found, np.array([[1 / 3, 1.0], [0.0, 0.0]]))


@given(BOXES, BOXES, st.floats(0.05, 0.9))
def test_boxes_pair_off_one_to_one_and_overlap_enough(
    first: list[tuple[float, ...]], second: list[tuple[float, ...]], min_iou: float
) -> None:
    a, b = lay_boxes(first), lay_boxes(second)
    pairs = pair_boxes(a, b, min_iou)
    assert len(set(pairs.values())) == len(pairs)
    assert all(compute_iou(a, b)[i, j] >= min_iou for i, j in pairs.items())
    left = np.delete(np.delete(compute_iou(a, b), list(pairs), 0), list(pairs.values()), 1)
    assert not (left >= min_iou).any()  # no two that could be joined are left alone


def test_boxes_that_overlap_most_are_joined_first() -> None:
    a, b = as_boxes((0, 0, 10, 10), (2, 0, 12, 10)), as_boxes((3, 0, 13, 10))
    assert pair_boxes(a, b, 0.3) == {1: 0}


def test_no_boxes_make_no_pairs() -> None:
    assert pair_boxes(as_boxes(), as_boxes((0, 0, 1, 1)), 0.3) == {}
    assert pair_boxes(as_boxes((0, 0, 1, 1)), as_boxes(), 0.3) == {}


def test_the_main_track_weighs_size_length_and_confidence() -> None:
    small, large = as_boxes((0, 0, 10, 10)), as_boxes((0, 0, 20, 20))
    sure, unsure = np.ones(1, np.float32), np.full(1, 0.4, np.float32)
    assert choose_main({0: (small, sure), 1: (large, sure)}) == 1
    assert choose_main({0: (small, sure), 1: (large, unsure)}) == 0
    assert choose_main({0: (np.repeat(small, 3, 0), np.ones(3, np.float32)), 1: (large, sure)}) == 0


@pytest.mark.parametrize(("keep", "kept"), [("main", [1]), ("all", [1, 4])])
def test_the_main_track_or_all_long_ones_are_kept(keep: str, kept: list[int]) -> None:
    box, ones = as_boxes((0, 0, 10, 10)), np.ones(5, np.float32)
    tracks = {n: (np.repeat(size * box, k, 0), ones[:k]) for n, size, k in ((4, 1, 5), (2, 1, 3), (1, 2, 4))}
    assert choose_tracks(tracks, TrackSpec.model_validate({"keep": keep}), min_frames=4) == kept


def test_a_main_track_that_is_too_short_is_not_replaced() -> None:
    box, ones = as_boxes((0, 0, 10, 10)), np.ones(5, np.float32)
    tracks = {0: (np.repeat(box, 4, 0), ones[:4]), 1: (np.repeat(9 * box, 3, 0), ones[:3])}
    assert choose_tracks(tracks, TrackSpec(), min_frames=4) == []
    assert choose_tracks({}, TrackSpec(), min_frames=4) == []


@pytest.mark.parametrize("keep", ["main", "all"])
def test_a_scene_cut_does_not_merge_two_people(tmp_path: Path, keep: str) -> None:
    first = carphone_frames(20)
    # Another person at the same place: the same box is found on both sides of the cut.
    astronaut = np.asarray(cv2.resize(read_astronaut(), (176, 144), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    path = write_video(tmp_path / "v.mp4", first + [astronaut] * 12)
    specs = ClipSpecs(EvenSampling(), CropSpec(size_px=32), TrackSpec.model_validate({"keep": keep}))
    clips = list(read_clips(open_video(path), specs, FixedDetector(FACE)))
    assert [len(clip.crops) for clip in clips] == ([20] if keep == "main" else [20, 12])
    assert clips[0].times_s.max() < 20 / 25 <= clips[-1].times_s.max() + (keep == "main")


def read_astronaut() -> NDArray[np.uint8]:
    """A person's portrait from scikit-image."""
    path = next(Path(str(f.locate())) for f in files("scikit-image") or [] if f.name == "astronaut.png")
    return np.asarray(cv2.imread(str(path)), dtype=np.uint8)[:440, 60:, ::-1]
