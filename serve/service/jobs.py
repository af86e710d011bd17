"""A job: one uploaded video and what became of it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Where a job stands; the last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS = (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Job:
    """A row of the store; times are seconds since 1970."""

    id: str
    owner: str
    name: str
    state: State
    size_bytes: int
    sha256: str
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    cached: bool = False
    report: bool = False
    attempts: int = 0
    verdict: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDS


def make_id() -> str:
    """A name nobody can guess: 192 bits."""
    return secrets.token_urlsafe(24)


def clean_name(name: str) -> str:
    """A file's name as it may be shown: no folders, no signs that steer a terminal or turn text around."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(sign for sign in last if sign.isprintable()).strip()[:200] or "video"


def to_document(job: Job, position: int | None, done_s: float, total_s: float | None) -> dict[str, Any]:
    """The job as JSON-ready values."""
    link = f"/v1/videos/{job.id}"
    return {
        "id": job.id,
        "state": str(job.state),
        "name": job.name,
        "size_bytes": job.size_bytes,
        "sha256": job.sha256,
        "created_at": _format_time(job.created_at),
        "started_at": _format_time(job.started_at),
        "ended_at": _format_time(job.ended_at),
        "position": position,
        "progress": {"done_s": done_s, "total_s": total_s},
        "cached": job.cached,
        "verdict": job.verdict,
        "problem": job.problem,
        "links": {
            "self": link,
            "events": f"{link}/events",
            "report": f"{link}/report" if job.report else None,
            "cancel": f"{link}/cancel",
        },
    }


def _format_time(time_s: float | None) -> str | None:
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
