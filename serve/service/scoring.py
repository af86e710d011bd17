"""The route of short clips, whose verdict is in the answer."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import partial
from threading import Event
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from extract.errors import CancelledError
from serve.service.documents import BYTES, VerdictDocument, list_problems
from serve.service.door import Name, Served, get_owner, receive, require_type
from serve.service.engine import Engine
from serve.service.jobs import clean_name
from serve.service.problems import ProblemError
from serve.service.uploads import Upload

LOOK_S = 0.25  # between two looks at whether the client is still there

router = APIRouter(tags=["videos"])


@router.post(
    "/v1/score", response_model=VerdictDocument, openapi_extra=BYTES, dependencies=[Depends(get_owner)],
    responses=list_problems(401, 408, 413, 415, 422, 429, 503, 507),
)  # fmt: skip
async def score_video(request: Request, engine: Served, name: Name = "video") -> JSONResponse:
    """The verdict on a short clip, in the answer; nothing of it is kept."""
    require_type(request)
    with engine.reserve_at_once():
        upload = await receive(engine, request, engine.settings.sync_bytes)
        try:
            return JSONResponse(await score_at_once(engine, request, upload, clean_name(name)))
        finally:
            engine.uploads.remove(upload.id)


async def score_at_once(engine: Engine, request: Request, upload: Upload, name: str) -> dict[str, Any]:
    """The verdict's document; scoring stops when the client is gone or the service ends."""
    cancel = Event()
    score = partial(copy_context().run, engine.score_at_once, upload.path, name, cancel)
    scoring = asyncio.get_running_loop().run_in_executor(engine.scoring, score)
    try:
        while not scoring.done():
            await asyncio.wait({scoring}, timeout=LOOK_S)
            if engine.stopping.is_set() or await request.is_disconnected():
                cancel.set()
        return (await scoring).to_document()
    except CancelledError as error:
        raise ProblemError(503, "stopping", "The service stopped before the answer was there.") from error
    finally:
        cancel.set()
        await asyncio.wait({scoring})
