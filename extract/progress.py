"""Progress on stderr: a bar where a person watches, a line now and then where a log does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from extract.cache import OK, VideoRecord


@contextmanager
def track_videos(verb: str, total: int) -> Iterator[Callable[[VideoRecord], None]]:
    """Yields a callback that takes each finished video; those without features are named with their reason."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(verb, total=total, rate="")

        def on_video(record: VideoRecord) -> None:
            if record.status != OK:
                progress.console.print(
                    f"{record.id}: {record.status}, {record.detail}", markup=False, highlight=False, soft_wrap=True
                )
            progress.advance(task)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield on_video
