"""Numbers for Prometheus: requests, jobs, waiting and scoring times."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter("unmask_requests", "Requests", ["method", "route", "status"], registry=registry)
        self.request_s = Histogram("unmask_request_seconds", "Time to answer", buckets=SECONDS, registry=registry)
        self.accepted = Counter("unmask_jobs_accepted", "Jobs taken in", registry=registry)
        self.cached = Counter("unmask_jobs_cached", "Jobs answered from a stored result", registry=registry)
        self.ended = Counter("unmask_jobs_ended", "Jobs ended", ["end"], registry=registry)
        self.reports = Counter("unmask_reports_ended", "Reports made or given up", ["end"], registry=registry)
        self.waited_s = Histogram("unmask_job_wait_seconds", "Time in the queue", buckets=SECONDS, registry=registry)
        self.scored_s = Histogram("unmask_job_run_seconds", "Time of a run", buckets=SECONDS, registry=registry)
        self.uploaded = Counter("unmask_uploaded_bytes", "Bytes received", registry=registry)
        self.queued = Gauge("unmask_jobs_queued", "Jobs that wait", registry=registry)
        self.running = Gauge("unmask_jobs_running", "Jobs that run", registry=registry)
        self.reports_waiting = Gauge("unmask_reports_waiting", "Reports that wait", registry=registry)

    def render(self, queued: int, running: int, reports: int) -> bytes:
        """The text that Prometheus reads."""
        self.queued.set(queued)
        self.running.set(running)
        self.reports_waiting.set(reports)
        return generate_latest(self._registry)
