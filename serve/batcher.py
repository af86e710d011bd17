"""The scorer in a thread of its own: clips of several files are stacked into one run, in the order they came."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from export.fused import OVERFLOW, ClipScores
from extract.errors import Reason, UnmaskError, VideoError
from serve.clip_model import ClipModel, Crops


@dataclass(frozen=True)
class _Job:
    crops: Crops
    future: Future[ClipScores] = field(default_factory=Future)


class ClipBatcher:
    """Scores clips that several threads hand in; each thread bounds what it has waiting."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model
        self._closed = False
        self._lock = Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="scorer", daemon=True)
        self._thread.start()

    def submit(self, crops: Crops) -> Future[ClipScores]:
        """Queues the crops (T, S, S, 3) of a clip; a score that is not finite is a VideoError of its own clip."""
        job = _Job(crops)
        with self._lock:
            if self._closed:
                raise UnmaskError("the scorer is closed; open it again")
            self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Ends the thread when what is queued has been scored."""
        with self._lock:  # nothing is queued behind the end
            self._closed = True
            self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        following = self._jobs.get()
        while following is not None:
            stack, following = self._collect(following)
            running = [job for job in stack if job.future.set_running_or_notify_cancel()]
            if running:
                self._run(running)
            following = following or self._jobs.get()

    def _collect(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """What waits and fits in one run with the first; and the job after these, where it is known already."""
        stack, lengths = [first], [len(first.crops)]
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return stack, None
            if job is None or not self._model.fits([*lengths, len(job.crops)]):
                if job is None:
                    self._jobs.put(None)  # seen again when this run is done
                return stack, job
            stack.append(job)
            lengths.append(len(job.crops))

    def _run(self, jobs: list[_Job]) -> None:
        try:
            found = self._model.score([job.crops for job in jobs])
        except Exception as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, scores in zip(jobs, found, strict=True):
            if scores.finite.all():
                job.future.set_result(scores)
            else:
                job.future.set_exception(VideoError(Reason.NOT_FINITE, OVERFLOW))
