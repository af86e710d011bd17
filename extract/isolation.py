"""Decoding in a process of its own: a file that crashes or hangs the decoder costs its own status and nothing else."""

from __future__ import annotations

import json
import math
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from extract.answers import (
    Place,
    read_end,
    read_facts,
    read_message,
    read_place,
    read_refusal,
    take_count,
    take_seconds,
)
from extract.errors import CancelledError, Reason, UnmaskError, VideoError
from extract.limits import DEFAULT_LIMITS, SLOWEST_BYTES_PER_S, MediaLimits
from extract.live_video import LiveFrame, LiveOrder
from extract.session import count_processors
from extract.video import Frame, VideoFacts

COMMAND = (sys.executable, "-m", "extract.decoder")
LIMIT_S = 60.0
CLIP_S = 10.0  # the footage that one limit is for
START_S = 60.0  # Python and FFmpeg, on a machine that is busy
MOST_PATIENCE_S = 3600.0  # whatever duration a file claims
MOST_MESSAGE_BYTES = 1 << 20
LEAST_SHARED_BYTES = 64 << 20  # room for many small frames
DYING_S = 5.0
CANCEL_S = 0.1  # between two looks at whether anybody still waits
# Each thread of a decoder would reserve 64 MiB of the address space it may have, and each of numpy's another 32.
THRIFT = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# All that a decoder is told of the environment, where others keep passwords: what Python and the loader go by.
PASSED_ON = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR"}
PASSED_ON_PREFIXES = ("LC_", "DYLD_", "PYTHON")


class Cancel(Protocol):
    """Says that nobody wants the answer any more; a threading.Event does."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


def count_decoders() -> int:
    """Decoder processes that suit this machine: one for every two processors."""
    return max(1, count_processors() // 2)


class IsolatedVideo:
    """A video open in another process, with the interface of `extract.video.Video`.

    `busy_s` tells, after reading, how long that process worked for it.
    """

    def __init__(self, decoder: DecoderProcess, path: Path, facts: VideoFacts) -> None:
        self.path = path
        self.facts = facts
        self.note = ""
        self.busy_s = 0.0
        self._decoder = decoder

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        """The frames on screen at ascending instants, as `Video.read_at` gives them.

        Raises VideoError also where the decoder died or took too long.
        """
        end = yield from self._decoder.read(self.path, self.facts, instants)
        self.note, self.busy_s = end["note"], end["busy_s"]


class DecoderProcess:
    """One decoder process, started when it is needed and again after a file that ended it.

    `limit_s` bounds the wait for each frame, and the wait for all frames of ten seconds of footage. `limits` bound
    what the process may take, and what files it reads at all. Not for several threads: each has its own.
    """

    def __init__(self, limit_s: float = LIMIT_S, threads: int = 0, limits: MediaLimits = DEFAULT_LIMITS) -> None:
        self._limit_s = limit_s
        self._threads = threads
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False  # it has said that it is
        self._reading = False  # frames of a file are on their way
        self._cancel: Cancel | None = None
        self._aborted = False
        self._frames = -1  # descriptor of the shared memory
        self._memory: mmap.mmap | None = None
        self._pending = b""  # the beginning of a message
        self._inherited: tuple[int, ...] = ()

    def inherit(self, descriptor: int) -> None:
        """Lets the process that is launched next read from a pipe of ours."""
        self._inherited = (descriptor,)

    def launch(self) -> None:
        """Starts the process without waiting until it is ready; `open` does both where need be."""
        if self._process is None or (self._ready and self._process.poll() is not None):
            self.close()
            self._start()

    def open(self, path: Path, cancel: Cancel | None = None) -> IsolatedVideo:
        """Opens a file; raises VideoError for anything that is not a readable video.

        Raises UnmaskError where no decoder process can be started, which is no fault of the file. Once `cancel` is
        set, this and the reading of the frames raise CancelledError, and the process is ended.
        """
        self._cancel = cancel
        if self._reading:
            self.close()
        self.launch()
        if not self._ready:
            self._await_start()
        patience_s = self._limit_s + _measure_size(path) / SLOWEST_BYTES_PER_S
        try:
            self._say(
                {"open": os.fspath(path), "folder": _find_folder(path), "threads": self._threads}, patience_s, path
            )
            answer = self._hear(patience_s, path)
        except UnmaskError:
            raise
        except BaseException:  # Ctrl-C: the answer that is still to come would be taken for that on the next file
            self.close()
            raise
        try:
            facts = read_facts(answer.get("facts"), self._limits)
        except ValueError:
            self._distrust(path)
        return IsolatedVideo(self, path, facts)

    def read(
        self, path: Path, facts: VideoFacts, instants: NDArray[np.float64]
    ) -> Generator[tuple[slice, Frame], None, dict[str, Any]]:
        """The frames of the file opened last; the generator returns how reading ended.

        A reader that stops early may be noticed late, when its generator is forgotten: `open` ends what it left.
        """
        process, self._reading = self._process, True
        footage_s = facts.footage_s
        longest_gap_s = min(footage_s, float(np.diff(instants, prepend=0.0, append=facts.duration_s).max()))
        wait_s = self._limit_s * max(1.0, longest_gap_s / CLIP_S)
        left_s = self._limit_s * (1 + footage_s / CLIP_S)
        self._say({"read": instants.tolist()}, min(wait_s, left_s), path)
        finished = False
        done = 0
        try:
            while True:
                begun = time.monotonic()
                answer = self._hear(min(wait_s, left_s), path)
                left_s -= time.monotonic() - begun
                try:
                    if "end" in answer:
                        end = read_end(answer["end"], path)
                        finished = True
                        return end
                    document = answer.get("frame")
                    frame = self._take_frame(document)
                    served = slice(take_count(document, "first"), take_count(document, "stop"))
                    if not served.start == done < served.stop <= len(instants):
                        raise ValueError
                except ValueError:
                    self._distrust(path)
                self._say({"free": 1}, min(wait_s, left_s), path)
                yield served, frame
                done = served.stop
        except VideoError:
            finished = True
            raise
        finally:
            if self._process is process:
                self._reading = False
                if not finished:  # nobody wants the rest, which the process is still sending
                    self.close()

    def read_live(self, order: LiveOrder) -> Generator[LiveFrame, None, dict[str, Any]]:
        """The frames of a source that goes on for as long as it likes; the generator returns how reading ended.

        Raises VideoError where no frame comes for `limit_s` beyond the time between two samples.
        """
        path = Path(order.source.title)
        patience_s = self._limit_s + 2 * order.instants.longest_step_s
        try:
            self.launch()
            if not self._ready:
                self._await_start()
            self._say({"live": order.to_document()}, patience_s, path)
            while True:
                answer = self._hear(patience_s, path)
                try:
                    if "end" in answer:
                        return read_end(answer["end"], path)
                    document = answer.get("frame")
                    frame = self._take_frame(document)
                    live = LiveFrame(frame, take_count(document, "clip"), take_seconds(document, "decoded_s"))
                except ValueError:
                    self._distrust(path)
                self._say({"free": 1}, patience_s, path)
                yield live
        except VideoError as error:
            if error.reason == Reason.TIMED_OUT:
                detail = f"{path} was given up: no frame came from it for {patience_s:.0f} s"
                raise VideoError(Reason.TIMED_OUT, detail) from error
            raise
        finally:
            self.close()

    def abort(self) -> None:
        """Kills the process from another thread, for good; whoever reads from it gets a CancelledError."""
        self._aborted = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None  # all are pipes
                stream.close()
        self._ready = self._reading = False
        self._memory = None
        if self._frames >= 0:
            os.close(self._frames)
            self._frames = -1

    def _start(self) -> None:
        if self._aborted:
            self._end()
        if sys.platform == "win32":
            raise UnmaskError("videos are decoded in processes that need Linux or macOS; on Windows, use WSL")
        try:
            self._frames = _create_memory(max(LEAST_SHARED_BYTES, 2 * 3 * self._limits.most_pixels))
            self._memory = mmap.mmap(self._frames, 0, prot=mmap.PROT_READ)
            self._launch()
        except OSError as error:
            self.close()
            raise UnmaskError(
                f"no decoder process can be started: {error.strerror}; free some memory, raise `ulimit -n`, or take "
                "fewer --jobs or --decoders"
            ) from error

    def _launch(self) -> None:
        self._pending = b""
        # What this process imports, the other imports, and nothing that lies in the folder it is started in.
        places = os.pathsep.join(place or os.getcwd() for place in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 - our own module, and numbers
            [*COMMAND, str(self._frames), json.dumps(asdict(self._limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._frames, *self._inherited],
            bufsize=0,
            env={**_choose_environment(), **THRIFT, "PYTHONSAFEPATH": "1", "PYTHONPATH": places},
            start_new_session=True,  # Ctrl-C is for the parent, which ends its decoders itself
        )
        assert self._process.stdin is not None  # a pipe
        os.set_blocking(self._process.stdin.fileno(), False)  # one that is full may stay so
        if self._aborted:  # while it started
            self._end()

    def _await_start(self) -> None:
        """A process that does not start would fail every video there is."""
        assert self._process is not None  # just launched
        errors = self._process.stderr
        assert errors is not None  # a pipe, which the process closes when it is ready
        try:
            self._hear(START_S, Path())
        except VideoError as error:
            said = (
                errors.read().decode(errors="replace").strip().splitlines() if error.reason != Reason.TIMED_OUT else []
            )
            self.close()
            raise UnmaskError(
                f"the decoder process does not start: {said[-1] if said else error.detail}; run `unmask doctor`"
            ) from error
        errors.close()
        self._ready = True

    def _say(self, message: dict[str, Any], patience_s: float, path: Path) -> None:
        pipe = self._require_process().stdin
        assert pipe is not None
        rest = memoryview(json.dumps(message).encode() + b"\n")
        deadline = _set_deadline(patience_s)
        try:
            while rest:  # a pipe takes what fits
                try:
                    rest = rest[os.write(pipe.fileno(), rest) :]
                except BlockingIOError:
                    self._await_pipe(pipe.fileno(), select.POLLOUT, deadline, path)
        except OSError:
            self._explain_death(path)

    def _hear(self, patience_s: float, path: Path) -> dict[str, Any]:
        """The next message; a refusal is raised."""
        pipe = self._require_process().stdout
        assert pipe is not None
        deadline = _set_deadline(patience_s)
        self._heed_cancel(path)
        while b"\n" not in self._pending:
            self._await_pipe(pipe.fileno(), select.POLLIN, deadline, path)
            chunk = os.read(pipe.fileno(), 1 << 16)
            if not chunk:
                self._explain_death(path)
            self._pending += chunk
            if len(self._pending) > MOST_MESSAGE_BYTES:
                self._distrust(path)
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            message = read_message(line)
            refusal = read_refusal(message["refused"], path) if "refused" in message else None
        except ValueError:
            self._distrust(path)
        if refusal is not None:
            if refusal.reason == Reason.OUT_OF_MEMORY:
                self.close()  # the next video begins with all that a process may have
            raise refusal
        return message

    def _await_pipe(self, descriptor: int, event: int, deadline: float, path: Path) -> None:
        """Waits until a pipe can be read from or written to, or its other end is gone."""
        waiting = select.poll()  # unlike a selector of the system's own, it takes no descriptor
        waiting.register(descriptor, event)
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            if waiting.poll(math.ceil(1000 * (left_s if self._cancel is None else min(left_s, CANCEL_S)))):
                return
            self._heed_cancel(path)
            if time.monotonic() >= deadline:
                self.close()
                detail = f"the decoder was ended: {path} took more time than its share of the footage allows"
                raise VideoError(Reason.TIMED_OUT, detail)

    def _heed_cancel(self, path: Path) -> None:
        if self._aborted:
            self._end()
        if self._cancel is not None and self._cancel.is_set():
            self.close()
            raise CancelledError(f"reading {path} was cancelled")

    def _end(self) -> NoReturn:
        """Nobody wants this decoder any more: whatever became of it is no fault of the file."""
        self.close()
        raise CancelledError("decoding was ended")

    def _require_process(self) -> subprocess.Popen[bytes]:
        """The process that a file was opened in; it may have been closed since."""
        if self._process is None:
            self._end()
        return self._process

    def _distrust(self, path: Path) -> NoReturn:
        """A file has taken the decoder over, or destroyed its memory."""
        if self._aborted:  # in the middle of a message
            self._end()
        self.close()
        raise VideoError(Reason.DECODER_CRASHED, f"the decoder was ended: on {path} it answered what makes no sense")

    def _explain_death(self, path: Path) -> NoReturn:
        if self._aborted:
            self._end()
        assert self._process is not None  # started by `open`
        try:
            code = self._process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._process.stderr is None or self._process.stderr.closed:
            self.close()
        if code == -signal.SIGXCPU:
            raise VideoError(
                Reason.TIMED_OUT,
                f"the decoder was ended: {path} took more processor time than its share of the footage allows",
            )
        how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        raise VideoError(Reason.DECODER_CRASHED, f"the decoder died on {path} ({how})")

    def _take_frame(self, document: object) -> Frame:
        """A frame out of the shared memory; raises ValueError where there can be none."""
        place = read_place(document, self._limits)
        return Frame(place.time_s, self._copy(place))

    def _copy(self, place: Place) -> NDArray[np.uint8]:
        assert self._memory is not None  # made with the process
        size = math.prod(place.shape)
        if place.offset + size > len(self._memory):
            raise ValueError("beyond the memory")
        return np.frombuffer(self._memory, np.uint8, size, place.offset).reshape(place.shape).copy()


def _choose_environment() -> dict[str, str]:
    return {n: text for n, text in os.environ.items() if n in PASSED_ON or n.startswith(PASSED_ON_PREFIXES)}


def _set_deadline(patience_s: float) -> float:
    return time.monotonic() + min(patience_s, MOST_PATIENCE_S)


def _create_memory(size: int) -> int:
    """A file that lies in memory where the system can, has no name, and is gone with the last process that holds it.

    It takes no more than what is written to it. Its size is fixed, so that the other process cannot pull it away.
    """
    if sys.platform == "linux":
        import fcntl

        descriptor = os.memfd_create("unmask-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())


def _find_folder(path: Path) -> str:
    """What a path is relative to: the process may have begun before this one went to another folder."""
    try:
        return "" if path.is_absolute() else os.getcwd()
    except OSError:  # a folder that was deleted
        return ""


def _measure_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # a name that the system does not take
        return 0
