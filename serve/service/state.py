"""Routes that tell of the service itself: alive, ready, numbers, and the model it scores with."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from extract.errors import UnmaskError
from serve.service.about import describe_model
from serve.service.documents import ModelDocument, list_problems
from serve.service.door import Served
from serve.service.jobs import State
from serve.service.metrics import MEDIA_TYPE
from serve.service.problems import ProblemError

router = APIRouter(tags=["state"])


@router.get("/healthz", response_model=dict[str, str])
async def tell_health() -> JSONResponse:
    """Whether the process answers."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz", response_model=dict[str, str], responses=list_problems(503))
def tell_readiness(engine: Served) -> JSONResponse:
    """Whether a video sent now would be taken and scored; the model proved itself before the service began."""
    engine.require_running()
    if not engine.is_alive():
        raise ProblemError(503, "not-ready", "The service does not score: its threads have ended; restart it.")
    try:
        engine.uploads.require_room()
        engine.store.require_writable()
    except UnmaskError as error:
        raise ProblemError(503, "not-ready", "The service's disk is full or cannot be written.") from error
    if engine.store.count(State.QUEUED) >= engine.settings.most_queued:
        raise ProblemError(503, "not-ready", "The queue is full.", {"Retry-After": "30"})
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=Response)
def tell_metrics(engine: Served) -> Response:
    """Numbers for Prometheus."""
    store = engine.store
    text = engine.metrics.render(store.count(State.QUEUED), store.count(State.RUNNING), store.count_reports())
    return Response(text, headers={"Content-Type": MEDIA_TYPE})


@router.get("/v1/model", response_model=ModelDocument)
def tell_model(request: Request, engine: Served) -> JSONResponse:
    """What the service scores with, and what it takes; needs no key."""
    return JSONResponse({**describe_model(engine), "needs_key": request.app.state.keys is not None})
