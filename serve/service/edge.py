"""The outermost layer of the service: request ids, security headers, the log and the count of every request."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.service.access import is_loopback
from serve.service.logs import REQUEST_ID
from serve.service.metrics import Metrics
from serve.service.problems import ProblemError, answer_problem, answer_unexpected

LOG = logging.getLogger("unmask.service")
GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")  # a request id that a proxy before us has chosen
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

    def __init__(self, app: ASGIApp, metrics: Metrics, *, local: bool) -> None:
        self._app = app
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
        began, answer = time.monotonic(), _Answer(send, request_id)
        try:
            if self._local and not _is_local(headers.get("host", "")):
                problem = ProblemError(421, "wrong-host", "Without keys, the service answers to this machine only.")
                await answer_problem(problem, scope["path"])(scope, receive, answer)
            else:
                await self._answer(scope, receive, answer)
        finally:
            self._note(scope, answer.status, time.monotonic() - began)
            REQUEST_ID.reset(token)

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


class _Answer:
    """Passes an answer on, with the headers that all have; `status` is 0 until there is one."""

    def __init__(self, send: Callable[[Message], Awaitable[Any]], request_id: str) -> None:
        self.status = 0
        self.gone = False
        self._send = send
        self._request_id = request_id

    async def __call__(self, message: Message) -> None:
        """One message of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers["X-Request-ID"] = self._request_id
            for name, value in DEFAULTS.items():
                headers.setdefault(name, value)
            message["headers"] = headers.raw
        try:
            await self._send(message)
        except OSError:
            self.gone = True
            raise


def _is_disconnect(error: BaseException) -> bool:
    return type(error).__name__ == "ClientDisconnect"


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) and not host.endswith("]") else host
    return is_loopback(name)
