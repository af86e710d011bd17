"""The shapes of the service's answers, as its OpenAPI document shows them, with examples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from serve.explanation import Explanation
from serve.service.problems import MEDIA_TYPE

PROBLEM: dict[str, Any] = {
    "type": "/problems/queue-full",
    "title": "Too Many Requests",
    "status": 429,
    "detail": "100 videos wait already; send it again later.",
    "instance": "/v1/videos",
    "request_id": "0TqkKq1yYtM",
}
JOB: dict[str, Any] = {
    "id": "q9Jx0cV3m2bTn5rKf8sWzA1yLhPdUe6o",
    "state": "queued",
    "name": "clip.mp4",
    "size_bytes": 1048576,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created_at": "2026-01-01T12:00:00.000+00:00",
    "started_at": None,
    "ended_at": None,
    "position": 1,
    "progress": {"done_s": 0.0, "total_s": None},
    "cached": False,
    "report": "waiting",
    "summary": None,
    "problem": None,
    "links": {
        "self": "/v1/videos/q9Jx0cV3m2bTn5rKf8sWzA1yLhPdUe6o",
        "events": "/v1/videos/q9Jx0cV3m2bTn5rKf8sWzA1yLhPdUe6o/events",
        "cancel": "/v1/videos/q9Jx0cV3m2bTn5rKf8sWzA1yLhPdUe6o/cancel",
        "report": None,
        "report_link": None,
    },
}


Outcome = Literal["REAL", "FAKE", "UNCERTAIN", "NOT_SCORABLE"]


class ProblemDocument(BaseModel):
    """Problem details of RFC 9457."""

    model_config = ConfigDict(json_schema_extra={"examples": [PROBLEM]})
    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str


class ProgressDocument(BaseModel):
    """Seconds of footage read, of so many where that is known."""

    done_s: float
    total_s: float | None


class LinksDocument(BaseModel):
    """Where the rest of a job is found."""

    self: str
    events: str
    cancel: str
    report: str | None
    report_link: str | None


class SummaryDocument(BaseModel):
    """The least of a verdict."""

    outcome: Outcome
    reason: str | None
    p_fake: float | None
    duration_s: float | None


class LinkDocument(BaseModel):
    """A link that needs no key, and until when it holds."""

    href: str
    expires_at: str


class VerdictDocument(BaseModel):
    """The verdict as `unmask score --json` has it; what must be shown beside the outcome is in `notices`."""

    model_config = ConfigDict(extra="allow")
    format: Literal["unmask-verdict/1"]
    path: str
    sha256: str | None
    outcome: Outcome
    reason: str | None
    detail: str
    p_fake: float | None
    threshold: float
    preset: str
    tracks: list[dict[str, Any]]
    model: dict[str, Any]
    provider: str
    purpose: str
    untrained_backbone: bool
    notices: list[str]


class LeanJobDocument(BaseModel):
    """One uploaded video and what became of it, without the verdict's details.

    `done` comes with the verdict; the report is made afterwards, when no video waits for a verdict. `position` is how
    many turns come until its own at most.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [JOB]})
    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    name: str
    size_bytes: int
    sha256: str
    created_at: str
    started_at: str | None
    ended_at: str | None
    position: int | None
    progress: ProgressDocument
    cached: bool
    report: Literal["none", "waiting", "making", "ready"]
    summary: SummaryDocument | None
    problem: ProblemDocument | None
    links: LinksDocument


class JobDocument(LeanJobDocument):
    """One uploaded video and what became of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**JOB, "verdict": None, "explanation": None}]})
    verdict: VerdictDocument | None
    explanation: Explanation | None


class JobsDocument(BaseModel):
    """Jobs, the newest first."""

    videos: list[LeanJobDocument]
    next: str | None


class ModelDocument(BaseModel):
    """What the service scores with, and what it takes."""

    model: dict[str, Any]
    provider: str
    purpose: str
    untrained_backbone: bool
    notices: list[str]
    presets: dict[str, dict[str, Any]]
    default_preset: str
    threshold: float
    uncertain: list[float]
    prevalence: float | None
    tracks: Literal["main", "all"]
    limits: dict[str, float]
    needs_key: bool


def list_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of an operation, for its entry in the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    content = {MEDIA_TYPE: {"schema": schema, "example": PROBLEM}}
    return {status: {"description": "Refused", "content": content} for status in statuses}


BYTES = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the file; without any, the request is refused with 422.",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary", "minLength": 1}}
            for kind in ("application/octet-stream", "video/*")
        },
    }
}
