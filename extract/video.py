"""Frames of a video at chosen instants, upright and with square pixels, never more than one in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from extract.errors import Reason, VideoError

# Playlists and patterns can make FFmpeg open other files, whatever the name of this one says.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
MOST_PIXELS = 8192 * 8192


@dataclass(frozen=True)
class Frame:
    """One decoded frame; `time_s` counts from the video's first frame."""

    time_s: float
    rgb: NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class VideoFacts:
    """What the packets of a file say, read without decoding."""

    width: int
    height: int
    codec: str
    container: str
    frames: int
    duration_s: float


@dataclass(frozen=True)
class _Shown:
    """A decoded frame before its conversion, which only the chosen ones pay for."""

    time_s: float
    raw: Any
    pixel_ratio: float


class Video:
    """A video file whose packets have been counted; frames are decoded when asked for.

    `note` tells, after reading, what was wrong with a file that could still be used.
    """

    def __init__(self, path: Path, facts: VideoFacts, declared_s: float | None) -> None:
        self.path = path
        self.facts = facts
        self._declared_s = declared_s
        self.note = ""

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        """Frames on screen at ascending instants, with the slice of instants each of them serves.

        An instant past the last frame gets the last frame. Raises VideoError when no frame can be decoded.
        """
        done = 0
        shown: _Shown | None = None
        for following in self._decode():
            if shown is not None:
                until = int(np.searchsorted(instants, following.time_s, side="left"))
                if until > done:
                    yield slice(done, until), _convert(shown, self.path)
                    done = until
                if done == len(instants):
                    return
            shown = following
        if shown is None:
            raise VideoError(Reason.DECODE_ERROR, f"no frame of {self.path} can be decoded ({self.note})")
        self._note_truncation(shown.time_s)
        yield slice(done, len(instants)), _convert(shown, self.path)

    def _decode(self) -> Iterator[_Shown]:
        """Frames in order of presentation; damaged packets are left out and noted."""
        first: float | None = None
        latest = 0.0
        with _open_container(self.path) as container:
            stream = _find_stream(container, self.path)
            stream.thread_type = "AUTO"
            pixel_ratio = float(stream.sample_aspect_ratio or 1)
            for packet in self._demux(container, stream):
                for raw in self._decode_packet(stream, packet):
                    time_s = raw.time if raw.time is not None else latest + (first or 0.0)
                    first = time_s if first is None else first
                    latest = max(latest, time_s - first)
                    yield _Shown(latest, raw, pixel_ratio)

    def _demux(self, container: Any, stream: Any) -> Iterator[Any]:
        try:
            yield from container.demux(stream)
        except FFmpegError as error:
            self.note = f"the file cannot be read to its end: {error.strerror}"
            yield None  # what the decoder still holds

    def _decode_packet(self, stream: Any, packet: Any) -> list[Any]:
        try:
            return list(stream.decode(packet))
        except (FFmpegError, MemoryError) as error:
            self.note = f"damaged packets were left out: {error}"
            return []

    def _note_truncation(self, last_s: float) -> None:
        if not self.note and self._declared_s is not None and last_s + 1.0 < self._declared_s:
            self.note = f"the file declares {self._declared_s:.1f} s, but its frames end at {last_s:.1f} s"


def open_video(path: Path) -> Video:
    """Counts a file's packets; raises VideoError for anything that is not a readable video."""
    try:
        if not path.is_file():
            raise VideoError(Reason.NOT_FOUND, f"no such file: {path}")
        if path.stat().st_size == 0:
            raise VideoError(Reason.DECODE_ERROR, f"{path} is empty")
    except OSError as error:
        raise VideoError(Reason.DECODE_ERROR, f"{path} cannot be opened: {error.strerror}") from error
    with _open_container(path) as container:
        stream = _find_stream(container, path)
        context = stream.codec_context
        if context.width * context.height > MOST_PIXELS:
            raise VideoError(
                Reason.DECODE_ERROR,
                f"{path} has frames of {context.width}x{context.height} pixels; at most {MOST_PIXELS} are read",
            )
        facts = _count_packets(container, stream, path)
        return Video(path, facts, _read_declared_duration(container, stream))


def _open_container(path: Path) -> Any:
    try:
        # Titles in an old encoding are no reason to refuse a film.
        return av.open("file:" + str(path.resolve()), options=OPTIONS, metadata_errors="replace")
    except (FFmpegError, ValueError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise VideoError(Reason.DECODE_ERROR, f"{path} is not a video file that can be read: {text}") from error


def _find_stream(container: Any, path: Path) -> Any:
    streams = [s for s in container.streams.video if not s.disposition & type(s.disposition).attached_pic]
    if not streams:
        raise VideoError(Reason.NO_VIDEO_STREAM, f"{path} has no video in it, only other streams")
    return streams[0]


def _count_packets(container: Any, stream: Any, path: Path) -> VideoFacts:
    times: list[int] = []
    longest = 0
    try:
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.size and not packet.is_discard:
                times.append(stamp)
                longest = max(longest, stamp + (packet.duration or 0))
    except FFmpegError as error:
        if not times:
            raise VideoError(Reason.DECODE_ERROR, f"{path} cannot be read: {error}") from error
    if not times:
        raise VideoError(Reason.DECODE_ERROR, f"{path} holds no frame")
    return VideoFacts(
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        codec=stream.codec_context.name,
        container=container.format.name,
        frames=len(times),
        duration_s=_measure_duration(times, longest, stream),
    )


def _read_declared_duration(container: Any, stream: Any) -> float | None:
    """Seconds of video that the file's header promises, where it says."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:  # else it may be that of longer sound
        return float(container.duration) / 1e6
    return None


def _measure_duration(times: Sequence[int], longest: int, stream: Any) -> float:
    first, last = min(times), max(times)
    if longest <= last:  # the container stores no durations: the last frame lasts as long as the mean one
        rate = stream.guessed_rate or Fraction(25)
        mean = (last - first) / (len(times) - 1) if len(times) > 1 else float(1 / (rate * stream.time_base))
        return float((last + mean - first) * stream.time_base)
    return float((longest - first) * stream.time_base)


def _convert(shown: _Shown, path: Path) -> Frame:
    raw = shown.raw
    try:
        width = max(1, round(raw.width * shown.pixel_ratio))
        rgb = raw.to_ndarray(format="rgb24", width=width, height=raw.height, interpolation="AREA")
    except (FFmpegError, ValueError, MemoryError) as error:
        raise VideoError(Reason.DECODE_ERROR, f"a frame of {path} cannot be converted: {error}") from error
    upright = np.rot90(rgb, k=round(raw.rotation / 90) % 4)
    return Frame(shown.time_s, np.ascontiguousarray(upright))
