"""A job: one uploaded video and what became of it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from serve.verdict import Verdict


class State(StrEnum):
    """Where a job stands; the last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Report(StrEnum):
    """Where a job's report stands: it comes after the verdict, when no video waits for one."""

    NONE = "none"  # nobody wants it, or it cannot be made
    WAITING = "waiting"
    MAKING = "making"
    READY = "ready"


ENDS = (State.DONE, State.FAILED, State.CANCELLED)
SETTLED = (Report.NONE, Report.READY)


@dataclass(frozen=True)
class Job:
    """A row of the store; times are seconds since 1970. `summary` is the least of a verdict, for lists."""

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
    report: Report = Report.NONE
    attempts: int = 0
    summary: dict[str, Any] | None = None
    verdict: dict[str, Any] | None = None
    explanation: dict[str, Any] | None = None  # of the verdict, in words
    problem: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether its outcome is known."""
        return self.state in ENDS

    @property
    def settled(self) -> bool:
        """Whether nothing will change any more."""
        return self.ended and self.report in SETTLED


def make_id() -> str:
    """A name nobody can guess: 192 bits."""
    return secrets.token_urlsafe(24)


def clean_name(name: str) -> str:
    """A file's name as it may be shown: no folders, no signs that steer a terminal or turn text around."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(sign for sign in last if sign.isprintable()).strip()[:200] or "video"


def rename_verdict(verdict: Verdict, path: Path, name: str) -> Verdict:
    """The verdict as its owner knows the file; where it lies here is nobody's business."""
    return replace(verdict, path=name, detail=hide_path(verdict.detail, path, name))


def hide_path(text: str, path: Path, name: str) -> str:
    """A sentence that names the file as its owner does."""
    return text.replace(str(path), name)


def summarise(verdict: dict[str, Any]) -> dict[str, Any]:
    """What a list shows of a verdict's document."""
    file = verdict["file"]
    duration_s = None if file is None else file["duration_s"]
    return {**{key: verdict[key] for key in ("outcome", "reason", "p_fake")}, "duration_s": duration_s}


def to_document(job: Job, position: int | None, done_s: float, total_s: float | None) -> dict[str, Any]:
    """The job as JSON-ready values, without its verdict."""
    link = f"/v1/videos/{job.id}"
    ready = job.report is Report.READY
    return {
        "id": job.id,
        "state": str(job.state),
        "name": job.name,
        "size_bytes": job.size_bytes,
        "sha256": job.sha256,
        "created_at": format_time(job.created_at),
        "started_at": format_time(job.started_at),
        "ended_at": format_time(job.ended_at),
        "position": position,
        "progress": {"done_s": done_s, "total_s": total_s},
        "cached": job.cached,
        "report": str(job.report),
        "summary": job.summary,
        "problem": job.problem,
        "links": {
            "self": link,
            "events": f"{link}/events",
            "cancel": f"{link}/cancel",
            "report": f"{link}/report" if ready else None,
            "report_link": f"{link}/report/link" if ready else None,
        },
    }


def format_time(time_s: float | None) -> str | None:
    """A time as ISO 8601 has it."""
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
