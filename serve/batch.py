"""A batch of files scored to its end: a line for each as it comes, results that continue, pages, and how it went."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
    with _show_progress(len(todo), len(kept)) as advance:
        for verdict in _score(scorer, todo, jobs, advance):
            if results:
                results.add(verdict)
            write(verdict)
            if reports:
                reports.write(verdict)
            outcomes[str(verdict.outcome)] += 1
    return outcomes


def _score(
    scorer: Scorer, files: Sequence[Path], jobs: int | None, advance: Callable[[float, float], None]
) -> Iterator[Verdict]:
    """A single file tells how far it was read; of several, it is told how many are done."""
    if len(files) == 1:
        yield scorer.score(files[0], progress=advance)
        return
    for done, verdict in enumerate(scorer.score_many(files, jobs), start=1):
        yield verdict
        advance(done, len(files))


@contextmanager
def _show_progress(files: int, kept: int) -> Iterator[Callable[[float, float], None]]:
    """A bar on stderr where a person watches it and no lines appear under it."""
    console = Console(stderr=True)
    if kept:
        console.print(f"{kept} files have a result already", highlight=False)
    if not console.is_terminal or not files or (files > 1 and sys.stdout.isatty()):
        yield lambda *_: None
        return
    counts = (MofNCompleteColumn(),) if files > 1 else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
