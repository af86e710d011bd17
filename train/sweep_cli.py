"""The command that searches for a good head: sweep."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from extract.options import AS_JSON, DEVICE
from train.config import Conditioning, Encoder, Pooling
from train.options import MEMORY, POSITIVE, SEED

if TYPE_CHECKING:
    from train.schemes import Progress
    from train.sweep.run import Standing

LINE_S = 60.0  # between two lines of a log
OPTIONS = {"encoders": get_args(Encoder), "poolings": get_args(Pooling), "conditionings": get_args(Conditioning)}


def _split_names(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    """`lstm,gru` as a tuple of names that are allowed."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in OPTIONS[option.name or ""]:
            raise click.BadParameter(f"{name!r} is none of {', '.join(OPTIONS[option.name or ''])}", context, option)
    return names


@click.command("sweep")
@click.argument("features", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the sweep, runs/sweep.")
@click.option("--trials", type=POSITIVE, default=100, show_default=True, help="So many with a result; may be raised.")
@click.option("--jobs", type=POSITIVE, default=1, show_default=True, help="Trials at a time; one a processor at most.")
@click.option("--epochs", type=POSITIVE, default=15, show_default=True, help="Of a trial, at most.")
@click.option("--heads", "encoders", callback=_split_names, default="lstm", show_default=True)
@click.option("--poolings", callback=_split_names, default="mean", show_default=True)
@click.option("--conditionings", callback=_split_names, default="layernorm", show_default=True)
@click.option("--bidirectional", is_flag=True, help="Try both directions too.")
@click.option("--folds", type=click.IntRange(min=3), default=5, show_default=True, help="To train the best again.")
@click.option("--seeds", type=POSITIVE, default=3, show_default=True, help="To train the best again.")
@click.option("--no-refit", is_flag=True, help="Do not train the best again by folds.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of split, trials and heads.")
@MEMORY
@DEVICE
@click.option("--purpose", type=click.Choice(["research", "demo", "production"]), default="research", show_default=True)
@AS_JSON
def sweep_command(
    features: Path, out: Path, folds: int, seeds: int, no_refit: bool, memory: str | None, as_json: bool, **told: Any
) -> None:
    """Try many heads on the cache FEATURES, then train the best by folds.

    After Ctrl-C or a kill the same command goes on where it was. With one job the same seed gives the same trials;
    several jobs end in an order of their own, and later trials follow from earlier ones.
    """
    from rich.console import Console

    from train.sweep.report import (
        FOLDS_NOTE,
        describe_search,
        describe_value,
        summarise_sweep,
        tabulate_run,
        tabulate_trials,
    )
    from train.sweep.run import Refit, SweepConfig, run_sweep
    from train.sweep.space import SearchSpace

    space = SearchSpace(**{name: told.pop(name) for name in ("encoders", "poolings", "conditionings", "bidirectional")})
    config = SweepConfig(
        space=space, memory=_read_size(memory), refit=None if no_refit else Refit(folds, seeds), **told
    )
    with _show_progress() as (watch, watch_run):
        sweep = run_sweep(features, out, config, watch, watch_run)
    if as_json:
        click.echo(json.dumps(summarise_sweep(sweep)))
        return
    console = Console()
    console.print(tabulate_trials(sweep))
    click.echo(f"{describe_search(sweep)}\n{describe_value(sweep)}\n")
    if sweep.run is not None:
        console.print(tabulate_run(sweep))
        click.echo(f"{sweep.run.path}: {FOLDS_NOTE}")


def _read_size(memory: str | None) -> int | None:
    if memory is None:
        return None
    from train.rows import parse_bytes  # loads torch, which a sweep's first process does without

    return parse_bytes(memory)


@contextmanager
def _show_progress() -> Iterator[tuple[Callable[[Standing], None], Callable[[Progress], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]}"))
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("trials", total=None, found="reading the cache")
        said_s = time.monotonic()

        def watch(standing: Standing) -> None:
            nonlocal said_s
            found = _describe(standing)
            bar.update(task, total=standing.trials, completed=standing.finished, found=found)
            if not bar.console.is_terminal and time.monotonic() - said_s >= LINE_S:
                said_s = time.monotonic()
                bar.console.print(f"{standing.finished}/{standing.trials} {found}", highlight=False, soft_wrap=True)

        def watch_run(progress: Progress) -> None:
            bar.update(task, found=f"the best again: {progress.stage}, epoch {progress.epoch.number}")

        yield watch, watch_run


def _describe(standing: Standing) -> str:
    best = "" if standing.best is None else f"best {standing.best[1]:.3f} (trial {standing.best[0]}); "
    running = (f"{trial} at epoch {epoch}: {value:.3f}" for trial, (epoch, value) in standing.running.items() if epoch)
    return f"{best}{'; '.join(running)}"
