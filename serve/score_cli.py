"""The command `score`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.errors import STOPPED
from extract.options import DEVICE
from serve.options import take_choices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from extract.session import Device
    from serve.batch import Write
    from serve.lines import Form
    from serve.report_files import ReportFiles
    from serve.results import ResultsFile
    from serve.scorer import Scorer

HIT = 3  # exit code of --fail-on


@click.command("score")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document a line.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV line a file.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Also write the results to this .jsonl or .csv; what it holds already is not scored again.",
)
@click.option(
    "--retry", multiple=True, metavar="REASON", help="Score again what --out holds as this, such as TIMED_OUT."
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    default=None,
    help="Write a page with the evidence: PAGE.html for one file, a folder for several.",
)
@take_choices
@click.option(
    "--fail-on",
    type=click.Choice(["fake", "uncertain", "not-scorable"]),
    multiple=True,
    help="Exit with 3 if any file is that.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Files read at the same time.")
@click.option("--null", "-0", "null", is_flag=True, help="Paths of a list end with NUL instead of a line's end.")
@DEVICE
@click.pass_context
def score_command(
    ctx: click.Context, model: Path, paths: tuple[str, ...], as_json: bool, as_csv: bool, out: Path | None,
    retry: tuple[str, ...], report: Path | None, choices: dict[str, Any], fail_on: tuple[str, ...], jobs: int | None,
    null: bool, device: Device,
) -> None:  # fmt: skip
    """Say of each video in PATHS whether its faces are real, with MODEL, a folder.

    PATHS are files, folders (the videos below them), patterns, or - for a list of paths on standard input. A file that
    cannot be scored is NOT_SCORABLE with its reason, and the others go on. Verdicts are printed as they come.

    Exits with 0 when all is done, 1 for an error, 2 for misuse, 3 for what --fail-on names, and 130 after Ctrl-C.
    """
    from extract.isolation import count_decoders
    from serve.batch import score_batch
    from serve.scorer import Scorer

    form = _choose_form(as_json, as_csv)
    redo = _parse_retry(retry, out)
    try:
        files = _list_files(paths, null=null)
        jobs = jobs or min(count_decoders(), len(files))
        with Scorer.open(model, device, **choices, jobs=jobs) as scorer, ExitStack() as stack:
            reports = _open_reports(report, scorer, model, len(files))
            results = stack.enter_context(_open_results(out, scorer, files, redo)) if out else None
            outcomes = score_batch(scorer, files, jobs, _choose_writer(form), results, reports)
            if form == "table":
                _tell_odds(scorer)
    except KeyboardInterrupt:
        click.echo(f"unmask: stopped{'; the same command continues' if out else ''}", err=True)
        ctx.exit(STOPPED)
    if any(outcomes[kind.upper().replace("-", "_")] for kind in fail_on):
        ctx.exit(HIT)


def _list_files(paths: Sequence[str], *, null: bool) -> list[Path]:
    from serve.inputs import LIST, list_inputs, split_list

    if LIST in paths and sys.stdin is None:
        raise click.UsageError("there is no standard input to read a list from")
    listed = split_list(sys.stdin.buffer.read(), null=null) if LIST in paths else []
    files = list_inputs(paths, listed)
    if not files:
        raise click.UsageError("the list is empty; give at least one path")
    return files


def _open_reports(target: Path | None, scorer: Scorer, model: Path, files: int) -> ReportFiles | None:
    if target is None:
        return None
    from serve.report_files import ReportFiles

    return ReportFiles(target, scorer, model, files)


def _open_results(out: Path, scorer: Scorer, files: Sequence[Path], redo: frozenset[str]) -> ResultsFile:
    from serve.results import ResultsFile, Terms

    return ResultsFile(out, Terms.of(scorer), files, redo)


def _choose_form(as_json: bool, as_csv: bool) -> Form:
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other; choose one")
    return "json" if as_json else "csv" if as_csv else "table"


def _parse_retry(retry: tuple[str, ...], out: Path | None) -> frozenset[str]:
    from extract.errors import Reason

    if retry and out is None:
        raise click.UsageError("--retry goes with --out, whose results it looks into")
    return Reason.parse_retry(retry)


def _choose_writer(form: Form) -> Write:
    from serve.lines import choose_lines

    head, format_verdict = choose_lines(form)
    if head:
        click.echo(head)
    return lambda verdict: click.echo(format_verdict(verdict).encode(errors="surrogateescape"))


def _tell_odds(scorer: Scorer) -> None:
    from serve.lines import describe_odds

    odds = scorer.ruling.weigh(None)
    if odds is not None:
        click.echo(describe_odds(odds))
