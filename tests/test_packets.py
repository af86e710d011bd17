"""Which packets are decoded: the pictures are those of reading a file through, with less work."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.packets import PacketIndex, holds_idr, plan_reading
from extract.video import open_video
from tests.media import carphone_frames

FRAMES = 120
ENCODINGS = {
    "x264.mp4": ("libx264", {"g": "12", "bf": "3"}),
    "x264-open.mkv": ("libx264", {"x264-params": "open-gop=1:keyint=24:bframes=3"}),
    "x264-refresh.ts": ("libx264", {"x264-params": "intra-refresh=1:keyint=24:bframes=0"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg4.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "vp9.webm": ("libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"}),
    "mjpeg.mkv": ("mjpeg", {}),
}


def encode(path: Path, codec: str, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = 144, 176
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for rgb in carphone_frames(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module", params=ENCODINGS)
def encoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("enc") / request.param, *ENCODINGS[request.param])


@settings(max_examples=8, deadline=None)
@given(wanted=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=12, unique=True).map(sorted))
def test_chosen_pictures_are_those_of_reading_through(encoded: Path, wanted: list[int]) -> None:
    video = open_video(encoded)
    instants = (np.arange(FRAMES) + 0.5) / 25
    through = [(f.time_s, f.rgb.tobytes()) for _, f in video.read_at(instants)]
    assert len(through) == FRAMES
    chosen = [(f.time_s, f.rgb.tobytes()) for _, f in video.read_at(instants[wanted])]
    assert chosen == [through[number] for number in wanted]


def test_few_instants_of_many_groups_are_read_by_leaping(tmp_path: Path) -> None:
    video = open_video(encode(tmp_path / "v.mp4", "libx264", {"g": "12"}))
    assert video._index is not None
    plan = plan_reading(video._index, np.array([0.1, 4.5]))
    assert plan is not None
    assert plan.feed.sum() < FRAMES / 4
    assert plan.wanted.sum() == 2


def make_index(groups: list[int]) -> PacketIndex:
    """Groups of pictures without reordering."""
    stamps = np.arange(sum(groups)) * 2
    keys = np.isin(np.arange(sum(groups)), np.cumsum([0, *groups[:-1]]))
    return PacketIndex(stamps, keys, np.ones(len(stamps), np.bool_), Fraction(1, 50))


@given(
    groups=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    shares=st.lists(st.floats(0, 1.2), min_size=1, max_size=9),
)
def test_all_that_a_wanted_frame_needs_is_fed(groups: list[int], shares: list[float]) -> None:
    index = make_index(groups)
    plan = plan_reading(index, np.sort(shares) * sum(groups) / 25)
    assert plan is not None
    begins = np.flatnonzero(index.keys)
    for packet in np.flatnonzero(plan.wanted):
        begin = begins[np.searchsorted(begins, packet, side="right") - 1]
        assert plan.feed[begin : packet + 1].all()


def test_a_leading_picture_needs_the_group_before() -> None:
    # In the order of decoding: a group of 8, then a keyframe shown after two pictures that follow it.
    stamps = np.array([*range(8), 10, 8, 9, *range(11, 40)])
    keys = np.isin(np.arange(len(stamps)), [0, 8, 20, 30])
    plan = plan_reading(PacketIndex(stamps, keys, np.ones(len(stamps), np.bool_), Fraction(1)), np.array([8.5]))
    assert plan is not None
    assert np.flatnonzero(plan.feed).tolist() == list(range(10))


def test_frames_with_one_stamp_cannot_be_told_apart() -> None:
    index = PacketIndex(np.array([0, 1, 1]), np.array([True, False, False]), np.ones(3, np.bool_), Fraction(1))
    assert plan_reading(index, np.array([0.5])) is None


def test_a_recovery_point_is_no_idr_picture() -> None:
    avcc = bytes([1, 100, 0, 31, 255])
    assert holds_idr(bytes([0, 0, 0, 2, 6, 5, 0, 0, 0, 2, 0x65, 9]), avcc)
    assert not holds_idr(bytes([0, 0, 0, 2, 6, 5, 0, 0, 0, 2, 0x41, 9]), avcc)
    assert holds_idr(bytes([0, 0, 0, 1, 9, 16, 0, 0, 1, 0x65, 9]), None)
    assert not holds_idr(bytes([0, 0, 0, 1, 9, 16, 0, 0, 1, 0x41, 9]), None)


@given(packet=st.binary(max_size=40), extradata=st.none() | st.binary(max_size=8))
def test_any_bytes_are_looked_through(packet: bytes, extradata: bytes | None) -> None:
    assert holds_idr(packet, extradata) in (True, False)
