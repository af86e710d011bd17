"""Routes of videos that are scored in their turn: upload, list, follow, cancel, delete, report."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from serve.service.documents import BYTES, JobDocument, JobsDocument, list_problems
from serve.service.door import Name, Owner, Served, receive, require_type
from serve.service.engine import Engine
from serve.service.events import tell_changes
from serve.service.jobs import Job, State, clean_name, to_document
from serve.service.problems import ProblemError

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PATIENCE_S = 2.0  # for a running job to notice that it was cancelled
LOOK_S = 0.1

JobId = Annotated[str, Path(alias="id", max_length=100)]
router = APIRouter(tags=["videos"])


def describe_job(engine: Engine, job: Job) -> dict[str, Any]:
    """The job with its place in the queue and how far it is."""
    position = engine.store.find_position(job.id) if job.state is State.QUEUED else None
    file = (job.verdict or {}).get("file")
    done_s, total_s = (file["duration_s"],) * 2 if file else engine.tell_progress(job.id)
    return to_document(job, position, done_s, total_s)


def find_job(engine: Engine, job_id: str, owner: str) -> Job:
    """An owner's job; raises ProblemError for anybody else's, as for one that never was."""
    job = engine.store.find(job_id, owner)
    if job is None:
        raise ProblemError(404, "no-such-video", "There is no video of this id among yours.")
    return job


@router.post(
    "/v1/videos", status_code=202, response_model=JobDocument, openapi_extra=BYTES,
    responses={
        200: {"model": JobDocument, "description": "These bytes were answered before"},
        **list_problems(401, 408, 413, 415, 422, 429, 503, 507),
    },
)  # fmt: skip
async def upload_video(request: Request, engine: Served, owner: Owner, name: Name = "video") -> JSONResponse:
    """Takes in a video; it is scored in its turn."""
    require_type(request)
    with engine.reserve():
        upload = await receive(engine, request, engine.settings.most_bytes)
        try:
            job = await asyncio.to_thread(engine.accept, upload, owner, clean_name(name))
        except Exception:
            if engine.store.find(upload.id, owner) is None:
                engine.uploads.remove(upload.id)
            raise
    document = await asyncio.to_thread(describe_job, engine, job)
    return JSONResponse(document, 200 if job.cached else 202, headers={"Location": document["links"]["self"]})


@router.get("/v1/videos", response_model=JobsDocument, responses=list_problems(401, 422))
def list_videos(engine: Served, owner: Owner, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> JSONResponse:
    """One's own videos, the newest first."""
    return JSONResponse({"videos": [describe_job(engine, job) for job in engine.store.list_newest(owner, limit)]})


@router.get("/v1/videos/{id}", response_model=JobDocument, responses=list_problems(401, 404))
def show_video(job_id: JobId, engine: Served, owner: Owner) -> JSONResponse:
    """Where a video stands, and its verdict."""
    return JSONResponse(describe_job(engine, find_job(engine, job_id, owner)))


@router.post("/v1/videos/{id}/cancel", response_model=JobDocument, responses=list_problems(401, 404, 409))
async def cancel_video(job_id: JobId, engine: Served, owner: Owner) -> JSONResponse:
    """Gives up a video that waits or is being scored."""
    job = await asyncio.to_thread(find_job, engine, job_id, owner)
    if not await asyncio.to_thread(engine.cancel, job):
        raise ProblemError(409, "ended", "The video's job has ended already; there is nothing to cancel.")
    for _ in range(round(PATIENCE_S / LOOK_S)):
        job = await asyncio.to_thread(find_job, engine, job_id, owner)
        if job.ended:
            break
        await asyncio.sleep(LOOK_S)
    return JSONResponse(await asyncio.to_thread(describe_job, engine, job))


@router.delete("/v1/videos/{id}", status_code=204, response_class=Response, responses=list_problems(401, 404, 409))
def delete_video(job_id: JobId, engine: Served, owner: Owner) -> Response:
    """Forgets a video, its verdict and its report."""
    job = find_job(engine, job_id, owner)
    if not engine.delete(job):
        find_job(engine, job_id, owner)
        raise ProblemError(409, "running", "The video is being scored; cancel it first.")
    return Response(status_code=204)


@router.get("/v1/videos/{id}/events", response_class=StreamingResponse, responses=list_problems(401, 404))
def follow_video(job_id: JobId, engine: Served, owner: Owner) -> StreamingResponse:
    """The job at each change, as server-sent events named `job`, until it has ended."""
    find_job(engine, job_id, owner)

    def read() -> dict[str, Any] | None:
        job = engine.store.find(job_id, owner)
        return None if job is None else describe_job(engine, job)

    events = tell_changes(read, engine.stopping.is_set)
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.get("/v1/videos/{id}/report", response_class=FileResponse, responses=list_problems(401, 404, 422))
def send_report(job_id: JobId, engine: Served, owner: Owner, download: bool = False) -> FileResponse:
    """The page with the evidence."""
    job = find_job(engine, job_id, owner)
    path = engine.uploads.locate_report(job.id)
    if not job.report or not path.is_file():
        raise ProblemError(404, "no-report", "There is no report on this video.")
    return FileResponse(
        path,
        media_type="text/html; charset=utf-8",
        filename=f"{job.name}.report.html",
        content_disposition_type="attachment" if download else "inline",
        headers={"Content-Security-Policy": REPORT_POLICY},
    )
