"""Connections: how many there may be, and how long their clients may dawdle over a request's head or an answer."""

from __future__ import annotations

import asyncio
import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_DESCRIPTORS = 8192
CROWDED = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n"
LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(H11Protocol):
    """The server's, which by itself waits for ever and takes descriptors until none are left to score with."""

    most = 256
    head_s = 20.0  # for the whole head of a request
    stuck_s = 60.0  # without a byte of an answer taken
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins; one too many is ended at once."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._end(CROWDED)
        else:
            self._late = self.loop.call_later(self.head_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        self._late, self._stuck = _stop(self._late), _stop(self._stuck)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what came; a head that has begun must end soon."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._late = _stop(self._late)
        elif self._late is None:
            self._late = self.loop.call_later(self.head_s, self._give_up)

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is given."""
        super().pause_writing()
        self._stuck = self.loop.call_later(self.stuck_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck = _stop(self._stuck)
        super().resume_writing()

    def _give_up(self) -> None:
        begun, _ = self.conn.trailing_data
        self._end(LATE if begun else b"")

    def _end(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


def allow_connections() -> int:
    """How many connections leave descriptors for uploads and decoders, after as many as may be were allowed."""
    if sys.platform == "win32":
        return Connection.most
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MOST_DESCRIPTORS:
        soft = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(soft, MOST_DESCRIPTORS) // 4


def _stop(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
