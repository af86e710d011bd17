"""The frames of a live source on this side: decoded in another process, handed over while earlier ones are scored."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from threading import Condition, Thread
from typing import Generic, TypeVar

from extract.errors import UsageError
from extract.isolation import DecoderProcess
from extract.live_video import STDIN, LiveFrame, LiveOrder

AHEAD = 2  # frames that wait here; more wait in the decoder's buffer

T = TypeVar("T")


class Handover(Generic[T]):
    """Takes items in a thread of its own, and gives them to whoever iterates.

    With `newest_wins` an item that nobody has taken makes way for the next, and `dropped` counts it; else the source
    waits. What the source raises is raised to the taker, after the items before it.
    """

    def __init__(self, items: Iterable[T], newest_wins: bool) -> None:
        self.dropped = 0
        self._items = items
        self._most = 1 if newest_wins else AHEAD
        self._newest_wins = newest_wins
        self._waiting: deque[T] = deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self, unblock: Callable[[], None] = lambda: None) -> None:
        """Ends the thread; `unblock` makes the source give up what it waits for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        unblock()
        self._thread.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, item: T) -> bool:
        """False once nobody takes any more."""
        with self._changed:
            if self._newest_wins:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._most)
            self._waiting.append(item)
            self._changed.notify_all()
            return not self._closed


class LiveFeed:
    """A live source open in a decoder process, to be iterated once and used in a `with` statement.

    A camera's frames are dropped where scoring is too slow for them; those of files and pipes wait. `note` and
    `busy_s` tell, after the last frame, what was wrong and how long decoding took.
    """

    def __init__(self, order: LiveOrder, decoder: DecoderProcess | None = None) -> None:
        self.note = ""
        self.busy_s = 0.0
        self._decoder = decoder or DecoderProcess()
        self._descriptor = -1
        try:
            self._descriptor = _open_pipe(order)
            if self._descriptor >= 0:
                self._decoder.inherit(self._descriptor)
            self._order = replace(order, descriptor=self._descriptor)
            self._decoder.launch()
        except BaseException:
            self.close()
            raise
        self._frames = Handover(self._read(), newest_wins=order.source.kind == "camera")

    @property
    def dropped(self) -> int:
        """Sampled frames that were never seen by the taker."""
        return self._frames.dropped

    def __iter__(self) -> Iterator[LiveFrame]:
        return iter(self._frames)

    def __enter__(self) -> LiveFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if hasattr(self, "_frames"):
            self._frames.close(self._decoder.abort)
        self._decoder.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> Iterator[LiveFrame]:
        end = yield from self._decoder.read_live(self._order)
        self.note, self.busy_s = end["note"], end["busy_s"]


def _open_pipe(order: LiveOrder) -> int:
    """A descriptor for the decoder to read from, or -1 where it opens the source itself; waits for a FIFO's writer."""
    source = order.source
    if source.kind != "pipe":
        return -1
    try:
        if source.name != STDIN:
            return os.open(source.name, os.O_RDONLY)
        if os.isatty(0):
            raise UsageError("standard input is a terminal; pipe a video into it: cat clip.ts | unmask watch MODEL -")
        return os.dup(0)
    except OSError as error:
        raise UsageError(f"{source.title} cannot be read: {error.strerror}") from error
