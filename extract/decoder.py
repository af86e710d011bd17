"""A process that does nothing but decode: `python -m extract.decoder FD LIMITS`, the other end of `isolation.py`.

Words go as lines of JSON, frames through the memory behind the file descriptor FD. LIMITS are MediaLimits as JSON,
under which the process puts itself. From the parent:
    {"open": PATH, "folder": PATH, "threads": N}, then {"read": [INSTANTS]}, and {"free": N} for every N frames it has
    taken; PATH may be relative to the folder. Or
    {"live": ORDER}                a source that is opened and read as it comes, see extract/live_video.py
To the parent:
    {"facts": {...}}, then {"frame": {...}} each, then {"end": {"note": TEXT, "busy_s": SECONDS}}; or
    {"refused": [REASON, DETAIL]}
A damaged file can end or hang this process and no other; when the parent is gone, it ends.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, TextIO

import numpy as np

from extract.confinement import confine_process, grant_processor
from extract.errors import Reason, VideoError
from extract.limits import SLOWEST_BYTES_PER_S, MediaLimits
from extract.video import Frame, Video, describe_shortage, open_video

BUFFER_BYTES = 64 << 20
MOST_FRAMES = 32


class FrameBuffer:
    """Shared memory for some frames in a row, each freed in the order in which it was filled.

    The parent has made it as large as two of the largest frames, and nobody can change that.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._slot_bytes = 0
        self._slots = 0
        self._next = 0
        self._free = Semaphore(0)
        self._memory: mmap.mmap | None = None

    def store(self, frame: Frame) -> int:
        """Waits for room, copies the picture, and returns where it begins."""
        if frame.rgb.nbytes > self._slot_bytes:
            self._enlarge(frame.rgb.nbytes)
        self._free.acquire()
        offset = self._next * self._slot_bytes
        self._next = (self._next + 1) % self._slots
        assert self._memory is not None  # made for the first frame
        place = np.frombuffer(self._memory, np.uint8, frame.rgb.nbytes, offset)
        np.copyto(place, frame.rgb.reshape(-1))
        return offset

    def free(self, count: int) -> None:
        """Frames that the parent has taken."""
        self._free.release(count)

    def _enlarge(self, frame_bytes: int) -> None:
        for _ in range(self._slots):
            self._free.acquire()
        self._memory, self._slot_bytes, self._slots = None, 0, 0
        slots = max(2, min(MOST_FRAMES, BUFFER_BYTES // frame_bytes))
        try:
            self._memory = mmap.mmap(self._descriptor, slots * frame_bytes)
        except OSError as error:
            raise MemoryError from error
        self._slot_bytes, self._slots, self._next = frame_bytes, slots, 0
        self._free.release(slots)


class DecoderServer:
    """Answers the parent, one video after the other."""

    def __init__(self, buffer: FrameBuffer, limits: MediaLimits, source: TextIO, sink: TextIO) -> None:
        self._buffer = buffer
        self._limits = limits
        self._source = source
        self._sink = sink
        self._requests: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def serve(self) -> None:
        """Runs until the parent closes its end."""
        self._say({"ready": True})
        Thread(target=self._listen, daemon=True).start()
        video: Video | None = None
        while True:
            request = self._requests.get()
            try:
                if "live" in request:
                    self._watch(request["live"])
                elif "open" in request:
                    video = None
                    _follow(request["folder"])
                    video = self._open(Path(request["open"]), request["threads"])
                else:
                    assert video is not None  # a parent opens before it reads
                    self._read(video, np.array(request["read"], np.float64))
            except VideoError as error:
                self._say({"refused": [error.reason, error.detail]})
            except MemoryError:
                detail = describe_shortage(Path(request["open"]) if video is None else video.path)
                self._say({"refused": [Reason.OUT_OF_MEMORY, detail]})

    def _listen(self) -> None:
        """A thread of its own: it frees frames while decoding goes on, and sees that the parent is gone."""
        try:
            for line in self._source:
                message = json.loads(line)
                if "free" in message:
                    self._buffer.free(message["free"])
                else:
                    self._requests.put(message)
        finally:  # whatever happens: a process that listens no more would stay for ever
            os._exit(0)

    def _open(self, path: Path, threads: int) -> Video:
        size = os.path.getsize(path) if os.path.isfile(path) else 0  # unlike Path's, it bears with every name
        grant_processor(self._limits.cpu_base_s + size / SLOWEST_BYTES_PER_S)
        video = open_video(path, threads, self._limits)
        self._say({"facts": asdict(video.facts)})
        return video

    def _read(self, video: Video, instants: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        grant_processor(self._limits.cpu_base_s + self._limits.cpu_s_per_s * video.facts.footage_s)
        busy_s = 0.0
        frames: Iterator[tuple[slice, Frame]] = video.read_at(instants)
        while True:
            begun = time.perf_counter()
            served, frame = next(frames, (None, None))
            busy_s += time.perf_counter() - begun
            if served is None or frame is None:
                break
            place = {"offset": self._buffer.store(frame), "shape": frame.rgb.shape, "time_s": frame.time_s}
            self._say({"frame": {**place, "first": served.start, "stop": served.stop}})
        self._say({"end": {"note": video.note, "busy_s": busy_s}})

    def _watch(self, document: dict[str, Any]) -> None:
        from extract.live_video import LiveOrder, LiveVideo  # which files have no use for

        video = LiveVideo(LiveOrder.from_document(document), self._limits)
        busy_s = 0.0
        frames = video.read()
        while True:
            grant_processor(self._limits.cpu_base_s)  # a frame: a camera goes on for as long as it likes
            begun = time.perf_counter()
            try:
                live = next(frames, None)
            except MemoryError as error:
                raise VideoError(Reason.OUT_OF_MEMORY, describe_shortage(video.path)) from error
            busy_s += time.perf_counter() - begun
            if live is None:
                break
            rgb = live.frame.rgb
            place = {"offset": self._buffer.store(live.frame), "shape": rgb.shape, "time_s": live.frame.time_s}
            self._say({"frame": {**place, "clip": live.clip, "decoded_s": live.decoded_s}})
        self._say({"end": {"note": video.note, "busy_s": busy_s - video.waited_s}})

    def _say(self, message: dict[str, Any]) -> None:
        self._sink.write(json.dumps(message) + "\n")
        self._sink.flush()


def _follow(folder: str) -> None:
    """Goes where the parent is, for paths that are relative to it."""
    with suppress(OSError):  # then the path is not found either
        if folder:
            os.chdir(folder)


def main() -> None:
    """Serves on the standard streams."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # All imports went well; what a library prints from now on, nobody reads.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.dup2(silence, sys.stderr.fileno())
    limits = MediaLimits(**json.loads(sys.argv[2]))
    confine_process(limits)
    DecoderServer(FrameBuffer(int(sys.argv[1])), limits, sys.stdin, sink).serve()


if __name__ == "__main__":
    main()
