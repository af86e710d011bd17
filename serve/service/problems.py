"""Errors as clients get them: problem details of RFC 9457, one plain sentence each, whatever went wrong."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from extract.errors import DiskError
from serve.service.logs import REQUEST_ID

MEDIA_TYPE = "application/problem+json"
LOG = logging.getLogger("unmask.service")
UNEXPECTED = "The service failed in a way it did not expect; the request id finds the cause in its log."
FULL = "The service's disk is full or cannot be written; nothing of this request was kept. Try again later."


class ProblemError(Exception):
    """A refusal; `name` is its kind, under which its type is found."""

    def __init__(self, status: int, name: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.detail = detail
        self.headers = dict(headers or {})


def refuse_stopping() -> ProblemError:
    """What a service that stops answers to all that is new or unfinished."""
    return ProblemError(503, "stopping", "The service is stopping; send it again soon.", {"Retry-After": "10"})


def describe_problem(status: int, name: str, detail: str, path: str = "") -> dict[str, Any]:
    """The document of a problem with what is found at a path; without a name it says no more than its status."""
    return {
        "type": f"/problems/{name}" if name else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": quote(path),
        "request_id": REQUEST_ID.get(),
    }


def answer_problem(problem: ProblemError, path: str) -> JSONResponse:
    """The response of a refused request."""
    document = describe_problem(problem.status, problem.name, problem.detail, path)
    return JSONResponse(document, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def answer_unexpected(path: str) -> JSONResponse:
    """The response of a request that failed by our fault."""
    return answer_problem(ProblemError(500, "unexpected", UNEXPECTED), path)


def install_problems(app: FastAPI) -> None:
    """Has every error of an app answered as a problem."""

    @app.exception_handler(ProblemError)
    async def refuse(request: Request, error: ProblemError) -> JSONResponse:
        return answer_problem(error, request.scope["path"])

    @app.exception_handler(HTTPException)
    async def translate(request: Request, error: HTTPException) -> JSONResponse:
        plain = HTTPStatus(error.status_code)
        detail = plain.description if error.detail == plain.phrase else str(error.detail)
        problem = ProblemError(error.status_code, "", detail or plain.phrase, error.headers)
        return answer_problem(problem, request.scope["path"])

    @app.exception_handler(RequestValidationError)
    async def explain(request: Request, error: RequestValidationError) -> JSONResponse:
        found = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return answer_problem(ProblemError(422, "not-understood", f"The request has {found}."), request.scope["path"])

    @app.exception_handler(DiskError)
    async def tell_full(request: Request, error: DiskError) -> JSONResponse:
        LOG.error("disk", extra={"facts": {"error": str(error)}})
        return answer_problem(ProblemError(507, "disk-full", FULL), request.scope["path"])


def is_full(error: OSError) -> bool:
    """Whether writing failed for want of space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
