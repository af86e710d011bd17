"""From video to clips: which frames, which face, which crop, and why there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.clips import Clip, ClipSpecs, read_clips
from extract.crops import cut_crop
from extract.detectors import Detections
from extract.errors import Reason, VideoError
from extract.faces import MOST_BATCH_FRAMES
from extract.specs import CropSpec, EvenSampling, TrackSpec
from extract.video import open_video
from tests.fakes import FixedDetector
from tests.media import numbered_frames, read_number, write_video

SPECS = ClipSpecs(EvenSampling(count=8), CropSpec(size_px=32), TrackSpec())
FACE = (20.0, 10.0, 44.0, 34.0)
KEEP_ALL = ClipSpecs(SPECS.sampling, SPECS.crop, TrackSpec(keep="all"))


class AppearingDetector(FixedDetector):
    """Finds all its boxes in the first frames it is shown, then only the first of them."""

    def __init__(self, *boxes: tuple[float, float, float, float], shown: int) -> None:
        super().__init__(*boxes)
        self._shown = shown

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        found = super().detect(frames)
        first, self._shown = self._shown, max(0, self._shown - len(frames))
        return [f if i < first else Detections(f.boxes[:1], f.scores[:1]) for i, f in enumerate(found)]


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


def test_all_faces_are_kept_by_track_where_asked(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(51)[1:], rate=4)
    clips = read_all(path, FixedDetector((2, 2, 10, 10), FACE), KEEP_ALL)
    assert [(clip.start_s, clip.track) for clip in clips] == [(0, 0), (0, 1), (6.25, 0), (6.25, 1)]
    assert np.array_equal(clips[1].boxes, np.repeat([FACE], 8, axis=0))
    assert clips[0].boxes[0].tolist() == [2, 2, 10, 10]


def test_a_face_seen_too_seldom_is_not_among_all(tmp_path: Path) -> None:
    detector = AppearingDetector(FACE, (2, 2, 10, 10), shown=3)
    clips = read_all(write_video(tmp_path / "v.mp4", numbered_frames(36)[4:]), detector, KEEP_ALL)
    assert [clip.boxes[0].tolist() for clip in clips] == [list(FACE)]


def test_a_video_has_the_same_reason_when_all_faces_are_kept(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        read_all(write_video(tmp_path / "v.mp4", numbered_frames(8)[5:]), FixedDetector((2, 2, 10, 10), FACE), KEEP_ALL)
    assert caught.value.reason == Reason.TOO_SHORT


def test_frames_reach_the_detector_in_bounded_batches(tmp_path: Path) -> None:
    detector = FixedDetector(FACE)
    specs = ClipSpecs(EvenSampling(count=32), CropSpec(size_px=32), TrackSpec())
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
