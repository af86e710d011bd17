"""Decoder processes lent to whoever scores a file, and kept for the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from extract.errors import UnmaskError
from extract.isolation import DecoderProcess


class DecoderPool:
    """As many processes as files are read at the same time; one that a file has ended starts again by itself."""

    def __init__(self, make: Callable[[], DecoderProcess], most_idle: int = 1) -> None:
        """`most_idle` of them are kept while nobody needs them."""
        self._make = make
        self._most_idle = most_idle
        self._lock = Lock()
        self._idle: list[DecoderProcess] = []
        self._all: list[DecoderProcess] = []
        self._closed = False

    def launch(self) -> None:
        """Starts one, without waiting for it."""
        with self.lend() as decoder:
            decoder.launch()

    @contextmanager
    def lend(self) -> Iterator[DecoderProcess]:
        """A process that nobody else uses meanwhile."""
        with self._lock:
            if self._closed:
                raise UnmaskError("the scorer is closed; open it again")
            if not self._idle:
                self._idle.append(self._make())
                self._all.append(self._idle[-1])
            decoder = self._idle.pop()
        try:
            yield decoder
        finally:
            with self._lock:
                if self._closed or len(self._idle) >= self._most_idle:
                    self._all.remove(decoder)
                    decoder.close()
                else:
                    self._idle.append(decoder)

    def close(self) -> None:
        """Ends all of them; whoever still reads from one gets an error."""
        with self._lock:
            self._closed = True
            for decoder in self._all:
                decoder.abort()
            for decoder in self._idle:
                decoder.close()
