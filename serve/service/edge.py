"""The outermost layer of the service: request ids, security headers, the log and the count of every request."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.service.access import is_loopback
from serve.service.logs import REQUEST_ID
from serve.service.metrics import Metrics
from serve.service.problems import ProblemError, answer_problem, answer_unexpected

LOG = logging.getLogger("unmask.service")
GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")  # a request id that a proxy before us has chosen
# While a client goes on sending what was refused: without a byte, in all, and once the service stops.
QUIET_S = 5.0
LINGER_S = 30.0
LAST_S = 1.0
DEFAULTS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Edge:
    """Wraps the app; an error that nothing else caught is answered here, and its traceback stays in the log.

    `local` is for a service without keys: it answers to names of this machine only, so that a page of another site
    whose name was made to point here gets nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, is_stopping: Callable[[], bool], *, local: bool) -> None:
        self._app = app
        self._is_stopping = is_stopping
        self._metrics = metrics
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        request_id = request_id if GIVEN.fullmatch(request_id) else secrets.token_urlsafe(12)
        token = REQUEST_ID.set(request_id)
        began, body = time.monotonic(), _Body(receive, headers)
        answer = _Answer(send, request_id, body)
        try:
            if "content-length" in headers and "transfer-encoding" in headers:
                # A proxy before us may have believed the other one.
                problem = ProblemError(400, "two-lengths", "The request gives its length in two ways; give one.")
                await answer_problem(problem, scope["path"])(scope, body, answer)
            elif self._local and not _is_local(headers.get("host", "")):
                problem = ProblemError(421, "wrong-host", "Without keys, the service answers to this machine only.")
                await answer_problem(problem, scope["path"])(scope, body, answer)
            else:
                await self._answer(scope, body, answer)
        finally:
            self._note(scope, answer.status, time.monotonic() - began)
            REQUEST_ID.reset(token)
        if answer.held:
            await body.drain(self._is_stopping)
            await answer.end()

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if answer.gone or _is_disconnect(error):
                return
            LOG.exception("a request failed unexpectedly", extra={"facts": {"path": scope["path"]}})
            if answer.status:
                raise  # half of an answer is on its way: the server has to break the connection
            await answer_unexpected(scope["path"])(scope, receive, answer)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS") else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_s.observe(took_s)
        facts = {"method": method, "route": route, "path": scope["path"], "status": status, "took_s": round(took_s, 4)}
        client = scope.get("client")
        LOG.info("request", extra={"facts": {**facts, "client": client[0] if client else None}})


class _Body:
    """Passes a request's body on, and knows whether more of it is to be expected."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self.coming = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._receive = receive

    async def __call__(self) -> Message:
        """One message of it."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            self.coming = False
        return message

    async def drain(self, is_stopping: Callable[[], bool]) -> None:
        """Reads what nobody wants, for a while."""
        until = time.monotonic() + LINGER_S
        quiet_s = QUIET_S
        with suppress(TimeoutError):
            while self.coming and time.monotonic() < until:
                if is_stopping():
                    until, quiet_s = min(until, time.monotonic() + LAST_S), LAST_S
                async with asyncio.timeout(quiet_s):
                    await self()


class _Answer:
    """Passes an answer on, with the headers that all have; `status` is 0 until there is one.

    A connection that is closed while its client sends is reset, and the client may never read why it was refused: so
    the end of such an answer is held back until the client has stopped, or for a while. The connection ends with it.
    """

    def __init__(self, send: Callable[[Message], Awaitable[Any]], request_id: str, body: _Body) -> None:
        self.status = 0
        self.gone = False
        self.held = False
        self._send = send
        self._request_id = request_id
        self._body = body

    async def __call__(self, message: Message) -> None:
        """One message of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers["X-Request-ID"] = self._request_id
            for name, value in DEFAULTS.items():
                headers.setdefault(name, value)
            if self._body.coming:
                headers["Connection"] = "close"
            message["headers"] = headers.raw
        elif self._body.coming and not message.get("more_body"):
            self.held = True
            message = {**message, "more_body": True}
        try:
            await self._send(message)
        except OSError:
            self.gone = True
            raise

    async def end(self) -> None:
        """Sends the end that was held back."""
        with suppress(OSError):
            await self._send({"type": "http.response.body", "body": b""})


def _is_disconnect(error: BaseException) -> bool:
    return type(error).__name__ == "ClientDisconnect"


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) and not host.endswith("]") else host
    return is_loopback(name)
