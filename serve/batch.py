"""A batch of files scored to its end: a line for each as it comes, results that continue, pages, and how it went."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from serve.report_files import ReportFiles
from serve.results import ResultsFile
from serve.scorer import Scorer
from serve.verdict import Verdict

Write = Callable[[Verdict], None]


def score_batch(
    scorer: Scorer,
    files: Sequence[Path],
    jobs: int | None,
    write: Write,
    results: ResultsFile | None = None,
    reports: ReportFiles | None = None,
) -> Counter[str]:
    """Scores the files that have no result yet, and counts the outcomes of all."""
    kept = results.kept if results else {}
    outcomes = Counter(kept.values())
    todo = [file for file in files if str(file) not in kept]
    if reports and kept:
        _say(f"what has a result already gets no page ({len(kept)}); to have them, name another --out")
    with _show_progress(len(todo), len(kept)) as bar:
        for verdict in _score(scorer, todo, jobs, bar.advance):
            if reports:  # before its line in the results, which says that the file is done
                reports.write(verdict)
            if results:
                results.add(verdict)
            with bar.aside():
                write(verdict)
            outcomes[str(verdict.outcome)] += 1
    return outcomes


def _score(
    scorer: Scorer, files: Sequence[Path], jobs: int | None, advance: Callable[[float, float], None]
) -> Iterator[Verdict]:
    """A single file tells how far it was read; of several, it is told how many are done."""
    if len(files) == 1:
        yield scorer.score(files[0], progress=advance)
        return
    advance(0, len(files))
    for done, verdict in enumerate(scorer.score_many(files, jobs), start=1):
        yield verdict
        advance(done, len(files))


class _Rate(ProgressColumn):
    """Files a minute."""

    def render(self, task: Task) -> Text:
        return Text(f"{60 * task.speed:.1f}/min" if task.speed else "")


class _Bar:
    """How far a batch is; without `progress`, nothing is shown."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._task = progress.add_task("scoring", total=None) if progress else None

    def advance(self, done: float, total: float) -> None:
        """So much of so much is done."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Takes the bar away while a line is written where it stands."""
        if self._progress is None or not sys.stdout.isatty():
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _show_progress(files: int, kept: int) -> Iterator[_Bar]:
    """A bar on stderr where a person watches it."""
    console = Console(stderr=True)
    if kept:
        _say(f"{kept} {'file has' if kept == 1 else 'files have'} a result already")
    if not console.is_terminal or not files:
        yield _Bar()
        return
    counts = (MofNCompleteColumn(), _Rate()) if files > 1 else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        yield _Bar(progress)
