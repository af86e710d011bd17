"""The engine: threads that take jobs from the store and score them; several share one scorer, which stacks clips."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

from extract.errors import CancelledError, DiskError, Reason, UnmaskError, VideoError
from serve.evidence import Evidence
from serve.report import write_report
from serve.results import Terms
from serve.scorer import Scorer
from serve.service.jobs import Job, State
from serve.service.metrics import Metrics
from serve.service.problems import UNEXPECTED, ProblemError, describe_problem
from serve.service.settings import Settings
from serve.service.store import Store
from serve.service.uploads import Upload, Uploads
from serve.verdict import DEMONSTRATION, UNTRAINED, Verdict

LOG = logging.getLogger("unmask.service")
LOOK_S = 1.0  # between two looks into the queue where nobody called
TIDY_S = 60.0
RETRY_S = 1.0  # between two tries to write an end on a full disk
# These say something of the machine as it was, not of the file.
PASSING = (Reason.OUT_OF_MEMORY, Reason.TIMED_OUT, Reason.WORKER_DIED, Reason.DECODER_CRASHED, Reason.NOT_FOUND)
DIED = "The service died several times while it scored this file; it is not tried again."


@dataclass
class Run:
    """A job that a thread works on."""

    cancelled: Event = field(default_factory=Event)  # by its owner
    stopped: Event = field(default_factory=Event)  # by the end of the service
    done_s: float = 0.0
    total_s: float | None = None

    def is_set(self) -> bool:
        """Whether to stop scoring."""
        return self.cancelled.is_set() or self.stopped.is_set()

    def note_progress(self, done_s: float, total_s: float) -> None:
        """Keeps how far the footage was read."""
        self.done_s, self.total_s = done_s, total_s


class Engine:
    """Takes in uploads and ends every one of them exactly once; `stop` puts back what is not finished."""

    def __init__(
        self, settings: Settings, scorer: Scorer, store: Store, uploads: Uploads, metrics: Metrics, model: str
    ) -> None:
        """`model` is how the operator calls the model's folder."""
        self.settings = settings
        self.scorer = scorer
        self.store = store
        self.uploads = uploads
        self.metrics = metrics
        self.stopping = Event()
        self.terms = json.dumps(vars(Terms.of(scorer)), sort_keys=True)
        self._model = model
        self._evidence = Evidence(scorer)
        self._changed = Condition()
        self._runs: dict[str, Run] = {}
        self._receiving = 0
        self._at_once = 0
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Finds again what a death interrupted, deletes what nobody owns, and begins to work."""
        waiting = self.store.recover(describe_problem(500, "died", DIED))
        stray = self.uploads.sweep(self.store.list_ids(), self.store.list_ids(report=True))
        self._tidy()
        LOG.info("started", extra={"facts": {"waiting": waiting, "stray_files": stray}})
        works: list[Callable[[], None]] = [self._work] * self.settings.jobs
        for number, work in enumerate([*works, self._keep_tidy]):
            thread = Thread(target=work, name=f"service-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Takes nothing more, puts running jobs back into the queue and ends the threads."""
        self.stopping.set()
        with self._changed:
            for run in self._runs.values():
                run.stopped.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def is_alive(self) -> bool:
        """Whether its threads work."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """A place in the queue for an upload that is about to come; raises ProblemError where there is none."""
        self.require_running()
        with self._changed:
            if self.store.count(State.QUEUED) + self._receiving >= self.settings.most_queued:
                raise ProblemError(
                    429, "queue-full", f"{self.settings.most_queued} videos wait already; send it again later.",
                    {"Retry-After": "30"},
                )  # fmt: skip
            self._receiving += 1
        try:
            yield
        finally:
            with self._changed:
                self._receiving -= 1

    @contextmanager
    def reserve_at_once(self) -> Iterator[None]:
        """A place among those who wait for an answer in the same request."""
        self.require_running()
        with self._changed:
            if self._at_once >= self.settings.jobs:
                raise ProblemError(
                    429, "busy", "Other videos are being scored; send it again soon, or to /v1/videos.",
                    {"Retry-After": "5"},
                )  # fmt: skip
            self._at_once += 1
        try:
            yield
        finally:
            with self._changed:
                self._at_once -= 1

    def require_running(self) -> None:
        """Raises ProblemError while the service stops."""
        if self.stopping.is_set():
            raise ProblemError(503, "stopping", "The service is stopping; send it again soon.", {"Retry-After": "10"})

    def accept(self, upload: Upload, owner: str, name: str) -> Job:
        """Takes in an upload: answered at once where its owner had these bytes answered before, else it waits."""
        job = Job(upload.id, owner, name, State.QUEUED, upload.size_bytes, upload.sha256, time.time())
        answered = self.store.find_answer(owner, upload.sha256, self.terms)
        self.metrics.uploaded.inc(upload.size_bytes)
        if answered is not None and answered.verdict is not None:
            job = self._answer(job, answered)
            self.store.add_answered(job, self.terms)
            self.uploads.remove(job.id)
            self.metrics.cached.inc()
            return job
        self.store.add(job, self.terms)
        self.metrics.accepted.inc()
        with self._changed:
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> bool:
        """Ends a waiting job, or has a running one ended soon; False where it has ended."""
        with self._changed:
            if self.store.cancel(job.id, State.QUEUED):
                self._end(job.id, "cancelled")
                return True
            run = self._runs.get(job.id)
            if run is None:
                return False
            run.cancelled.set()
            return True

    def delete(self, job: Job) -> bool:
        """Forgets a job and its files; False where it runs."""
        if not self.store.delete(job.id, job.owner):
            return False
        self.uploads.remove(job.id)
        self.uploads.remove_report(job.id)
        return True

    def tell_progress(self, job_id: str) -> tuple[float, float | None]:
        """Seconds of footage read, of so many where that is known."""
        run = self._runs.get(job_id)
        return (0.0, None) if run is None else (run.done_s, run.total_s)

    def score_at_once(self, path: Path, name: str, cancel: Event) -> Verdict:
        """The verdict on a short clip; raises ProblemError for a longer one."""
        try:
            with self.scorer.read(path) as video:
                duration_s = video.facts.duration_s
        except VideoError:
            duration_s = 0.0  # its verdict says what is wrong with it
        if duration_s > self.settings.sync_s:
            raise ProblemError(
                413, "too-long",
                f"The video has {duration_s:.0f} seconds, and at most {self.settings.sync_s:g} are scored at once; "
                "send it to /v1/videos.",
            )  # fmt: skip
        verdict = rename_verdict(self.scorer.score(path, cancel=cancel), path, name)
        if verdict.reason == Reason.TOO_LARGE:
            raise ProblemError(413, "too-large", f"The video is larger than is scored here: {verdict.detail}.")
        return verdict

    def _answer(self, job: Job, answered: Job) -> Job:
        verdict = {**(answered.verdict or {}), "path": job.name}
        report = answered.report and self.uploads.copy_report(answered.id, job.id)
        return replace(job, state=State.DONE, ended_at=time.time(), cached=True, report=report, verdict=verdict)

    def _work(self) -> None:
        while not self.stopping.is_set():
            try:
                claimed = self._claim()
            except UnmaskError as error:
                LOG.error("the queue cannot be read", extra={"facts": {"error": str(error)}})
                self.stopping.wait(RETRY_S)
                continue
            if claimed is not None:
                self._run(*claimed)

    def _claim(self) -> tuple[Job, Run] | None:
        with self._changed:
            job = self.store.claim()
            if job is None:
                self._changed.wait(LOOK_S)
                return None
            run = self._runs[job.id] = Run()
            if self.stopping.is_set():
                run.stopped.set()
        self.metrics.waited_s.observe(time.time() - job.created_at)
        return job, run

    def _run(self, job: Job, run: Run) -> None:
        began = time.monotonic()
        try:
            end: _End | None = self._score(job, run)
        except CancelledError:
            end = None if run.stopped.is_set() and not run.cancelled.is_set() else self._end_cancelled(job)
        except UnmaskError as error:
            end = self._end_failed(job, _hide_path(str(error), self.uploads.locate(job.id), job.name))
        except Exception:
            # Whatever it was, the job must have an end, and the next one a thread.
            LOG.exception("a job failed unexpectedly", extra={"facts": {"job": job.id}})
            end = self._end_failed(job, UNEXPECTED)
        finally_ended = self._write_end(job, end)
        with self._changed:
            del self._runs[job.id]
        if end is not None and finally_ended:
            self.metrics.scored_s.observe(time.monotonic() - began)
            self._end(job.id, end.name)

    def _score(self, job: Job, run: Run) -> _End:
        path = self.uploads.locate(job.id)
        if not path.is_file():
            raise UnmaskError("the upload is not there any more; send the file again")
        verdict = self.scorer.score(path, run.note_progress, run)
        report = self._write_report(job, verdict, path)
        document = rename_verdict(verdict, path, job.name).to_document()
        reusable = verdict.reason not in PASSING
        return _End(str(verdict.outcome), lambda: self.store.finish(job.id, document, report=report, reusable=reusable))

    def _end_cancelled(self, job: Job) -> _End:
        return _End("cancelled", lambda: self.store.cancel(job.id, State.RUNNING))

    def _end_failed(self, job: Job, detail: str) -> _End:
        problem = describe_problem(500, "not-scored", detail, f"/v1/videos/{job.id}")
        return _End("failed", lambda: self.store.fail(job.id, problem))

    def _write_end(self, job: Job, end: _End | None) -> bool:
        """Writes how a job ended, or, without an end, that it waits again; tries until there is room on the disk."""
        write = end.write if end else lambda: self.store.put_back(job.id)
        while True:
            try:
                return write()
            except DiskError as error:
                LOG.error("the end of a job cannot be written", extra={"facts": {"job": job.id, "error": str(error)}})
                if self.stopping.wait(RETRY_S):
                    return False  # it still counts as running, and is found at the next start

    def _write_report(self, job: Job, verdict: Verdict, path: Path) -> bool:
        exhibits, missing = self._evidence.gather(verdict, path)
        shown = rename_verdict(verdict, path, job.name)
        target = self.uploads.locate_report(job.id)
        try:
            write_report(target, shown, exhibits, datetime.now(UTC), self._model, _hide_path(missing, path, job.name))
        except DiskError as error:
            LOG.error("a report cannot be written", extra={"facts": {"job": job.id, "error": str(error)}})
            return False
        return True

    def _end(self, job_id: str, end: str) -> None:
        if self.settings.keep_uploads_s == 0:
            self.uploads.remove(job_id)
        self.metrics.ended.labels(end).inc()
        LOG.info("a job ended", extra={"facts": {"job": job_id, "end": end}})

    def _keep_tidy(self) -> None:
        while not self.stopping.wait(TIDY_S):
            try:
                self._tidy()
            except UnmaskError as error:
                LOG.error("old results cannot be deleted", extra={"facts": {"error": str(error)}})

    def _tidy(self) -> None:
        """Deletes results and uploads that were kept long enough."""
        now = time.time()
        for job_id in self.store.forget(now - self.settings.keep_results_s):
            self.uploads.remove(job_id)
            self.uploads.remove_report(job_id)
        for job_id in self.uploads.list_ids() & self.store.list_ended(now - self.settings.keep_uploads_s):
            self.uploads.remove(job_id)


@dataclass(frozen=True)
class _End:
    """How a job ended, and what writes it down."""

    name: str
    write: Callable[[], bool]


def rename_verdict(verdict: Verdict, path: Path, name: str) -> Verdict:
    """The verdict as its owner knows the file; where it lies here is nobody's business."""
    return replace(verdict, path=name, detail=_hide_path(verdict.detail, path, name))


def _hide_path(text: str, path: Path, name: str) -> str:
    return text.replace(str(path), name)


def describe_model(engine: Engine) -> dict[str, Any]:
    """What the service scores with and what it takes, but for who may ask."""
    scorer, settings = engine.scorer, engine.settings
    contract = scorer.contract
    shown = ("value", "low", "high", "recall", "fpr", "recall_bound", "fpr_bound", "guaranteed", "n_fake", "n_real")
    return {
        "model": vars(scorer.facts),
        "provider": scorer.provider,
        "purpose": contract.purpose,
        "untrained_backbone": contract.untrained_backbone,
        "notices": list(list_notices(contract.purpose, untrained=contract.untrained_backbone)),
        "presets": {
            name: {
                "target": threshold.target.name,
                "source": threshold.source,
                **{key: getattr(threshold, key) for key in shown},
            }
            for name, threshold in contract.thresholds.items()
        },
        "default_preset": scorer.ruling.preset,
        "limits": {
            "max_size_bytes": settings.most_bytes,
            "max_duration_s": settings.most_duration_s,
            "max_queued": settings.most_queued,
            "sync_max_size_bytes": settings.sync_bytes,
            "sync_max_duration_s": settings.sync_s,
        },
    }


def list_notices(purpose: str, *, untrained: bool) -> tuple[str, ...]:
    """What must stand beside every outcome of a model."""
    return ((DEMONSTRATION,) if purpose == "demo" else ()) + ((UNTRAINED,) if untrained else ())
