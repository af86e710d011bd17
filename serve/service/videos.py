"""Routes of videos that are scored in their turn: upload, list, follow, cancel, delete, report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from serve.service.access import INVALID
from serve.service.documents import BYTES, JobDocument, JobsDocument, LinkDocument, list_problems
from serve.service.door import Given, Name, Owner, Served, get_owner, receive, require_type
from serve.service.engine import Engine
from serve.service.events import LAST, tell_changes
from serve.service.jobs import Job, Report, State, clean_name, format_time, to_document
from serve.service.problems import ProblemError

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
CHUNK_BYTES = 1 << 16  # of a report
PATIENCE_S = 2.0  # for a running job to notice that it was cancelled
LOOK_S = 0.1

JobId = Annotated[str, Path(alias="id", max_length=100)]
Wanted = Annotated[bool, Query(description="Whether a report is to be made; it takes several times the scoring.")]
Before = Annotated[str | None, Query(max_length=100, description="The id of a video; older ones are listed.")]
router = APIRouter(tags=["videos"])


def describe_lean(engine: Engine, job: Job) -> dict[str, Any]:
    """The job with its place in the queue and how far it is, without its verdict."""
    position = engine.store.find_position(job) if job.state is State.QUEUED else None
    duration_s = (job.summary or {}).get("duration_s")
    done_s, total_s = engine.tell_progress(job.id) if duration_s is None else (duration_s, duration_s)
    return to_document(job, position, done_s, total_s)


def describe_job(engine: Engine, job: Job) -> dict[str, Any]:
    """The same with the verdict, and with what it means in words."""
    return {**describe_lean(engine, job), "verdict": job.verdict, "explanation": job.explanation}


def find_job(engine: Engine, job_id: str, owner: str, *, lean: bool = False) -> Job:
    """An owner's job; raises ProblemError for anybody else's, as for one that never was."""
    job = engine.store.find(job_id, owner, lean=lean)
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
async def upload_video(
    request: Request, engine: Served, owner: Owner, name: Name = "video", report: Wanted = True
) -> JSONResponse:
    """Takes in a video; it is scored in its turn, and its report is made when no video waits."""
    require_type(request)
    with engine.reserve(owner):
        upload = await receive(engine, request, engine.settings.most_bytes)
        try:
            job = await asyncio.to_thread(engine.accept, upload, owner, clean_name(name), report=report)
        except Exception:
            if engine.store.find(upload.id, owner) is None:
                engine.uploads.remove(upload.id)
            raise
    document = await asyncio.to_thread(describe_job, engine, job)
    return JSONResponse(document, 200 if job.cached else 202, headers={"Location": document["links"]["self"]})


@router.get("/v1/videos", response_model=JobsDocument, responses=list_problems(401, 404, 422))
def list_videos(
    engine: Served, owner: Owner, limit: Annotated[int, Query(ge=1, le=500)] = 50, before: Before = None
) -> JSONResponse:
    """One's own videos without their verdicts, the newest first, and the link to older ones."""
    if before is not None:
        find_job(engine, before, owner, lean=True)
    jobs = engine.store.list_newest(owner, limit + 1, before)
    following = f"/v1/videos?{urlencode({'limit': limit, 'before': jobs[limit - 1].id})}" if jobs[limit:] else None
    return JSONResponse({"videos": [describe_lean(engine, job) for job in jobs[:limit]], "next": following})


@router.get("/v1/videos/{id}", response_model=JobDocument, responses=list_problems(401, 404))
def show_video(job_id: JobId, engine: Served, owner: Owner) -> JSONResponse:
    """Where a video stands, and its verdict."""
    return JSONResponse(describe_job(engine, find_job(engine, job_id, owner)))


@router.post("/v1/videos/{id}/cancel", response_model=JobDocument, responses=list_problems(401, 404, 409))
async def cancel_video(job_id: JobId, engine: Served, owner: Owner) -> JSONResponse:
    """Gives up a video that waits or is being scored."""
    job = await asyncio.to_thread(find_job, engine, job_id, owner, lean=True)
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
    job = find_job(engine, job_id, owner, lean=True)
    if not engine.delete(job):
        find_job(engine, job_id, owner, lean=True)
        raise ProblemError(409, "running", "The video is being scored; cancel it first.")
    return Response(status_code=204)


@router.get(
    "/v1/videos/{id}/events", response_class=StreamingResponse,
    responses={204: {"description": "All was told to this client already"}, **list_problems(401, 404)},
)  # fmt: skip
def follow_video(
    job_id: JobId, engine: Served, owner: Owner, last_event_id: Annotated[str | None, Header(max_length=100)] = None
) -> Response:
    """The job at each change, as server-sent events named `job`, until its outcome is known and its report settled.

    That event has the id `last`: an EventSource, which connects again after every end, is answered 204 and stops.
    """
    job = find_job(engine, job_id, owner, lean=True)
    if last_event_id == LAST and job.settled:
        return Response(status_code=204)

    def look() -> tuple[dict[str, Any], bool] | None:
        job = engine.store.find(job_id, owner, lean=True)
        return None if job is None else (describe_lean(engine, job), job.settled)

    def show() -> tuple[dict[str, Any], bool] | None:
        job = engine.store.find(job_id, owner)
        return None if job is None else (describe_job(engine, job), job.settled)

    events = tell_changes(partial(engine.count_changes, job_id), look, show, engine.stopping.is_set)
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def get_reader(
    job_id: JobId,
    request: Request,
    engine: Served,
    given: Given,
    ticket: Annotated[str | None, Query(max_length=300, description="From a link; replaces the key.")] = None,
) -> str:
    """Whose report is asked for, by key or by ticket; raises ProblemError without either where one is needed."""
    if ticket is None or request.app.state.keys is None:
        return get_owner(request, given)
    owner = engine.tickets.find_owner(ticket, job_id)
    if owner is None:
        detail = "This link does not hold any more; open the report from the page again."
        raise ProblemError(401, "no-ticket", detail, INVALID)
    return owner


@router.get("/v1/videos/{id}/report", response_class=HTMLResponse, responses=list_problems(401, 404))
def send_report(
    job_id: JobId, engine: Served, owner: Annotated[str, Depends(get_reader)], download: bool = False
) -> StreamingResponse:
    """The page with the evidence."""
    job = find_report(engine, job_id, owner)
    try:
        page = engine.uploads.open_report(job.id)  # here, so that a deletion from now on does not cut it off
    except FileNotFoundError as error:
        raise _refuse_report() from error
    name = quote(f"{job.name}.report.html", safe="")
    headers = {
        "Content-Length": str(os.fstat(page.fileno()).st_size),
        "Content-Security-Policy": REPORT_POLICY,
        "Content-Disposition": f"{'attachment' if download else 'inline'}; filename*=UTF-8''{name}",
    }
    return StreamingResponse(_read_on(page), media_type="text/html; charset=utf-8", headers=headers)


@router.post("/v1/videos/{id}/report/link", response_model=LinkDocument, responses=list_problems(401, 404))
def link_report(job_id: JobId, engine: Served, owner: Owner) -> JSONResponse:
    """A link that opens the report without a key, for five minutes."""
    job = find_report(engine, job_id, owner)
    ticket, until = engine.tickets.issue(job.id, owner)
    href = f"/v1/videos/{job.id}/report?{urlencode({'ticket': ticket})}"
    return JSONResponse({"href": href, "expires_at": format_time(until)})


def find_report(engine: Engine, job_id: str, owner: str) -> Job:
    """An owner's job that has a report; raises ProblemError for one without."""
    job = find_job(engine, job_id, owner, lean=True)
    if job.report is not Report.READY or not engine.uploads.locate_report(job.id).is_file():
        raise _refuse_report()
    return job


def _refuse_report() -> ProblemError:
    return ProblemError(404, "no-report", "There is no report on this video, or none yet.")


def _read_on(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
