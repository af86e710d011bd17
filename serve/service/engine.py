"""The engine: threads that take jobs from the store and score them; several share one scorer, which stacks clips.

Verdicts come first: a report costs several times a verdict, and is made while no video waits.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from typing import Any

from extract.errors import CancelledError, DiskError, Reason, UnmaskError, VideoError
from serve.explanation import explain
from serve.results import Terms
from serve.scorer import Scorer
from serve.service.jobs import SETTLED, Job, Report, State, hide_path, rename_verdict, summarise
from serve.service.metrics import Metrics
from serve.service.problems import UNEXPECTED, ProblemError, describe_problem, refuse_stopping
from serve.service.reporter import Reporter
from serve.service.settings import Settings
from serve.service.store import Store
from serve.service.tickets import Tickets
from serve.service.uploads import Upload, Uploads
from serve.verdict import Verdict

LOG = logging.getLogger("unmask.service")
LOOK_S = 1.0  # between two looks into the queue where nobody called
TIDY_S = 60.0
GLANCE_S = 5.0  # to look at an upload before it waits
RETRY_S = 1.0  # between two tries to write an end on a full disk
# These say something of the machine as it was, not of the file.
PASSING = (Reason.OUT_OF_MEMORY, Reason.TIMED_OUT, Reason.WORKER_DIED, Reason.DECODER_CRASHED, Reason.NOT_FOUND)
DIED = "The service died several times while it scored this file; it is not tried again."


@dataclass
class Run:
    """What a thread works on: a job, or the report of one."""

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
        self.tickets = Tickets()
        self._reporter = Reporter(scorer, uploads, model)
        self._changed = Condition()
        self._runs: dict[str, Run] = {}
        self._making: dict[str, Run] = {}
        self._receiving: Counter[str] = Counter()  # uploads under way, by owner
        self._at_once = 0
        self._glance = Lock()
        # Threads that score keep memory of their own: the fewer, the better.
        self.scoring = ThreadPoolExecutor(settings.jobs, thread_name_prefix="at-once")
        self._threads: list[Thread] = []

    def recover(self) -> None:
        """Finds again what a death interrupted and deletes what nobody owns, before anything is taken."""
        waiting = self.store.recover(describe_problem(500, "died", DIED))
        stray = self.uploads.sweep(self.store.list_ids(), self.store.list_ids(report=True))
        self._tidy()
        LOG.info("recovered", extra={"facts": {"waiting": waiting, "stray_files": stray}})

    def start(self) -> None:
        """Begins to work."""
        works: list[Callable[[], None]] = [partial(self._work, self._claim) for _ in range(self.settings.jobs)]
        works += [partial(self._work, self._claim_report), self._keep_tidy]
        for number, work in enumerate(works):
            thread = Thread(target=work, name=f"service-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Takes nothing more, lets what is under way wait for the next start, and ends the threads."""
        self.stopping.set()
        with self._changed:
            for run in (*self._runs.values(), *self._making.values()):
                run.stopped.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self.scoring.shutdown()

    def is_alive(self) -> bool:
        """Whether its threads work."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @contextmanager
    def reserve(self, owner: str) -> Iterator[None]:
        """A place in the queue for an upload that is about to come; raises ProblemError where there is none."""
        self.require_running()
        with self._changed:
            own = self.store.count(State.QUEUED, owner) + self._receiving[owner]
            if self.store.count(State.QUEUED) + self._receiving.total() >= self.settings.most_queued:
                raise _refuse_queue(f"{self.settings.most_queued} videos wait already")
            if own >= self.settings.most_queued_each:
                raise _refuse_queue(f"{own} videos of yours wait already")
            self._receiving[owner] += 1
        try:
            yield
        finally:
            with self._changed:
                self._receiving[owner] -= 1

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
            raise refuse_stopping()

    def accept(self, upload: Upload, owner: str, name: str, *, report: bool) -> Job:
        """Takes in an upload: answered at once where its owner had these bytes answered before, else it waits."""
        wanted = Report.WAITING if report else Report.NONE
        job = Job(upload.id, owner, name, State.QUEUED, upload.size_bytes, upload.sha256, time.time(), report=wanted)
        self.metrics.uploaded.inc(upload.size_bytes)
        if (told := self._tell_again(job)) is not None:
            job = replace(
                job, state=State.DONE, ended_at=time.time(), cached=True, report=told.report,
                summary=summarise(told.verdict), verdict=told.verdict, explanation=told.explanation,
            )  # fmt: skip
            self.store.add_answered(job, self.terms)
            self._drop_upload(job)
        else:
            self._measure(upload.path, name)
            self.store.add(job)
            self.metrics.accepted.inc()
        self._wake()
        return job

    def cancel(self, job: Job) -> bool:
        """Ends a waiting job, or has a running one ended soon; False where it has ended."""
        with self._changed:
            if self.store.cancel(job.id, State.QUEUED):
                self._end(replace(job, report=Report.NONE), "cancelled")
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
        with self._changed:
            if job.id in self._making:
                self._making[job.id].cancelled.set()
        self.uploads.remove(job.id)
        self.uploads.remove_report(job.id)
        return True

    def count_changes(self, job_id: str) -> tuple[int, float]:
        """Stays equal as long as there is nothing new to tell of a job."""
        return self.store.changes, self.tell_progress(job_id)[0]

    def tell_progress(self, job_id: str) -> tuple[float, float | None]:
        """Seconds of footage read, of so many where that is known."""
        run = self._runs.get(job_id)
        return (0.0, None) if run is None else (run.done_s, run.total_s)

    def score_at_once(self, path: Path, name: str, cancel: Event) -> Verdict:
        """The verdict on a short clip; raises ProblemError for a longer one."""
        duration_s = self._measure(path, name)
        if duration_s > self.settings.sync_s:
            raise ProblemError(
                413, "too-long",
                f"The video has {duration_s:.0f} seconds, and at most {self.settings.sync_s:g} are scored at once; "
                "send it to /v1/videos.",
            )  # fmt: skip
        return rename_verdict(self.scorer.score(path, cancel=cancel), path, name)

    def _measure(self, path: Path, name: str) -> float:
        """Seconds of footage, or 0 where a short look does not tell; what is wrong with a file its verdict will say.

        Raises ProblemError for one that is longer, or has more pixels, than is scored here.
        """
        deadline = _Deadline(time.monotonic() + GLANCE_S)
        if not self._glance.acquire(timeout=GLANCE_S):
            return 0.0
        try:
            with self.scorer.read(path, deadline) as video:
                return video.facts.duration_s
        except VideoError as error:
            if error.reason is Reason.TOO_LARGE:
                detail = f"The video is larger than is scored here: {hide_path(error.detail, path, name)}."
                raise ProblemError(413, "too-large", detail) from error
        except UnmaskError as error:
            LOG.info("a file tells nothing at a glance", extra={"facts": {"upload": path.name, "error": str(error)}})
        finally:
            self._glance.release()
        return 0.0

    def _tell_again(self, job: Job) -> _Told | None:
        """What was told of the same bytes, with the report where there is one by now; None where nothing was."""
        answered = self.store.find_answer(job.owner, job.sha256, self.terms)
        if answered is None or answered.verdict is None:
            return None
        verdict = {**answered.verdict, "path": job.name}
        spoken = Verdict.from_document(verdict)
        explanation = explain(spoken).to_document()  # it names the file
        both = job.report is Report.WAITING and answered.report is Report.READY
        copied = both and self.uploads.copy_report(answered.id, job.id)
        report = Report.READY if copied else self._plan_report(job, spoken)
        self.metrics.cached.inc()
        return _Told(verdict, explanation, report)

    def _work(self, claim: Callable[[], Callable[[], None] | None]) -> None:
        while not self.stopping.is_set():
            try:
                work = claim()
            except UnmaskError as error:
                LOG.error("the queue cannot be read", extra={"facts": {"error": str(error)}})
                self.stopping.wait(RETRY_S)
                continue
            if work is not None:
                work()

    def _claim(self) -> Callable[[], None] | None:
        with self._changed:
            if (job := self.store.claim(self.terms)) is not None:
                return partial(self._run, job, self._begin(self._runs, job))
            self._changed.wait(LOOK_S)
            return None

    def _claim_report(self) -> Callable[[], None] | None:
        with self._changed:
            if not self.store.count(State.QUEUED) and (job := self.store.claim_report()) is not None:
                return partial(self._make_report, job, self._begin(self._making, job))
            self._changed.wait(LOOK_S)
            return None

    def _begin(self, runs: dict[str, Run], job: Job) -> Run:
        run = runs[job.id] = Run()
        if self.stopping.is_set():
            run.stopped.set()
        return run

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self, job: Job, run: Run) -> None:
        began = time.monotonic()
        self.metrics.waited_s.observe(time.time() - job.created_at)
        try:
            end: _End | None = self._score(job, run)
        except CancelledError:
            end = None if run.stopped.is_set() and not run.cancelled.is_set() else self._end_cancelled(job)
        except UnmaskError as error:
            end = self._end_failed(job, hide_path(str(error), self.uploads.locate(job.id), job.name))
        except Exception:
            # Whatever it was, the job must have an end, and the next one a thread.
            LOG.exception("a job failed unexpectedly", extra={"facts": {"job": job.id}})
            end = self._end_failed(job, UNEXPECTED)
        ended = self._insist(job, end.write if end else partial(self.store.put_back, job.id))
        with self._changed:
            del self._runs[job.id]
        if end is not None and ended:
            self.metrics.scored_s.observe(time.monotonic() - began)
            self._end(replace(job, report=end.report), end.name)
            self._wake()

    def _score(self, job: Job, run: Run) -> _End:
        if (known := self._tell_again(job)) is not None:  # sent twice, as by a client that lost its first answer
            finish = partial(self.store.finish, job.id, known.verdict, known.explanation, known.report)
            return _End(known.verdict["outcome"], partial(finish, reusable=True, cached=True), known.report)
        path = self._locate(job)
        verdict = rename_verdict(self.scorer.score(path, run.note_progress, run), path, job.name)
        report, document = self._plan_report(job, verdict), verdict.to_document()
        reusable = verdict.reason not in PASSING
        told = explain(verdict).to_document()
        write = partial(self.store.finish, job.id, document, told, report, reusable=reusable)
        return _End(str(verdict.outcome), write, report)

    def _plan_report(self, job: Job, verdict: Verdict) -> Report:
        """Where the report stands once there is a verdict: one too many is made at once, without pictures."""
        if job.report is not Report.WAITING:
            return job.report
        most, each = self.settings.most_queued, self.settings.most_queued_each
        if self.store.count_reports() < most and self.store.count_reports(job.owner) < each:
            return Report.WAITING
        return Report.READY if self._reporter.write_plain(job, verdict) else Report.NONE

    def _locate(self, job: Job) -> Path:
        path = self.uploads.locate(job.id)
        if not path.is_file():
            raise UnmaskError("the upload is not there any more; send the file again")
        return path

    def _end_cancelled(self, job: Job) -> _End:
        return _End("cancelled", partial(self.store.cancel, job.id, State.RUNNING))

    def _end_failed(self, job: Job, detail: str) -> _End:
        problem = describe_problem(500, "not-scored", detail, f"/v1/videos/{job.id}")
        return _End("failed", partial(self.store.fail, job.id, problem))

    def _make_report(self, job: Job, run: Run) -> None:
        report = Report.NONE
        try:
            write = partial(self._publish, job, self._reporter.prepare(job, run))
            report = Report.READY
        except CancelledError:
            write = partial(self.store.put_back_report, job.id)
        except Exception:
            LOG.exception("a report failed unexpectedly", extra={"facts": {"job": job.id}})
            write = partial(self.store.finish_report, job.id, report)
        wanted = self._insist(job, write)
        with self._changed:
            del self._making[job.id]
        if not wanted and not self.stopping.is_set():  # deleted meanwhile
            self.uploads.remove_report(job.id)
        if run.stopped.is_set():
            return
        self._drop_upload(replace(job, report=Report.NONE))
        self.metrics.reports.labels(str(report)).inc()
        LOG.info("a report ended", extra={"facts": {"job": job.id, "end": str(report)}})

    def _publish(self, job: Job, write_page: Callable[[], None]) -> bool:
        write_page()
        return self.store.finish_report(job.id, Report.READY)

    def _insist(self, job: Job, write: Callable[[], bool]) -> bool:
        """Writes what became of a job, or that it waits again; tries until there is room on the disk."""
        while True:
            try:
                return write()
            except DiskError as error:
                LOG.error(
                    "what became of a job cannot be written", extra={"facts": {"job": job.id, "error": str(error)}}
                )
                if self.stopping.wait(RETRY_S):
                    return False  # it still counts as under way, and is found at the next start

    def _end(self, job: Job, end: str) -> None:
        self._drop_upload(job)
        self.metrics.ended.labels(end).inc()
        LOG.info("a job ended", extra={"facts": {"job": job.id, "end": end}})

    def _drop_upload(self, job: Job) -> None:
        """Deletes a job's video, if that is the policy and no report needs it."""
        if self.settings.keep_uploads_s == 0 and job.report in SETTLED:
            self.uploads.remove(job.id)

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
        for job_id in self.uploads.list_ids() & self.store.list_settled(now - self.settings.keep_uploads_s):
            self.uploads.remove(job_id)


@dataclass(frozen=True)
class _Deadline:
    """Cancels what takes longer."""

    until: float

    def is_set(self) -> bool:
        """Whether it is over."""
        return time.monotonic() >= self.until


@dataclass(frozen=True)
class _Told:
    """A verdict and what it means, as a job has them, and where its report stands."""

    verdict: dict[str, Any]
    explanation: dict[str, Any]
    report: Report


@dataclass(frozen=True)
class _End:
    """How a job ended, what writes it down, and where its report stands then."""

    name: str
    write: Callable[[], bool]
    report: Report = Report.NONE


def _refuse_queue(why: str) -> ProblemError:
    return ProblemError(429, "queue-full", f"{why}; send it again later.", {"Retry-After": "30"})
