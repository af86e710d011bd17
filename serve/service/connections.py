"""Connections: how many there may be, and how long their clients may dawdle over a request's head or an answer."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve.service.problems import MEDIA_TYPE, ProblemError, describe_problem

MOST_DESCRIPTORS = 8192
CROWDED = ProblemError(503, "crowded", "Too many connections are open; come again soon.", {"Retry-After": "10"})
LATE = ProblemError(408, "late", "The head of the request did not come in time.")
BROKEN = {
    400: ProblemError(400, "no-http", "The request is not HTTP as it is understood here."),
    431: ProblemError(431, "long-head", "The head of the request is larger than is taken here."),
    501: ProblemError(501, "unknown-coding", "The request has a Transfer-Encoding that is not known here."),
}


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
            self._end(write_refusal(CROWDED))
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

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no request; the server calls this while it handles the error that says why."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        self._end(b"" if begun else write_refusal(BROKEN.get(status, BROKEN[400])))

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
        self._end(write_refusal(LATE) if begun else b"")

    def _end(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


def write_refusal(problem: ProblemError) -> bytes:
    """The whole answer of a connection that ends with it."""
    document = json.dumps(describe_problem(problem.status, problem.name, problem.detail)).encode()
    headers = {
        **problem.headers, "Connection": "close", "Cache-Control": "no-store", "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(document)),
    }  # fmt: skip
    head = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}", *map(": ".join, headers.items())]
    return "\r\n".join([*head, "", ""]).encode() + document


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
