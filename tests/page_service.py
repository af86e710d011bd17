"""A stand-in for the HTTP service: the same addresses, and answers that follow from the name of what is sent."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from serve.explanation import explain
from serve.report import render_report
from serve.service.page import make_page_router
from serve.verdict import DEMONSTRATION, Outcome, Verdict
from tests.test_report_page import make_exhibits
from tests.verdicts import make_clip, make_track, make_unscorable, make_verdict

SETTLED = ("none", "ready")
WRONG = {413: "The file is longer than an hour.", 415: "This is text/plain, and only videos are taken.", 507: "Full."}


def make_answer(name: str) -> Verdict:
    """The verdict for a name."""
    low = make_track(0, make_clip([0.1, 0.2, 0.15, 0.1, 0.3, 0.2]))
    if "real" in name:
        return make_verdict(path=name, outcome=Outcome.REAL, p_fake=0.18, tracks=(low,))
    if "uncertain" in name:
        return make_verdict(path=name, outcome=Outcome.UNCERTAIN, p_fake=0.47, rates=None)
    if "noface" in name:
        return replace(make_unscorable("NO_FACE"), path=name)
    if "crowd" in name:
        return make_verdict(path=name, tracks=tuple(make_track(number, make_clip([0.8] * 4)) for number in range(11)))
    probs = [0.2, 0.3, 0.7, 0.8, 0.9, 0.8, 0.4, 0.2, 0.8, 0.95, 0.9, 0.85]
    high = make_track(0, make_clip(probs[:6]), make_clip(probs[6:], 3.0))
    beside = make_track(1, make_clip([0.3, 0.4, 0.2], 2.0, counted=False))
    return make_verdict(path=name, tracks=(high, beside))


class Stand:
    """What the stand-in remembers; `key` is asked for where it is not empty."""

    def __init__(self, key: str = "", demo: bool = False) -> None:
        self.key, self.demo = key, demo
        self.jobs: dict[str, dict[str, Any]] = {}
        self.busy = 1  # how often a name with "busy" is turned away
        self.may_report = True  # whether reports get further than being made
        self.types: list[str] = []

    def add(self, name: str, size: int) -> dict[str, Any]:
        ident = f"job-{len(self.jobs):022d}"
        job = {
            "id": ident,
            "state": "running" if "slow" in name else "queued",
            "name": name,
            "size_bytes": size,
            "sha256": "ab" * 32,
            "created_at": datetime.now(UTC).isoformat(),
            "started_at": None,
            "ended_at": None,
            "position": 1,
            "progress": {"done_s": 3.0 if "slow" in name else 0.0, "total_s": 10.0},
            "cached": False,
            "report": "none" if "noreport" in name else "waiting",
            "summary": None,
            "verdict": None,
            "explanation": None,
            "problem": None,
            "links": {"self": f"/v1/videos/{ident}", "report": None, "report_link": None},
        }
        self.jobs[ident] = job
        return job

    def step(self, job: dict[str, Any]) -> None:
        """A job a little later: its verdict first, its report after that."""
        if "slow" in job["name"]:
            return
        if job["state"] == "queued":
            job["state"] = "running"
        elif job["state"] == "running" and job["progress"]["done_s"] < 10:
            job["progress"]["done_s"] += 5
        elif job["state"] == "running":
            self.end(job)
        elif job["report"] == "waiting":
            job["report"] = "making"
        elif job["report"] == "making" and self.may_report:
            job["report"] = "ready"
            job["links"] |= {"report": f"/v1/videos/{job['id']}/report"}

    def end(self, job: dict[str, Any]) -> None:
        if "broken" in job["name"]:
            problem = {"detail": "The disk was full before there was a result."}
            job |= {"state": "failed", "problem": problem, "report": "none"}
            return
        verdict = make_answer(job["name"])
        document = verdict.to_document()
        summary = {key: document[key] for key in ("outcome", "reason", "p_fake")} | {"duration_s": 10.0}
        told = explain(verdict).to_document()
        job |= {"state": "done", "summary": summary, "verdict": document, "explanation": told}

    def refuse(self, name: str) -> Response | None:
        for status, detail in WRONG.items():
            if str(status) in name:
                return tell(status, detail)
        if "busy" in name and self.busy:
            self.busy -= 1
            return tell(429, "The queue is full.", {"Retry-After": "2"})
        return None


def is_open(job: dict[str, Any]) -> bool:
    """Whether something will change yet."""
    return job["state"] in ("queued", "running") or job["report"] not in SETTLED


def tell(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    document = {"type": "about:blank", "title": "Wrong", "status": status, "detail": detail}
    return JSONResponse(document, status, headers, media_type="application/problem+json")


def make_stand_in(stand: Stand) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(make_page_router())

    @app.middleware("http")
    async def check_key(request: Request, call_next: Any) -> Any:
        given, ticket = request.headers.get("authorization"), request.query_params.get("ticket")
        asked = stand.key and request.url.path.startswith("/v1/")
        if asked and given != f"Bearer {stand.key}" and ticket != "right":
            return tell(401, "This service needs an API key.")
        return await call_next(request)

    @app.get("/v1/model")
    def show_model() -> dict[str, Any]:
        facts = asdict(make_verdict().model)
        limits = {"max_size_bytes": 1_000_000, "max_duration_s": 3600}
        notices = [DEMONSTRATION] if stand.demo else []
        return {"model": facts, "purpose": "research", "notices": notices, "default_preset": "security"} | {
            "limits": limits
        }

    @app.post("/v1/videos")
    async def take(request: Request, name: str) -> Response:
        size = len(await request.body())
        stand.types.append(request.headers["content-type"])
        return stand.refuse(name) or JSONResponse(stand.add(name, size), 202)

    @app.get("/v1/videos")
    def show_jobs(limit: int, after: int = 0) -> dict[str, Any]:
        whole = ("verdict", "explanation")
        lean = [{key: job[key] for key in job if key not in whole} for job in list(stand.jobs.values())[::-1]]
        rest = after + limit
        more = f"/v1/videos?limit={limit}&after={rest}" if lean[rest:] else None
        return {"videos": lean[after:rest], "next": more}

    @app.get("/v1/videos/{ident}")
    def show_job(ident: str) -> Any:
        return stand.jobs.get(ident) or tell(404, "There is no such job.")

    @app.post("/v1/videos/{ident}/cancel")
    def cancel(ident: str) -> Any:
        stand.jobs[ident] |= {"state": "cancelled", "report": "none"}
        return stand.jobs[ident]

    @app.delete("/v1/videos/{ident}")
    def delete(ident: str) -> Response:
        del stand.jobs[ident]
        return Response(status_code=204)

    @app.get("/v1/videos/{ident}/report")
    def show_report(ident: str) -> Response:
        verdict = make_answer(stand.jobs[ident]["name"])
        page = render_report(verdict, make_exhibits(1.0) if verdict.p_fake else (), datetime.now(UTC))
        return Response(page, media_type="text/html")

    @app.post("/v1/videos/{ident}/report/link")
    def link_report(ident: str) -> dict[str, str]:
        return {"href": f"/v1/videos/{ident}/report?ticket=right", "expires_at": datetime.now(UTC).isoformat()}

    @app.get("/v1/videos/{ident}/events")
    async def send_events(ident: str) -> Response:
        async def follow() -> AsyncIterator[str]:
            job = stand.jobs[ident]
            yield ": here\n\n"
            while is_open(job) and ident in stand.jobs:
                yield f"event: job\ndata: {json.dumps(job)}\n\n"
                await asyncio.sleep(0.1)
                stand.step(job)
            yield f"event: job\ndata: {json.dumps(job)}\n\n"

        return StreamingResponse(follow(), media_type="text/event-stream")

    return app


@contextmanager
def serve_on_loopback(app: FastAPI) -> Iterator[str]:
    """Its address while it runs, on a port that was free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
