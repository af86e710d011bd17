"""Progress on stderr: a bar where a person watches, a line now and then where a log does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from extract.results import OK, VideoRecord

LINE_S = 60.0  # between two lines of a log


class VideoProgress:
    """Takes each finished video; those without features are named with their reason."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._said_s = time.monotonic()

    def begin(self, todo: int, reused: int) -> None:
        """So many videos are to be done, so many are finished already."""
        self._progress.update(self._task, total=todo)
        if reused:
            self._progress.console.print(f"{reused} videos are finished already", highlight=False)

    def add(self, record: VideoRecord) -> None:
        """One more is done."""
        if record.status != OK:
            self._progress.console.print(
                f"{record.id}: {record.status}, {record.detail}", markup=False, highlight=False, soft_wrap=True
            )
        self._progress.advance(self._task)
        speed = self._progress.tasks[0].speed
        rate = f"{speed:.1f}/s" if speed else ""
        self._progress.update(self._task, rate=rate)
        now = time.monotonic()
        if not self._progress.console.is_terminal and now - self._said_s >= LINE_S:
            self._said_s = now
            done = self._progress.tasks[0]
            self._progress.console.print(f"{done.completed:.0f}/{done.total:.0f} {rate}", highlight=False)


@contextmanager
def track_videos(verb: str) -> Iterator[VideoProgress]:
    """A bar with rate and time left."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        yield VideoProgress(progress, progress.add_task(verb, total=None, rate=""))
