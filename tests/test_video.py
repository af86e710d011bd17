"""Frames at chosen instants: presentation time, rotation, pixel shape, depth, damage."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.errors import Reason, VideoError
from extract.limits import MediaLimits
from extract.specs import EvenSampling
from extract.video import Video, open_video
from tests.media import (
    carphone,
    carphone_frames,
    numbered_frames,
    read_number,
    rotate_clockwise,
    write_audio,
    write_video,
)


def read_numbers(video: Video, instants: list[float]) -> list[int]:
    """The number of the frame shown at each instant."""
    shown = [0] * len(instants)
    for served, frame in video.read_at(np.array(instants)):
        shown[served] = [read_number(frame.rgb)] * (served.stop - served.start)
    return shown


def test_an_instant_shows_the_frame_that_is_on_screen(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "v.mp4", numbered_frames(10)))
    assert read_numbers(video, [0.0, 0.039, 0.041, 0.199, 0.201, 0.37]) == [0, 0, 1, 4, 5, 9]


def test_variable_frame_rate_goes_by_presentation_time(tmp_path: Path) -> None:
    times = [0, 40, 80, 1000, 1040, 3000]
    video = open_video(write_video(tmp_path / "v.mkv", numbered_frames(6), times_ms=times))
    assert read_numbers(video, [0.05, 0.5, 0.999, 1.02, 2.9, 3.0]) == [1, 2, 2, 3, 4, 5]


def test_instants_on_one_frame_come_as_one_slice(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "v.mp4", numbered_frames(3)))
    served = [s for s, _ in video.read_at(np.array([0.0, 0.01, 0.05, 0.06, 0.1]))]
    assert served == [slice(0, 2), slice(2, 4), slice(4, 5)]


@settings(max_examples=15, deadline=None)
@given(instants=st.lists(st.floats(0, 6), min_size=1, max_size=40))
def test_every_instant_is_served_exactly_once(instants: list[float]) -> None:
    video = open_video(carphone())
    covered = [i for s, _ in video.read_at(np.sort(instants)) for i in range(s.start, s.stop)]
    assert covered == list(range(len(instants)))


def test_rotation_metadata_turns_the_picture_upright(tmp_path: Path) -> None:
    frames = [np.zeros((48, 64, 3), np.uint8) for _ in range(5)]
    for frame in frames:
        frame[:, :32] = 200  # the left half, which turns to the top
    video = open_video(rotate_clockwise(write_video(tmp_path / "v.mp4", frames)))
    _, shown = next(video.read_at(np.array([0.1])))
    assert shown.rgb.shape == (64, 48, 3)
    assert shown.rgb[:28].mean() > 180
    assert shown.rgb[36:].mean() < 20


def test_wide_pixels_are_made_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", numbered_frames(5), sample_aspect=Fraction(4, 3))
    _, frame = next(open_video(path).read_at(np.array([0.1])))
    assert frame.rgb.shape == (48, 85, 3)


def test_pixels_of_a_senseless_shape_are_taken_for_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", numbered_frames(5, 64, 4096), sample_aspect=Fraction(1000, 1))
    video = open_video(path)
    _, frame = next(video.read_at(np.array([0.1])))
    assert frame.rgb.shape == (4096, 64, 3)
    assert video.note == "pixels of 1000:1 make no sense and were taken for square"


def test_a_picture_that_is_too_large_once_its_pixels_are_square_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", numbered_frames(5, 64, 64), sample_aspect=Fraction(10, 1))
    video = open_video(path, limits=MediaLimits(most_pixels=64 * 64 * 9))
    with pytest.raises(VideoError, match="has frames of 640x64 square pixels; at most 36864 are read") as caught:
        next(video.read_at(np.array([0.1])))
    assert caught.value.reason == Reason.TOO_LARGE


def test_ten_bit_video_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", numbered_frames(5), pixel_format="yuv420p10le")
    assert read_numbers(open_video(path), [0.1]) == [2]


def test_a_container_that_claims_more_frames_loses_none(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(10))
    video = open_video(path)
    assert read_numbers(video, [0.0, 0.2, 5.0, 50.0]) == [0, 5, 9, 9]


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
def test_a_cut_off_file_is_read_to_its_end_and_says_so(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, carphone_frames(60), rate=10, container_options={"movflags": "faststart"})
    os.truncate(path, path.stat().st_size * 2 // 3)
    video = open_video(path)
    assert 4 < len(list(video.read_at(np.arange(60) / 10))) < 60
    assert 0.5 < video.facts.duration_s < 5.5
    assert re.match(r"the file declares 6.0 s, but its frames end at|damaged packets", video.note)


def test_damage_in_the_middle_does_not_lose_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", numbered_frames(60), codec="mjpeg", pixel_format="yuvj420p")
    content = bytearray(path.read_bytes())
    middle = content.index(b"\xff\xd8", len(content) // 2)  # where a picture begins
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    video = open_video(path)
    assert read_numbers(video, [0.0, 2.38])[1] == 59


def test_a_whole_file_has_no_note(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "v.mp4", numbered_frames(60), rate=10))
    list(video.read_at(np.arange(60) / 10))
    assert video.note == ""


def test_a_cut_off_file_with_its_index_at_the_end_is_a_decode_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(60))
    os.truncate(path, path.stat().st_size // 2)
    assert_reason(path, Reason.DECODE_ERROR)


def test_files_that_are_no_video_have_a_reason_each(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    assert_reason(tmp_path / "missing.mp4", Reason.NOT_FOUND)
    assert_reason(tmp_path / "empty.mp4", Reason.DECODE_ERROR)
    assert_reason(tmp_path / "text.mp4", Reason.DECODE_ERROR)
    assert_reason(write_audio(tmp_path / "audio.mp4"), Reason.NO_VIDEO_STREAM)


def test_a_playlist_named_mp4_opens_no_other_file(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", numbered_frames(10))
    playlist = tmp_path / "list.mp4"
    playlist.write_text("ffconcat version 1.0\nfile secret.ts\n")
    assert_reason(playlist, Reason.DECODE_ERROR)


def assert_reason(path: Path, reason: Reason) -> None:
    with pytest.raises(VideoError) as caught:
        list(open_video(path).read_at(np.array([0.0])))
    assert caught.value.reason == reason
    assert str(path) in caught.value.detail


@given(duration_s=st.floats(0.01, 5000), frames=st.integers(1, 100_000))
def test_clips_are_equal_consecutive_and_at_most_ten_seconds(duration_s: float, frames: int) -> None:
    spans = EvenSampling().cut_clips(duration_s, frames)
    edges = [spans[0][0], *(end for _, end in spans)]
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(duration_s)
    assert np.allclose(np.diff(edges), duration_s / len(spans))
    assert len(spans) <= max(1, frames // 4)
    assert duration_s / len(spans) <= 10.001 or len(spans) == max(1, frames // 4)


def test_ten_seconds_and_a_rounding_error_are_one_clip() -> None:
    assert len(EvenSampling().cut_clips(10.0000001, 300)) == 1
    assert len(EvenSampling().cut_clips(10.1, 300)) == 2


@given(start_s=st.floats(0, 100), length_s=st.floats(0.1, 10), count=st.integers(1, 64))
def test_instants_lie_evenly_inside_their_clip(start_s: float, length_s: float, count: int) -> None:
    instants = EvenSampling(count=count).sample_instants(start_s, start_s + length_s)
    assert len(instants) == count
    assert start_s < instants[0] <= instants[-1] < start_s + length_s
    assert np.allclose(np.diff(instants), length_s / count)
