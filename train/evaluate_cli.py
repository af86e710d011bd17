"""The commands that judge: evaluate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.options import AS_JSON, DEVICE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from train.evaluation.account import Account, TextTable
    from train.evaluation.pairing import PairedComparison

WIDTH = 144  # where no terminal says how wide it is
MOST_COLUMNS = 6
LEAST_WIDTH = 120  # below which a table of many columns would fold inside words


@click.command("evaluate")
@click.argument("run", type=click.Path(exists=True, path_type=Path, file_okay=False))
@click.argument("features", type=click.Path(exists=True, path_type=Path, dir_okay=False), required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; RUN/evaluation unless given.")
@click.option("--preset", help="The threshold that decides, by name; the run's default unless given.")
@click.option(
    "--target", "targets", multiple=True, help="A further threshold, such as recall=0.99, fpr=0.05, cost=10@0.01."
)
@click.option(
    "--prevalence",
    type=click.FloatRange(0, 1, True, True),
    help="PPV and NPV at this share of fakes too, such as 0.02.",
)
@click.option("--include-train", is_flag=True, help="Judge videos that the head has learned from too, and say so.")
@DEVICE
@click.option("--overwrite", is_flag=True, help="Replace an evaluation that is there.")
@AS_JSON
def evaluate_command(
    run: Path,
    features: Path | None,
    out: Path | None,
    targets: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Judge RUN on its held-out videos, or on all of another cache FEATURES."""
    from train.checkpoint import load_run
    from train.evaluation.account import give_account
    from train.evaluation.evaluate import EvaluationRequest, evaluate_run
    from train.evaluation.files import name_folder, require_free, save_evaluation
    from train.thresholds import Target

    request = EvaluationRequest(tuple(map(Target.parse, targets)), **asked)
    opened = load_run(run)
    folder = out or name_folder(opened, features)
    require_free(folder, overwrite)  # before the work, not after it
    evaluated = evaluate_run(opened, features, request)
    save_evaluation(folder, evaluated, overwrite)
    if not as_json:
        _print_account(give_account(evaluated.document), folder)
        return
    click.echo(evaluated.document.model_dump_json())
    for warning in evaluated.document.warnings:
        click.echo(f"warning: {warning}", err=True)


@click.command("compare")
@click.argument("a", type=click.Path(exists=True, path_type=Path, file_okay=False))
@click.argument("b", type=click.Path(exists=True, path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A JSON file to write too.")
@AS_JSON
def compare_command(a: Path, b: Path, out: Path | None, as_json: bool) -> None:
    """Say where A and B, runs or evaluations, differ on the videos that both held out."""
    from extract.files import write_text
    from train.evaluation.pairing import compare_folders

    found = compare_folders(a, b)
    document = found.model_dump_json()
    if out is not None:
        write_text(out, document + "\n")
    if as_json:
        click.echo(document)
    else:
        _print_comparison(found)


def _print_account(account: Account, folder: Path) -> None:
    from rich.columns import Columns

    console = _open_console()
    for text in account.notices:
        _say(console, text, "bold red")
    _say(console, account.title, "bold")
    for text in account.warnings:
        _say(console, f"warning: {text}", "yellow")
    _say(console, account.verdict)
    for text in account.data:
        _say(console, f"- {text}")
    console.print(Columns([_draw_table(account.usual), _draw_table(account.missing)], padding=(0, 4)))
    for table in (account.figures, account.thresholds, *account.parts):
        wide = len(table.columns) > MOST_COLUMNS and console.width < LEAST_WIDTH
        for part in table.list_rows_apart() if wide else (table,):
            console.print(_draw_table(part))
    _say(console, f"report, figures and predictions: {folder}")


def _print_comparison(found: PairedComparison) -> None:
    console = _open_console()
    for text in found.warnings:
        _say(console, f"warning: {text}", "yellow")
    console.print(_draw_table(found.tabulate()))
    _say(console, found.sentence)


def _open_console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def _say(console: Console, text: str, style: str = "") -> None:
    """Prints a line; names in it are never read as markup."""
    console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def _draw_table(table: TextTable) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(table.title, "bold"), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    shown.show_header = bool(table.columns[0])
    for name in table.columns:
        shown.add_column(Text(name), overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    shown.caption = Text(table.note) if table.note else None
    return shown
