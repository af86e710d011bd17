"""The command of this stage: train."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.options import AS_JSON, DEVICE
from train.options import FIT_OPTIONS, HEAD_OPTIONS, MEMORY, add_options, make_configs

if TYPE_CHECKING:
    from rich.table import Table

    from train.checkpoint import Run
    from train.measures.metrics import Metrics
    from train.schemes import Watcher

MEASURED = ("auc", "balanced_accuracy", "accuracy", "precision", "recall", "f1", "fpr")


@click.command("train")
@click.argument("features", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the run, runs/NAME.")
@click.option("--folds", type=int, default=None, help="Cross-validate by group in so many folds (3 or more).")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Repeat the folds so often.")
@add_options(*HEAD_OPTIONS, *FIT_OPTIONS, MEMORY)
@click.option("--calibration", type=click.Choice(["platt", "temperature"]), default="platt", show_default=True)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="recall=R|fpr=F|cost=C",
    help="A threshold of your own beside the presets; the first of them decides.",
)
@DEVICE
@click.option("--purpose", type=click.Choice(["research", "demo", "production"]), default="research", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace a run that is there.")
@AS_JSON
def train_command(
    features: Path,
    out: Path,
    folds: int | None,
    seeds: int,
    memory: str | None,
    calibration: Any,
    targets: tuple[str, ...],
    device: Any,
    purpose: Any,
    overwrite: bool,
    as_json: bool,
    **told: Any,
) -> None:
    """Train a head on the cache FEATURES: split by group, fit, calibrate, judge.

    After a kill the same command goes on where it was.
    """
    from rich.console import Console

    from train.rows import parse_bytes
    from train.run import train_run
    from train.schemes import TrainConfig
    from train.thresholds import Target

    shape, fit = make_configs(told)
    chosen = tuple(Target.parse(text) for text in targets)
    limit = None if memory is None else parse_bytes(memory)
    config = TrainConfig(fit, shape, folds, seeds, device, purpose, calibration, chosen, limit)
    with _show_progress() as watch:
        run = train_run(features, out, config, overwrite, watch)
    for warning in run.document.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(_summarise(run)))
        return
    Console().print(_tabulate(run))


@contextmanager
def _show_progress() -> Iterator[Watcher]:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with Bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("reading the cache", total=None)

        def watch(progress: Any) -> None:
            epoch = progress.epoch
            auc = "" if epoch.val_auc is None else f", validation video AUC {epoch.val_auc:.3f}"
            bar.update(task, description=f"{progress.stage}, epoch {epoch.number}: loss {epoch.train_loss:.3f}{auc}")

        yield watch


def _summarise(run: Run) -> dict[str, Any]:
    """The run's document without what grows with the number of videos."""
    document = run.document.model_dump(
        mode="json", exclude={"split": {"assignment"}, "curve": True, "fingerprint": True}
    )
    for fold in document["folds"]:
        del fold["curve"]
    return {"out": str(run.path), "fingerprint_sha256": run.document.fingerprint.sha256, **document}


def _tabulate(run: Run) -> Table:
    """What judges the run, each figure with its 95 % interval, and how it decides."""
    from rich.table import Table
    from rich.text import Text

    from train.measures.metrics import format_estimate

    document = run.document
    backbone = "UNTRAINED backbone (random weights: these scores mean nothing)" if document.untrained_backbone else ""
    judged: dict[str, Metrics | None] = {"out-of-fold": document.out_of_fold, "test": document.test}
    columns = {name: metrics for name, metrics in judged.items() if metrics is not None}
    title = Text(" · ".join(filter(None, [str(run.path), document.purpose, backbone])))
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("video level, 95 % interval by group")
    for name, metrics in columns.items():
        table.add_column(f"{name}: {metrics.n_videos} videos, {metrics.n_fake} fake, {metrics.n_groups} groups")
    for name in MEASURED:
        table.add_row(name, *(format_estimate(getattr(metrics, name)) for metrics in columns.values()))
    counts = [m.confusion for m in columns.values()]
    table.add_row("TP FN FP TN", *(f"{c.tp} {c.fn} {c.fp} {c.tn}" for c in counts))
    origin = ", ".join((document.split.protocol, *document.split.named))
    lines = [f"split {origin}; thresholds chosen on {document.calibrated_on} predictions"]
    for name, threshold in document.thresholds.items():
        decides = " (decides)" if name == document.default_preset else ""
        lines.append(f"{name}{decides}: {threshold.describe()}")
    table.caption = "\n".join(lines)
    return table
