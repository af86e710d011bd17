"""What a sweep says of itself: a leaderboard as a file and as a table, pictures, and one JSON document."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from extract.files import translate_os_errors, write_aside, write_text

if TYPE_CHECKING:
    from rich.table import Table

    from train.config import HeadShape
    from train.measures.metrics import Metrics
    from train.sweep.document import SweepIdentity
    from train.sweep.run import Sweep
    from train.sweep.study import Trial

LEADERBOARD, HISTORY, IMPORTANCE = "leaderboard.csv", "history.png", "importance.png"
CHOICES = (
    "encoder", "pooling", "conditioning", "bidirectional", "projection", "hidden", "layers", "dropout",
    "learning_rate", "weight_decay",
)  # fmt: skip
SHAPES = ("bidirectional", "projection", "hidden", "layers")  # which a linear head does not have
SHOWN = 10  # trials in the table
FOLDS_NOTE = (
    "no video of a fold was trained on for its own figure; the configuration was chosen with the trials' validation "
    "videos, which are among them"
)


def write_report(sweep: Sweep) -> None:
    """Writes the leaderboard and the pictures."""
    from train.sweep.pictures import draw_history, draw_importances

    rows = [describe_trial(rank, trial, sweep.document.identity) for rank, trial in enumerate(sweep.trials, 1)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["rank"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(sweep.path / LEADERBOARD, text.getvalue())
    name = f"{sweep.path.name}: {sweep.document.cache}"
    with write_aside(sweep.path / HISTORY) as temporary:
        draw_history(sweep.trials, name, temporary)
    picture = sweep.path / IMPORTANCE
    if sweep.importances.shares:
        with write_aside(picture) as temporary:
            draw_importances(sweep.importances.shares, name, temporary)
        return
    with translate_os_errors(picture):
        picture.unlink(missing_ok=True)


def describe_trial(rank: int, trial: Trial, identity: SweepIdentity) -> dict[str, Any]:
    """A line of the leaderboard."""
    shape, fit = identity.configure(trial.chosen)
    settings = {**shape.model_dump(), **fit.model_dump()}
    absent = SHAPES if shape.encoder == "linear" else ()
    return {
        "rank": rank,
        "trial": trial.number,
        "state": trial.state,
        "value": "" if trial.value is None else round(trial.value, 6),
        "best_epoch": trial.best_epoch or "",
        "epochs": trial.epochs,
        "seconds": "" if trial.seconds is None else round(trial.seconds, 2),
        **{name: "" if name in absent else settings[name] for name in CHOICES},
        "note": trial.note,
    }


def summarise_sweep(sweep: Sweep) -> dict[str, Any]:
    """One JSON document; the leaderboard of all trials is a file."""
    document = sweep.document.model_dump(mode="json")
    rows = [describe_trial(n, t, sweep.document.identity) for n, t in enumerate(sweep.trials[:SHOWN], 1)]
    run = None
    if sweep.run is not None:
        found = sweep.run.document
        run = {
            "path": str(sweep.run.path),
            "folds": found.split.folds,
            "seeds": list(found.seeds),
            "seconds": round(sweep.run_seconds, 3),
            "out_of_fold": None if found.out_of_fold is None else found.out_of_fold.model_dump(mode="json"),
            "test": None if found.test is None else found.test.model_dump(mode="json"),
        }
    return {
        "out": str(sweep.path), "seconds": round(sweep.seconds, 3), **document, "leaderboard": rows,
        "note": describe_value(sweep), "run": run,
    }  # fmt: skip


def tabulate_trials(sweep: Sweep) -> Table:
    """The best trials, and what their value is worth."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(str(sweep.path)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", "value", "epochs", "head", "dropout", "rate", "decay"):
        table.add_column(name, no_wrap=name != "head")
    for trial in sweep.trials[:SHOWN]:
        shape, fit = sweep.document.identity.configure(trial.chosen)
        value = "" if trial.value is None else f"{trial.value:.3f}"
        rates = (f"{number:.2g}" for number in (shape.dropout, fit.learning_rate, fit.weight_decay))
        epochs = str(trial.epochs) if trial.state == "complete" else f"{trial.epochs}, {trial.state}"
        table.add_row(str(trial.number), value, epochs, name_head(shape), *rates)
    return table


def name_head(shape: HeadShape) -> str:
    """`lstm 128 > 256 x 2, last, layernorm`: projection, hidden size and layers, pooling, conditioning."""
    sizes = "" if shape.encoder == "linear" else f" {shape.projection} > {shape.hidden} x {shape.layers}"
    both = " both ways" if shape.bidirectional else ""
    return f"{shape.encoder}{sizes}{both}, {shape.pooling}, {shape.conditioning}"


def describe_value(sweep: Sweep) -> str:
    """What is to be known of the best value."""
    split, best = sweep.document.split, sweep.document.best
    if split is None or best is None:
        return "no trial is complete"
    return (
        f"value: smoothed video AUC on {split.real['val']} real and {split.fake['val']} fake validation videos; the "
        f"best of {sum(sweep.document.counts.values())} was chosen by that very figure, which flatters it"
    )


def describe_search(sweep: Sweep) -> str:
    """How many trials there are, and which choices mattered."""
    counts = ", ".join(f"{count} {state}" for state, count in sweep.document.counts.items() if count)
    shares = ", ".join(f"{name.replace('_', ' ')} {share:.2f}" for name, share in sweep.importances.shares.items())
    return f"{counts}; {f'importance: {shares}' if shares else f'no importances: {sweep.importances.note}'}"


def tabulate_run(sweep: Sweep) -> Table:
    """The figure of the best trial beside the honest ones."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from train.measures.metrics import format_estimate

    table = Table(title="the best configuration", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("judged by")
    table.add_column("video AUC", justify="right")
    best, run = sweep.document.best, sweep.run
    if best is None or run is None:
        return table
    table.add_row(f"trial {best.trial}, on the videos that chose it", f"{best.value:.3f}")
    judged: dict[str, Metrics | None] = {
        f"{run.document.split.folds} folds by group, {len(run.document.seeds)} seeds": run.document.out_of_fold,
        "test split, seen by no trial": run.document.test,
    }
    for name, metrics in judged.items():
        if metrics is not None:
            table.add_row(f"{name}: {metrics.n_videos} videos", format_estimate(metrics.auc))
    return table
