"""The backbone in a thread of its own: crops of many videos, batched together, features in the order they came."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray

from extract.backbones import Backbone

WAITING_BYTES = 128 << 20


@dataclass(eq=False)
class _Job:
    crops: NDArray[np.uint8]  # (n, S, S, 3)
    features: NDArray[np.float16]  # (n, D), filled bit by bit
    future: Future[NDArray[np.float16]]
    taken: int = 0
    done: int = 0


class Embedder:
    """Embeds crops from several threads; what waits is bounded in bytes."""

    def __init__(self, backbone: Backbone, waiting_bytes: int = WAITING_BYTES) -> None:
        self.busy_s = 0.0
        self._backbone = backbone
        self._most_bytes = waiting_bytes
        self._bytes = 0
        self._jobs: deque[_Job] = deque()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, crops: NDArray[np.uint8]) -> Future[NDArray[np.float16]]:
        """Queues crops (n, S, S, 3) for their features (n, D); waits while too much is queued."""
        job = _Job(crops, np.empty((len(crops), self._backbone.spec.dim), np.float16), Future())
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._bytes or self._fits(crops))
            if self._closed:
                job.future.cancel()
                return job.future
            self._bytes += crops.nbytes
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Ends the thread; what is still queued is cancelled."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.future.cancel()
            self._jobs.clear()
            self._changed.notify_all()
        self._thread.join()

    def _fits(self, crops: NDArray[np.uint8]) -> bool:
        return self._bytes + crops.nbytes <= self._most_bytes

    def _work(self) -> None:
        while batch := self._take_batch():
            try:
                begun = time.perf_counter()
                features = self._backbone.embed(np.concatenate([job.crops[rows] for job, rows in batch]))
                self.busy_s += time.perf_counter() - begun
                self._hand_out(batch, features.astype(np.float16))
            except Exception as error:
                self._give_up([job for job, _ in batch], error)

    def _take_batch(self) -> list[tuple[_Job, slice]]:
        """Rows of the jobs that came first, as many as a batch holds; nothing once it is closed."""
        batch: list[tuple[_Job, slice]] = []
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._jobs))
            room = self._backbone.batch
            while self._jobs and room:
                job = self._jobs[0]
                rows = slice(job.taken, min(len(job.crops), job.taken + room))
                batch.append((job, rows))
                room -= rows.stop - rows.start
                job.taken = rows.stop
                if job.taken == len(job.crops):
                    self._jobs.popleft()
        return batch

    def _give_up(self, jobs: list[_Job], error: Exception) -> None:
        """Tells those who wait for some jobs what went wrong."""
        with self._changed:
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
                    self._bytes -= job.crops.nbytes
                if job in self._jobs:
                    self._jobs.remove(job)
            self._changed.notify_all()

    def _hand_out(self, batch: list[tuple[_Job, slice]], features: NDArray[np.float16]) -> None:
        at = 0
        for job, rows in batch:
            count = rows.stop - rows.start
            job.features[rows] = features[at : at + count]
            at += count
            job.done += count
            if job.done == len(job.crops):
                with self._changed:
                    self._bytes -= job.crops.nbytes
                    self._changed.notify_all()
                if not job.future.cancelled():
                    job.future.set_result(job.features)
