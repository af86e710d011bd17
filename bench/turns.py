"""Timing things against one another: they take turns, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def take_turns(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each run gives, round by round, after one round to warm up."""
    taken: dict[str, list[T]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            found = run()
            if number:
                taken[name].append(found)
    return taken


def measure(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that some work takes, and what it gives."""
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found
