"""A video that is read as it comes, from a camera, a pipe or a file: the frame on screen at each sampled instant."""

from __future__ import annotations

import stat
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
from av.error import FFmpegError

from extract.errors import Reason, UsageError, VideoError
from extract.limits import DEFAULT_LIMITS, MediaLimits
from extract.video import (
    OPTIONS,
    Frame,
    PacketReader,
    Shown,
    convert_frame,
    count_coded_pixels,
    count_threads,
    describe_shortage,
    find_stream,
    open_container,
    read_pixel_ratio,
    require_modest_header,
)

if TYPE_CHECKING:
    from extract.specs import SamplingSpec  # not for the decoder process, which would load pydantic

Kind = Literal["file", "pipe", "camera"]

STDIN = "-"
RATE = Fraction(25)  # where a source does not say its own
RESTART_S = 1.0  # a clock that goes back by more starts anew; by less, it only trembles
EARLY_MP4 = (
    "an mp4 is read from a pipe only if its index comes first (`-movflags faststart` or `frag_keyframe` of ffmpeg); "
    "else name the file itself, or send mpegts or matroska"
)


@dataclass(frozen=True)
class LiveSource:
    """Where a video comes from; `name` is a path, a camera's device, or - for standard input."""

    kind: Kind
    name: str

    @classmethod
    def parse(cls, text: str) -> LiveSource:
        """Reads what a user wrote: a camera's number, -, or the path of a file, a FIFO or a camera."""
        if text == STDIN:
            return cls("pipe", text)
        if text.isascii() and text.isdecimal():
            return cls("camera", f"/dev/video{int(text)}" if sys.platform == "linux" else str(int(text)))
        try:
            mode = Path(text).stat().st_mode
        except (OSError, ValueError) as error:
            raise UsageError(_explain_missing(text)) from error
        kinds: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFIFO: "pipe", stat.S_IFCHR: "camera"}
        kind = kinds.get(stat.S_IFMT(mode))
        if kind is None:
            raise UsageError(f"{text} is no video source; give a camera's number, a file, a FIFO, or - for a pipe")
        return cls(kind, text)

    @property
    def title(self) -> str:
        """How it is called in a sentence."""
        return "standard input" if self.name == STDIN else self.name


def _explain_missing(text: str) -> str:
    if "://" in text:
        return (
            f"{text} is an address, and nothing is read from the network; pipe it in: "
            f"ffmpeg -i {text} -c copy -f mpegts - | unmask watch MODEL -"
        )
    return f"no such source: {text}; give a camera's number, a file, a FIFO, or - for a pipe"


@dataclass(frozen=True)
class LiveInstants:
    """The instants of endless consecutive clips, all of one length: those that scoring samples in a full clip."""

    clip_s: float
    offsets_s: tuple[float, ...]  # from a clip's start, ascending

    @classmethod
    def of(cls, sampling: SamplingSpec) -> LiveInstants:
        """Those of a contract's sampling."""
        return cls(sampling.clip_s, tuple(sampling.sample_instants(0.0, sampling.clip_s).tolist()))

    @property
    def longest_step_s(self) -> float:
        """The most time between two of them."""
        return max(b - a for a, b in pairwise((*self.offsets_s, self.clip_s + self.offsets_s[0])))

    def count_before(self, time_s: float) -> int:
        """How many of them lie before a time."""
        clip = int(time_s // self.clip_s)
        return clip * len(self.offsets_s) + int(np.searchsorted(self.offsets_s, time_s - clip * self.clip_s))

    def list_clips(self, first: int, stop: int) -> list[int]:
        """The clips that the instants from number `first` to `stop` lie in, of very many the first and the last.

        A frame that stays on screen for several clips is all that those between have, which is too little for a score.
        """
        clips = first // len(self.offsets_s), (stop - 1) // len(self.offsets_s)
        return sorted(set(clips))


@dataclass(frozen=True)
class LiveOrder:
    """What a decoder process is asked for; `descriptor` is that of the pipe which it has inherited."""

    source: LiveSource
    instants: LiveInstants
    realtime: bool = False
    descriptor: int = -1
    threads: int = 0

    def to_document(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> LiveOrder:
        """The opposite."""
        instants = document["instants"]
        return cls(
            **{
                **document,
                "source": LiveSource(**document["source"]),
                "instants": LiveInstants(instants["clip_s"], tuple(instants["offsets_s"])),
            }
        )


@dataclass(frozen=True)
class LiveFrame:
    """A sampled frame, the number of its clip, and when it was decoded by this machine's monotonic clock."""

    frame: Frame
    clip: int
    decoded_s: float


class LiveVideo(PacketReader):
    """A source that is read once, in order. `note` tells what was wrong with it; ask after reading."""

    def __init__(
        self,
        order: LiveOrder,
        limits: MediaLimits = DEFAULT_LIMITS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.note = ""
        self.waited_s = 0.0  # for the clock, where a file is read in real time
        self._order = order
        self._limits = limits
        self._sleep = sleep
        self.path = Path(order.source.title)
        self.broken = f"{self.path} broke off"

    def read(self) -> Iterator[LiveFrame]:
        """Frames as they come, each once a clip; raises VideoError for what is not a video, or has no frame."""
        instants, done = self._order.instants, 0
        shown: Shown | None = None
        with closing(self._decode()) as frames:
            for following, lasts_s in frames:
                if shown is not None:
                    until = instants.count_before(following.time_s)
                    yield from self._show(shown, done, until)
                    done = max(done, until)
                shown, end_s = following, following.time_s + lasts_s
        if shown is None:
            note = self.note or "it ends before the first"
            hint = f"; {EARLY_MP4}" if self._order.source.kind == "pipe" else ""
            raise VideoError(Reason.DECODE_ERROR, f"no frame of {self.path} can be decoded ({note}){hint}")
        # A source shorter than its first instant still shows something.
        yield from self._show(shown, done, max(instants.count_before(end_s), 1))

    def _show(self, shown: Shown, first: int, stop: int) -> Iterator[LiveFrame]:
        """A frame for the instants from number `first` to `stop`, if there are any."""
        if stop <= first:
            return
        frame, decoded_s = convert_frame(shown, self.path, self._limits), time.monotonic()
        for clip in self._order.instants.list_clips(first, stop):
            yield LiveFrame(frame, clip, decoded_s)

    def _decode(self) -> Generator[tuple[Shown, float], None, None]:
        """Frames in order of presentation, with the seconds that each is meant to last."""
        with self._open() as container:
            stream = find_stream(container, self.path)
            require_modest_header(container, stream, self.path, self._limits)
            # Several frames at once are faster, and several frames late.
            stream.thread_type = "AUTO" if self._order.source.kind == "file" and not self._order.realtime else "SLICE"
            context = stream.codec_context
            context.thread_count = count_threads(self._order.threads, context.width * context.height, self._limits)
            context.options = {"max_pixels": str(count_coded_pixels(self._limits))}
            pixel_ratio, self.note = read_pixel_ratio(stream)
            clock = _StreamClock(Fraction(stream.time_base or Fraction(1, 1000)), stream.guessed_rate or RATE)
            begun_s = time.monotonic()
            packets = chain.from_iterable(self.decode_packet(stream, one) for one in self.demux(container, stream))
            for number, raw in enumerate(packets):
                begun_s = begun_s if number else time.monotonic()
                time_s = clock.tell(raw)
                if self._order.realtime:
                    self._wait(begun_s + time_s - time.monotonic())
                yield Shown(time_s, raw, pixel_ratio), clock.measure(raw)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
            self.waited_s += seconds

    def _open(self) -> Any:
        source = self._order.source
        if source.kind == "file":
            return open_container(self.path, self._limits)
        try:
            if source.kind == "camera":
                return av.open(source.name, format="v4l2" if sys.platform == "linux" else "avfoundation")
            options = {**OPTIONS, "protocol_whitelist": "pipe", "max_pixels": str(count_coded_pixels(self._limits))}
            return av.open(f"pipe:{self._order.descriptor}", options=options, metadata_errors="replace")
        except MemoryError as error:
            raise VideoError(Reason.OUT_OF_MEMORY, describe_shortage(self.path)) from error
        except (FFmpegError, ValueError, UnicodeError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise VideoError(Reason.DECODE_ERROR, _explain_unreadable(source, text)) from error


class _StreamClock:
    """Seconds since the first frame, from time stamps that may be missing, stand still or start anew."""

    def __init__(self, tick_s: Fraction, rate: Fraction) -> None:
        self._tick_s = tick_s
        self._mean_s = float(1 / rate)
        self._origin_s: float | None = None
        self._latest_s = 0.0

    def tell(self, raw: Any) -> float:
        """The time of the next frame, never before that of the last."""
        if self._origin_s is None:
            self._origin_s = 0.0 if raw.pts is None else self._scale(raw.pts)
            return 0.0
        following_s = self._latest_s + self._mean_s
        time_s = following_s if raw.pts is None else self._scale(raw.pts) - self._origin_s
        if time_s < self._latest_s - RESTART_S:
            self._origin_s += time_s - following_s
            time_s = following_s
        self._latest_s = max(self._latest_s, time_s)
        return self._latest_s

    def measure(self, raw: Any) -> float:
        """How long a frame lasts."""
        return self._scale(raw.duration) if raw.duration else self._mean_s

    def _scale(self, ticks: int) -> float:
        return float(ticks) * self._tick_s.numerator / self._tick_s.denominator


def _explain_unreadable(source: LiveSource, text: str) -> str:
    if source.kind == "camera":
        return f"the camera {source.name} cannot be opened: {text}; see that it is there, free, and yours to read"
    return f"{source.title} is not a video that can be read from a pipe: {text}; {EARLY_MP4}"
