"""From video to clips: which frames, which face, which crop, and why there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.boxes import compute_iou
from extract.clips import MOST_BATCH_FRAMES, Clip, ClipSpecs, read_clips
from extract.crops import cut_crop
from extract.errors import Reason, VideoError
from extract.specs import CropSpec, SamplingSpec, TrackSpec
from extract.tracks import Tracker, choose_main
from extract.video import open_video
from tests.fakes import FixedDetector
from tests.media import numbered_frames, read_number, write_video

SPECS = ClipSpecs(SamplingSpec(count=8), CropSpec(size_px=32), TrackSpec())
FACE = (20.0, 10.0, 44.0, 34.0)


def read_all(path: Path, detector: FixedDetector, specs: ClipSpecs = SPECS) -> list[Clip]:
    return list(read_clips(open_video(path), specs, detector))


def test_a_short_video_is_one_clip_of_even_instants(tmp_path: Path) -> None:
    (clip,) = read_all(write_video(tmp_path / "v.mp4", numbered_frames(32)), FixedDetector(FACE))
    assert [read_number(crop) for crop in clip.crops] == [2, 6, 10, 14, 18, 22, 26, 30]
    assert np.allclose(clip.times_s, np.array([2, 6, 10, 14, 18, 22, 26, 30]) / 25)


def test_a_long_video_is_several_equal_clips(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(51)[1:], rate=2)
    clips = read_all(path, FixedDetector(FACE))
    assert [(c.start_s, c.end_s) for c in clips] == [(0, 25 / 3), (25 / 3, 50 / 3), (50 / 3, 25)]
    assert [len(c.crops) for c in clips] == [8, 8, 8]
    assert len({c.track for c in clips}) == 1


def test_frames_without_the_face_are_left_out(tmp_path: Path) -> None:
    frames = numbered_frames(32)
    for frame in frames[8:16]:
        frame[:] = 0
    (clip,) = read_all(write_video(tmp_path / "v.mp4", frames), FixedDetector(FACE))
    assert [read_number(crop) for crop in clip.crops] == [2, 6, 18, 22, 26, 30]


def test_instants_on_one_frame_count_once(tmp_path: Path) -> None:
    (clip,) = read_all(write_video(tmp_path / "v.mp4", numbered_frames(9)[3:]), FixedDetector(FACE))
    assert len(clip.crops) == 6


def test_the_main_face_is_the_large_one_that_stays(tmp_path: Path) -> None:
    detector = FixedDetector((2, 2, 10, 10), FACE)
    (clip,) = read_all(write_video(tmp_path / "v.mp4", numbered_frames(32)[4:]), detector)
    assert np.array_equal(clip.boxes, np.repeat([FACE], 8, axis=0))


def test_frames_reach_the_detector_in_bounded_batches(tmp_path: Path) -> None:
    detector = FixedDetector(FACE)
    specs = ClipSpecs(SamplingSpec(count=32), CropSpec(size_px=32), TrackSpec())
    read_all(write_video(tmp_path / "v.mp4", numbered_frames(40)), detector, specs)
    assert max(shape[0] for shape in detector.batches) == MOST_BATCH_FRAMES


@pytest.mark.parametrize(
    ("frames", "boxes", "reason"),
    [(20, [], Reason.NO_FACE), (1, [FACE], Reason.TOO_SHORT), (3, [FACE], Reason.TOO_SHORT)],
)
def test_a_video_without_a_usable_clip_has_a_reason(
    tmp_path: Path, frames: int, boxes: list[tuple[float, float, float, float]], reason: Reason
) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(frames + 5)[5:])
    with pytest.raises(VideoError) as caught:
        read_all(path, FixedDetector(*boxes))
    assert caught.value.reason == reason


def test_a_face_seen_too_seldom_is_too_short(tmp_path: Path) -> None:
    frames = numbered_frames(32)
    for frame in frames[10:]:
        frame[:] = 0
    path = write_video(tmp_path / "v.mp4", frames)
    with pytest.raises(VideoError, match="no face is seen in more than 2 sampled frames"):
        read_all(path, FixedDetector(FACE))


def test_a_crop_is_the_square_of_scale_times_the_longer_side() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[30:70, 80:120] = 255  # the square of side 40 around (100, 50)
    crop = cut_crop(frame, np.array([90, 30, 110, 70], np.float32), CropSpec(scale=1.0, size_px=40))
    assert crop.min() == 255
    wider = cut_crop(frame, np.array([90, 30, 110, 70], np.float32), CropSpec(scale=1.3, size_px=52))
    assert np.array_equal(wider[6:46, 6:46], np.full((40, 40, 3), 255))
    assert wider[:6].max() == 0


@given(
    box=st.tuples(*[st.floats(-30, 90)] * 2, *[st.floats(1, 80)] * 2),
    size_px=st.sampled_from([16, 33, 64]),
)
def test_a_crop_has_its_size_wherever_the_box_lies(box: tuple[float, ...], size_px: int) -> None:
    frame = np.full((48, 64, 3), 99, np.uint8)
    x, y, width, height = box
    crop = cut_crop(frame, np.array([x, y, x + width, y + height], np.float32), CropSpec(size_px=size_px))
    assert crop.shape == (size_px, size_px, 3)
    assert crop.max() <= 99


def as_boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_two_faces_keep_their_numbers_when_their_order_changes() -> None:
    tracker = Tracker(TrackSpec(), step_s=0.3)
    assert tracker.link(0.0, as_boxes((0, 0, 10, 10), (50, 50, 70, 70))) == [0, 1]
    assert tracker.link(0.3, as_boxes((52, 50, 72, 70), (1, 0, 11, 10))) == [1, 0]


def test_a_face_that_returns_after_the_gap_is_another_track() -> None:
    tracker = Tracker(TrackSpec(max_gap_s=1.0), step_s=0.3)
    tracker.link(0.0, as_boxes((0, 0, 10, 10)))
    assert tracker.link(1.0, as_boxes((0, 0, 10, 10))) == [0]
    assert tracker.link(2.5, as_boxes((0, 0, 10, 10))) == [1]


@given(st.lists(st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(1, 40)] * 2), min_size=1, max_size=8))
def test_no_two_boxes_of_a_frame_share_a_track(rows: list[tuple[float, float, float, float]]) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32)
    tracker = Tracker(TrackSpec(), step_s=0.3)
    for time_s in (0.0, 0.3, 0.6):
        numbers = tracker.link(time_s, boxes)
        assert len(set(numbers)) == len(numbers)


def test_overlap_of_known_boxes() -> None:
    found = compute_iou(as_boxes((0, 0, 2, 2), (5, 5, 6, 6)), as_boxes((1, 0, 3, 2), (0, 0, 2, 2)))
    assert np.allclose(found, np.array([[1 / 3, 1.0], [0.0, 0.0]]))


def test_the_main_track_weighs_size_length_and_confidence() -> None:
    small, large = as_boxes((0, 0, 10, 10)), as_boxes((0, 0, 20, 20))
    sure, unsure = np.ones(1, np.float32), np.full(1, 0.4, np.float32)
    assert choose_main({0: (small, sure), 1: (large, sure)}) == 1
    assert choose_main({0: (small, sure), 1: (large, unsure)}) == 0
    assert choose_main({0: (np.repeat(small, 3, 0), np.ones(3, np.float32)), 1: (large, sure)}) == 0
