"""The memory of a process and of all that it started, looked at again and again while something else goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event, Thread

import numpy as np

from bench.memory import sum_memory

MB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One look."""

    time_s: float  # since the watch began
    memory_mb: float


class MemoryWatch:
    """Looks until the end of its `with`."""

    def __init__(self, pid: int, every_s: float) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._every_s = every_s
        self._begun = time.perf_counter()
        self._done = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    @property
    def most_mb(self) -> int:
        """The largest of all samples."""
        return round(max(sample.memory_mb for sample in self.samples))

    def __enter__(self) -> MemoryWatch:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        time_s = time.perf_counter() - self._begun
        self.samples.append(Sample(time_s, sum_memory(self._pid) / MB))


def fit_slope(samples: Sequence[Sample], from_s: float) -> float:
    """MB a minute by least squares, over the samples from a time on."""
    late = [sample for sample in samples if sample.time_s >= from_s]
    minutes = [sample.time_s / 60 for sample in late]
    return float(np.polyfit(minutes, [sample.memory_mb for sample in late], 1)[0])
