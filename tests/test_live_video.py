"""Live sources: the instants of scoring, pipes and FIFOs read as they come, broken ones in a sentence."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import Reason, UsageError, VideoError
from extract.isolation import DecoderProcess
from extract.live_feed import Handover, LiveFeed
from extract.live_video import LiveFrame, LiveInstants, LiveOrder, LiveSource, LiveVideo
from extract.specs import EvenSampling, RateSampling, SamplingSpec
from extract.video import Frame, open_video
from tests.media import carphone_frames, numbered_frames, read_number, write_audio, write_video

INSTANTS = LiveInstants.of(RateSampling.suit(5))

samplings = st.one_of(
    st.floats(0.5, 30).map(RateSampling.suit), st.integers(1, 60).map(lambda count: EvenSampling(count=count))
)


def read(path: Path, instants: LiveInstants = INSTANTS) -> list[LiveFrame]:
    return list(LiveVideo(LiveOrder(LiveSource.parse(str(path)), instants)).read())


def read_numbers(frames: list[LiveFrame]) -> list[int]:
    return [read_number(live.frame.rgb) for live in frames]


@given(sampling=samplings, clips=st.integers(1, 5), time_s=st.floats(0, 60))
def test_instants_are_those_of_scoring_where_clips_are_full(sampling: SamplingSpec, clips: int, time_s: float) -> None:
    spans = sampling.cut_clips(clips * sampling.clip_s, 10**6)
    scored = np.concatenate([sampling.sample_instants(*span) for span in spans])
    live = LiveInstants.of(sampling)
    found = [clip * live.clip_s + offset_s for clip in range(clips) for offset_s in live.offsets_s]
    assert found == pytest.approx(scored)
    assert live.count_before(time_s) == sum(
        clip * live.clip_s + offset_s < time_s for clip in range(7) for offset_s in live.offsets_s
    )


@pytest.mark.parametrize("name", ["v.mp4", "v.ts", "v.mkv"])
def test_a_file_shows_live_what_scoring_sees(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(50), rate=25)
    instants = INSTANTS.offsets_s[: INSTANTS.count_before(2.0)]
    scored = [(frame.time_s, read_number(frame.rgb)) for _, frame in open_video(path).read_at(np.array(instants))]
    live = [(live.frame.time_s, read_number(live.frame.rgb)) for live in read(path)]
    assert np.array(live) == pytest.approx(np.array(scored))


def test_a_slow_video_shows_each_frame_once_a_clip(tmp_path: Path) -> None:
    frames = read(write_video(tmp_path / "v.mkv", numbered_frames(6), times_ms=[0, 4000, 8000, 9000, 12000, 14000]))
    assert [(live.clip, number) for live, number in zip(frames, read_numbers(frames), strict=True)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 3),
        (1, 4),
    ]  # fmt: skip - the last one is gone before the next instant


def test_a_frame_that_claims_to_stay_for_ages_costs_nothing(tmp_path: Path) -> None:
    frames = read(write_video(tmp_path / "v.mkv", numbered_frames(4), times_ms=[0, 40, 10**12, 10**12 + 200]))
    assert [live.clip for live in frames] == [0, 10**8 - 1, 10**8]
    assert read_numbers(frames) == [1, 1, 2]


def test_time_goes_on_where_a_recording_follows_another(tmp_path: Path) -> None:
    one = write_video(tmp_path / "a.ts", numbered_frames(50), rate=25).read_bytes()
    frames = read_pipe(one + one)
    times_s = [live.frame.time_s for live in frames]
    assert all(a < b for a, b in pairwise(times_s))
    assert times_s[-1] == pytest.approx(4.0, abs=0.3)


def test_a_file_in_real_time_waits_for_the_time_of_each_frame(tmp_path: Path) -> None:
    waits: list[float] = []
    order = LiveOrder(
        LiveSource.parse(str(write_video(tmp_path / "v.mp4", numbered_frames(50), rate=1))), INSTANTS, realtime=True
    )
    video = LiveVideo(order, sleep=waits.append)
    assert len(list(video.read())) == 50
    assert waits == pytest.approx(np.arange(1, 50), abs=5)
    assert video.waited_s == pytest.approx(sum(waits))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rtsp://camera/1", "ffmpeg -i rtsp://camera/1 -c copy -f mpegts - | unmask watch MODEL -"),
        ("no-such-file.mp4", "no such source: no-such-file.mp4; give a camera's number, a file, a FIFO, or -"),
        (".", "is no video source"),
        ("nul\0byte", "no such source"),
    ],
)
def test_a_source_that_is_none_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        LiveSource.parse(text)
    assert reason in str(caught.value)


def test_a_number_is_a_camera_and_a_dash_standard_input() -> None:
    assert LiveSource.parse("3").kind == "camera"
    assert LiveSource.parse("-") == LiveSource("pipe", "-")


def test_a_camera_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(VideoError, match=r"the camera .*99 cannot be opened: .*; see that it is there"):
        list(LiveVideo(LiveOrder(LiveSource.parse("99"), INSTANTS)).read())


def test_a_file_without_a_picture_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video" * 99)
    for path in (tmp_path / "text.mp4", write_audio(tmp_path / "audio.mp4")):
        with pytest.raises(VideoError, match=f"{path}"):
            read(path)


def read_pipe(content: bytes) -> list[LiveFrame]:
    """The frames of what is written into a pipe, through a decoder process."""
    source, sink = os.pipe()
    writer = Thread(target=fill, args=(sink, content))
    writer.start()
    try:
        with LiveFeed(LiveOrder(LiveSource("pipe", f"/dev/fd/{source}"), INSTANTS)) as feed:
            return list(feed)
    finally:
        os.close(source)
        writer.join()


def fill(sink: int, content: bytes) -> None:
    with suppress(BrokenPipeError), open(sink, "wb") as file:
        file.write(content)


@pytest.mark.parametrize("name", ["v.ts", "v.mkv", "first.mp4"])
def test_a_pipe_shows_what_the_file_does(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name == "first.mp4" else {}
    path = write_video(tmp_path / name, numbered_frames(50), container_options=options)
    assert read_numbers(read_pipe(path.read_bytes())) == read_numbers(read(path))


def test_an_mp4_whose_index_comes_last_cannot_be_piped(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", carphone_frames(60))  # more than FFmpeg reads ahead
    with pytest.raises(VideoError, match="an mp4 is read from a pipe only if its index comes first"):
        read_pipe(path.read_bytes())


@pytest.mark.parametrize("content", [b"", b"not a video\n" * 999, b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"])
def test_a_pipe_of_something_else_is_a_sentence(content: bytes) -> None:
    with pytest.raises(VideoError, match="is not a video that can be read from a pipe") as caught:
        read_pipe(content)
    assert caught.value.reason == Reason.DECODE_ERROR


def test_a_stream_that_breaks_off_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    content = write_video(tmp_path / "v.ts", numbered_frames(50)).read_bytes()
    assert 0 < len(read_pipe(content[: len(content) // 2])) < 10
    garbage = np.random.default_rng(0).bytes(5000)
    found = read_pipe(content[: len(content) // 2] + garbage + content[len(content) // 2 :])
    assert read_number(found[-1].frame.rgb) > 40


def test_a_source_that_falls_silent_is_given_up() -> None:
    source, sink = os.pipe()
    begun = time.monotonic()
    try:
        order = LiveOrder(LiveSource("pipe", f"/dev/fd/{source}"), INSTANTS)
        with (
            LiveFeed(order, DecoderProcess(limit_s=1.0)) as feed,
            pytest.raises(VideoError, match=r"was given up: no frame came from it for 1 s"),
        ):
            list(feed)
    finally:
        os.close(source)
        os.close(sink)
    assert time.monotonic() - begun < 30


def test_a_feed_that_is_left_early_ends_its_process(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(60), rate=1)
    with LiveFeed(LiveOrder(LiveSource.parse(str(path)), INSTANTS, realtime=True)) as feed:
        next(iter(feed))
    assert feed._decoder._process is None


class FakeDecoder(DecoderProcess):
    """Sends numbered frames as fast as it can, and says when it has."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.done = Event()
        self._count = count

    def launch(self) -> None:
        """Nothing to start."""

    def read_live(self, order: LiveOrder) -> Generator[LiveFrame, None, dict[str, Any]]:
        """The frames."""
        for number, rgb in enumerate(numbered_frames(self._count)):
            yield LiveFrame(Frame(number / 5, rgb), 0, time.monotonic())
        self.done.set()
        return {"note": "", "busy_s": 0.0}


def test_a_camera_that_is_too_fast_loses_frames_and_the_newest_wins() -> None:
    decoder = FakeDecoder(20)
    with LiveFeed(LiveOrder(LiveSource("camera", "9"), INSTANTS), decoder) as feed:
        assert decoder.done.wait(10)
        (last,) = feed  # the taker was as slow as can be
        assert read_number(last.frame.rgb) == 19
        assert feed.dropped == 19


def test_a_file_that_is_too_fast_waits(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.touch()
    with LiveFeed(LiveOrder(LiveSource.parse(str(path)), INSTANTS), FakeDecoder(20)) as feed:
        time.sleep(0.05)
        assert read_numbers(list(feed)) == list(range(20))
        assert feed.dropped == 0


def test_what_the_source_raises_comes_after_what_it_gave() -> None:
    def give() -> Iterator[int]:
        yield 1
        yield 2
        raise VideoError(Reason.DECODE_ERROR, "broken")

    handover = Handover(give(), newest_wins=False)
    items = iter(handover)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(VideoError, match="broken"):
        next(items)
    handover.close()
