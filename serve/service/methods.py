"""Methods as RFC 9110 wants them: HEAD wherever there is GET, OPTIONS, and an Allow that names all of a resource's."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.service.problems import ProblemError, answer_problem

KNOWN = ("GET", "POST", "PUT", "PATCH", "DELETE")


def list_methods(app: FastAPI, scope: Scope) -> list[str]:
    """What the resource of a request takes."""
    asked: list[Scope] = [{**scope, "method": method} for method in KNOWN]
    taken = [one["method"] for one in asked if any(route.matches(one)[0] is Match.FULL for route in app.routes)]
    return [*taken, *(["HEAD"] if "GET" in taken else []), "OPTIONS"]


def install_methods(app: FastAPI) -> None:
    """Has HEAD and OPTIONS answered everywhere, and other methods refused with all that may be asked instead."""

    @app.exception_handler(405)
    async def refuse(request: Request, _: HTTPException) -> Response:
        allowed = {"Allow": ", ".join(list_methods(app, request.scope))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        detail = f"This cannot be asked with {request.method[:20]}; it takes {allowed['Allow']}."
        return answer_problem(ProblemError(405, "", detail, allowed), request.scope["path"])

    app.add_middleware(Heads)


class Heads:
    """Answers HEAD as GET would be answered, without the content, and waits for none where that goes on for long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        sent = False

        async def send_head(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                sent = True
            elif message.get("more_body"):
                raise _EnoughError

        # A copy: the server looks into its own to know that no content may follow.
        asked: Scope = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send_head)
        except (_EnoughError, ClientDisconnect):
            if not sent:
                raise
        finally:
            if "route" in asked:
                scope["route"] = asked["route"]  # for log and metrics


class _EnoughError(OSError):
    """Nobody is there to send more to; an OSError, as that is how a server tells it."""
