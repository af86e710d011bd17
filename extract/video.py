"""Frames of a video at chosen instants, upright and with square pixels, never more than one in memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from extract.errors import Reason, VideoError
from extract.limits import DEFAULT_LIMITS, MediaLimits
from extract.packets import PacketIndex, ReadingPlan, holds_idr, plan_reading

# Playlists and patterns can make FFmpeg open other files, whatever the name of this one says.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
WIDEST_PIXEL = 10.0  # of its height; a file that claims more is wrong, or wants our memory
LAST_TICK = (1 << 63) - 1
MOST_THREADS = 16  # that FFmpeg takes by itself


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

    @property
    def footage_s(self) -> float:
        """The seconds that reading may be charged to: a frame that claims to last for longer than one counts as one."""
        return min(self.duration_s, float(self.frames))


@dataclass(frozen=True)
class Shown:
    """A decoded frame before its conversion, which only the chosen ones pay for."""

    time_s: float
    raw: Any
    pixel_ratio: float


class _MissedError(Exception):
    """A decoder that was spared some packets did not give the frame that was wanted."""


class PacketReader:
    """What all readers of packets share: what is damaged is left out and noted, and the rest is read.

    `note` tells what was wrong with a source that could still be used.
    """

    path: Path
    note: str
    broken = "the file cannot be read to its end"

    def demux(self, container: Any, stream: Any) -> Iterator[Any]:
        """The packets, and in place of what cannot be read, None: the decoder gives what it still holds."""
        try:
            yield from container.demux(stream)
        except FFmpegError as error:
            self.note = f"{self.broken}: {error.strerror}"
            yield None

    def decode_packet(self, stream: Any, packet: Any) -> list[Any]:
        """The frames that a packet completes; raises VideoError where memory does not suffice."""
        try:
            return list(stream.decode(packet))
        except MemoryError as error:
            raise VideoError(Reason.OUT_OF_MEMORY, describe_shortage(self.path)) from error
        except FFmpegError as error:
            self.note = f"damaged packets were left out: {error}"
            return []


class Video(PacketReader):
    """A video file whose packets have been counted; frames are decoded when asked for.

    `note` tells what was wrong with a file that could still be used; ask after reading.
    """

    def __init__(self, path: Path, scan: _Scan, threads: int = 0, limits: MediaLimits = DEFAULT_LIMITS) -> None:
        """`threads` is how many the decoder may use; 0 leaves it to FFmpeg."""
        self._limits = limits
        self.path = path
        self.facts = scan.facts
        self.note = scan.note
        self._index = scan.index
        self._threads = threads

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        """Frames on screen at ascending instants, with the slice of instants each of them serves.

        An instant past the last frame gets the last frame. Only the groups of pictures that hold one are decoded
        where that spares work. Raises VideoError when no frame can be decoded.
        """
        plan = None if self._index is None else plan_reading(self._index, instants)
        done = 0
        try:
            for served, frame in self._read(instants, plan, 0):
                done = served.stop
                yield served, frame
        except _MissedError:
            yield from self._read(instants, None, done)

    def _read(
        self, instants: NDArray[np.float64], plan: ReadingPlan | None, done: int
    ) -> Iterator[tuple[slice, Frame]]:
        """The same from instant number `done` on."""
        shown: Shown | None = None
        for following in self._decode(plan):
            if shown is not None:
                until = int(np.searchsorted(instants, following.time_s, side="left"))
                if until > done:
                    yield slice(done, until), self._convert(shown, plan, slice(done, until))
                    done = until
                if done == len(instants):
                    return
            shown = following
        if shown is None and plan is not None:
            raise _MissedError
        if shown is None:
            note = self.note or "the decoder gave none"
            if not self.facts.width * self.facts.height:  # FFmpeg forgets a size that it would not open
                note = f"their size is not known, or more than {self._limits.most_pixels} pixels; {note}"
            raise VideoError(Reason.DECODE_ERROR, f"no frame of {self.path} can be decoded ({note})")
        yield slice(done, len(instants)), self._convert(shown, plan, slice(done, len(instants)))

    def _convert(self, shown: Shown, plan: ReadingPlan | None, served: slice) -> Frame:
        """The picture for some instants; raises _MissedError where the plan wanted another one for any of them."""
        if plan is not None:
            late_s = np.abs(plan.on_screen_s[served] - shown.time_s)
            if shown.raw.is_corrupt or late_s.max(initial=0.0) > 1e-6:
                raise _MissedError
        return convert_frame(shown, self.path, self._limits)

    def _decode(self, plan: ReadingPlan | None) -> Iterator[Shown]:
        """Frames in order of presentation; damaged packets are left out and noted."""
        first = self._find_first()
        latest = 0.0
        mean_s = self.facts.duration_s / self.facts.frames
        with open_container(self.path, self._limits) as container:
            stream = find_stream(container, self.path)
            stream.thread_type = "AUTO"
            pixels = self.facts.width * self.facts.height
            stream.codec_context.thread_count = count_threads(self._threads, pixels, self._limits)
            # A frame in the middle of a film may be of any size.
            stream.codec_context.options = {"max_pixels": str(count_coded_pixels(self._limits))}
            pixel_ratio, note = read_pixel_ratio(stream)
            self.note = note or self.note
            frames = self._decode_all(container, stream) if plan is None else self._decode_plan(container, stream, plan)
            tick_s = Fraction(stream.time_base)
            for raw in frames:
                # Not raw.time: frames that are drained from the decoder do not know their time base.
                if raw.pts is not None:
                    time_s = float(raw.pts) * tick_s.numerator / tick_s.denominator
                else:
                    time_s = 0.0 if first is None else first + latest + mean_s
                first = time_s if first is None else first
                latest = max(latest, time_s - first)
                yield Shown(latest, raw, pixel_ratio)

    def _find_first(self) -> float | None:
        """Time stamp of the first frame, where the packets tell it."""
        return None if self._index is None else float(self._index.times_s[self._index.shown].min())

    def _decode_all(self, container: Any, stream: Any) -> Iterator[Any]:
        for packet in self.demux(container, stream):
            yield from self.decode_packet(stream, packet)

    def _decode_plan(self, container: Any, stream: Any, plan: ReadingPlan) -> Iterator[Any]:
        """The frames of the packets that the plan feeds, and of no packet that nobody wants or refers to."""
        feeding = True
        for number, packet in enumerate(self.demux(container, stream)):
            known = packet is not None and packet.size and number < len(plan.feed)
            if known and not plan.feed[number]:
                if feeding and number:
                    yield from self.decode_packet(stream, None)  # what the decoder still holds
                feeding = False
                continue
            if not feeding:
                stream.codec_context.flush_buffers()
                feeding = True
            stream.codec_context.skip_frame = "NONREF" if known and not plan.wanted[number] else "DEFAULT"
            yield from self.decode_packet(stream, packet)


def open_video(path: Path, threads: int = 0, limits: MediaLimits = DEFAULT_LIMITS) -> Video:
    """Counts a file's packets; raises VideoError for anything that is not a readable video, or beyond `limits`.

    `threads` is how many the decoder may use; 0 leaves it to FFmpeg.
    """
    _require_file(path)
    with open_container(path, limits) as container:
        stream = find_stream(container, path)
        require_modest_header(container, stream, path, limits)
        scan = _scan_packets(container, stream, path, limits)
    _require_modest_packets(scan.facts, path, limits)
    return Video(path, scan, threads, limits)


def describe_shortage(path: Path) -> str:
    """What to say of a file whose reading failed for want of memory."""
    return f"reading {path} takes more memory than FFmpeg gives, or a decoder may have (`memory_bytes` of MediaLimits)"


def _require_file(path: Path) -> None:
    try:
        if not path.exists():
            raise VideoError(Reason.NOT_FOUND, f"no such file: {path}")
        if not path.is_file():
            raise VideoError(Reason.DECODE_ERROR, f"{path} is a folder, a device or a pipe; name a video file")
        if path.stat().st_size == 0:
            raise VideoError(Reason.DECODE_ERROR, f"{path} is empty")
    except OSError as error:
        raise VideoError(Reason.DECODE_ERROR, f"{path} cannot be opened: {error.strerror}") from error


def require_modest_header(container: Any, stream: Any, path: Path, limits: MediaLimits) -> None:
    """Refuses what a header says that is beyond the limits."""
    streams = sum(one.type != "attachment" for one in container.streams)
    if streams > limits.most_streams:
        _refuse(path, f"has {streams} streams", f"{limits.most_streams} are read", "most_streams")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.most_pixels:
        _refuse(path, f"has frames of {width}x{height} pixels", f"{limits.most_pixels} are read", "most_pixels")


def _require_modest_packets(facts: VideoFacts, path: Path, limits: MediaLimits) -> None:
    if facts.duration_s > limits.most_duration_s:
        found = f"claims to last for {facts.duration_s:.0f} s with {facts.frames} frames"
        _refuse(path, found, f"{limits.most_duration_s:.0f} s are read", "most_duration_s")
    if facts.frames > limits.most_fps * max(1.0, facts.duration_s):
        found = f"has {facts.frames} frames in {facts.duration_s:.3g} s"
        _refuse(path, found, f"{limits.most_fps:g} frames a second are read", "most_fps")


def _refuse(path: Path, found: str, most: str, limit: str) -> NoReturn:
    raise VideoError(Reason.TOO_LARGE, f"{path} {found}; at most {most} (`{limit}` of MediaLimits)")


def count_threads(asked: int, pixels: int, limits: MediaLimits) -> int:
    """As many as asked for that can hold a frame of ten bits each in an eighth of the memory."""
    fit = max(1, limits.memory_bytes // 8 // (3 * max(1, pixels)))
    return asked if fit >= MOST_THREADS else min(asked or os.cpu_count() or 1, fit)


def count_coded_pixels(limits: MediaLimits) -> int:
    """Codecs store whole blocks, which may go beyond the picture."""
    return limits.most_pixels + limits.most_pixels // 8


def open_container(path: Path, limits: MediaLimits) -> Any:
    """Opens a file, and nothing that it may refer to."""
    # The pixels are for the frames that FFmpeg decodes to see what is in a file.
    options = {**OPTIONS, "max_pixels": str(count_coded_pixels(limits))}
    try:
        # Titles in an old encoding are no reason to refuse a film.
        return av.open("file:" + str(path.resolve()), options=options, metadata_errors="replace")
    except MemoryError as error:
        raise VideoError(Reason.OUT_OF_MEMORY, describe_shortage(path)) from error
    except (FFmpegError, ValueError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise VideoError(Reason.DECODE_ERROR, f"{path} is not a video file that can be read: {text}") from error


def find_stream(container: Any, path: Path) -> Any:
    """The video in a container: its first stream of pictures that is not a cover."""
    streams = [s for s in container.streams.video if not s.disposition & type(s.disposition).attached_pic]
    if not streams:
        raise VideoError(Reason.NO_VIDEO_STREAM, f"{path} has no video in it, only other streams")
    if streams[0].codec_context is None:
        raise VideoError(Reason.DECODE_ERROR, f"the video in {path} is coded in a way that FFmpeg does not know")
    return streams[0]


def read_pixel_ratio(stream: Any) -> tuple[float, str]:
    """How much wider than high a pixel is, and what to note of a stream that says it absurdly."""
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if 1 / WIDEST_PIXEL <= ratio <= WIDEST_PIXEL:
        return float(ratio), ""
    return 1.0, f"pixels of {ratio.numerator}:{ratio.denominator} make no sense and were taken for square"


@dataclass(frozen=True)
class _Scan:
    """What a pass over the packets found; no index where a packet has no time stamp."""

    facts: VideoFacts
    index: PacketIndex | None
    note: str


def _scan_packets(container: Any, stream: Any, path: Path, limits: MediaLimits) -> _Scan:
    stamps, keys, shown = array("q"), bytearray(), bytearray()
    longest = 0
    stamped = True
    step = max(1, round(1 / (_guess_rate(stream) * stream.time_base)))
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if len(stamps) == limits.most_frames:
                _refuse(path, f"has more than {limits.most_frames} frames", "that many are read", "most_frames")
            stamped &= packet.pts is not None
            stamp = _read_stamp(packet, stamps[-1] if stamps else None, step)
            stamps.append(stamp)
            keys.append(packet.is_keyframe and _begins_afresh(packet, stream))
            shown.append(not packet.is_discard)
            longest = max(longest, stamp + (packet.duration or 0) if shown[-1] else 0)
    except MemoryError as error:
        raise VideoError(Reason.OUT_OF_MEMORY, describe_shortage(path)) from error
    except FFmpegError as error:
        if not any(shown):
            raise VideoError(Reason.DECODE_ERROR, f"{path} cannot be read: {error}") from error
    if not any(shown):
        raise VideoError(Reason.DECODE_ERROR, f"{path} holds no frame")
    index = PacketIndex(
        np.frombuffer(stamps, np.int64),
        np.frombuffer(keys, np.bool_),
        np.frombuffer(shown, np.bool_),
        Fraction(stream.time_base),
    )
    times = index.stamps[index.shown]
    facts = VideoFacts(
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        codec=stream.codec_context.name,
        container=container.format.name,
        frames=len(times),
        duration_s=_measure_duration(times, longest, stream),
    )
    declared_s = _read_declared_duration(container, stream)
    last_s = float((int(times.max()) - int(times.min())) * stream.time_base)
    return _Scan(facts, index if stamped else None, _describe_truncation(declared_s, last_s))


def _read_stamp(packet: Any, before: int | None, step: int) -> int:
    """When a packet is shown, in ticks; a while after the one before where nothing tells."""
    if packet.pts is not None:
        return int(packet.pts)
    if packet.dts is not None:
        return int(packet.dts)
    return 0 if before is None else min(before + (packet.duration or step), LAST_TICK)


def _guess_rate(stream: Any) -> Fraction:
    return Fraction(stream.guessed_rate or 25)


def _begins_afresh(packet: Any, stream: Any) -> bool:
    context = stream.codec_context
    return context.name != "h264" or holds_idr(bytes(packet), context.extradata)


def _read_declared_duration(container: Any, stream: Any) -> float | None:
    """Seconds of video that the file's header promises, where it says."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:  # else it may be that of longer sound
        return float(container.duration) / 1e6
    return None


def _describe_truncation(declared_s: float | None, last_s: float) -> str:
    if declared_s is None or last_s + 1.0 >= declared_s:
        return ""
    return f"the file declares {declared_s:.1f} s, but its frames end at {last_s:.1f} s"


def _measure_duration(times: NDArray[np.int64], longest: int, stream: Any) -> float:
    first, last = int(times.min()), int(times.max())
    if longest <= last:  # the container stores no durations: the last frame lasts as long as the mean one
        one = 1 / (_guess_rate(stream) * stream.time_base)
        mean = (last - first) / (len(times) - 1) if len(times) > 1 else float(one)
        return float((last + mean - first) * stream.time_base)
    return float((longest - first) * stream.time_base)


def convert_frame(shown: Shown, path: Path, limits: MediaLimits) -> Frame:
    """A decoded frame as RGB, upright, its pixels square."""
    raw = shown.raw
    width = max(1, round(raw.width * shown.pixel_ratio))
    if width * raw.height > limits.most_pixels:
        found = f"has frames of {width}x{raw.height} square pixels"
        _refuse(path, found, f"{limits.most_pixels} are read", "most_pixels")
    try:
        rgb = raw.to_ndarray(format="rgb24", width=width, height=raw.height, interpolation="AREA")
    except MemoryError as error:
        raise VideoError(Reason.OUT_OF_MEMORY, describe_shortage(path)) from error
    except (FFmpegError, ValueError) as error:
        raise VideoError(Reason.DECODE_ERROR, f"a frame of {path} cannot be converted: {error}") from error
    upright = np.rot90(rgb, k=round(raw.rotation / 90) % 4)
    return Frame(shown.time_s, np.ascontiguousarray(upright))
