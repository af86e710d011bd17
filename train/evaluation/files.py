"""The folder of an evaluation: figures, predictions, pictures and a report, written whole and read with checks.

report.html        everything below on one page that needs no other file
metrics.json       Evaluation
predictions.csv    one line a judged video and seed (EvaluatedRow)
*.png              scores, ROC, precision and recall, thresholds, reliability, confusion
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.documents import is_document, read_document
from extract.errors import UsageError
from extract.files import write_directory_aside
from train.calibrate import apply_sigmoid
from train.checkpoint import PREDICTIONS, PredictionRow, Run, write_prediction_rows
from train.evaluation.account import give_account
from train.evaluation.evaluate import Evaluated, Evaluation
from train.evaluation.pictures import plan_figures
from train.evaluation.report import render_report
from train.plots import render_svg, save_png

METRICS, REPORT = "metrics.json", "report.html"


@dataclass(frozen=True)
class EvaluatedRow(PredictionRow):
    """A prediction with the video's part in training: `train`, `val`, `test`, `out-of-fold`, or `new`."""

    role: str


def name_folder(run: Run, features: Path | None) -> Path:
    """Where an evaluation lies unless told: in the run; one on another cache is named by it."""
    own = features is None or features.resolve() == Path(run.document.cache.path).resolve()
    return run.path / ("evaluation" if own or features is None else f"evaluation-{features.stem}")


def require_free(out: Path, overwrite: bool) -> None:
    """Refuses to replace anything but an evaluation of ours, and that only with `overwrite`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_evaluation(out):
        raise UsageError(f"{out} exists and is no evaluation of unmask; choose another --out")
    if not overwrite:
        raise UsageError(f"{out} already holds an evaluation; give --overwrite to replace it, or choose another --out")


def is_evaluation(path: Path) -> bool:
    """Whether a folder holds an evaluation, of whichever version."""
    return is_document(path / METRICS, "unmask-evaluation")


def save_evaluation(out: Path, evaluated: Evaluated, overwrite: bool = False) -> None:
    """Writes the folder, whole or not at all."""
    require_free(out, overwrite)
    out = out.resolve()  # of "." nothing would tell the name
    document, predictions = evaluated.document, evaluated.predictions
    thresholds = {name: transfer.threshold for name, transfer in document.thresholds.items()}
    plans = plan_figures(predictions, document, thresholds, document.preset, document.source.name, document.kind)
    with write_directory_aside(out) as temporary:
        (temporary / METRICS).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_prediction_rows(temporary / PREDICTIONS, list_rows(evaluated), EvaluatedRow)
        pictures = {}
        for name, plot in plans.items():
            figure = plot()
            save_png(figure, temporary / f"{name}.png")
            pictures[name] = render_svg(figure, name)
        (temporary / REPORT).write_text(render_report(give_account(document), pictures), encoding="utf-8")


def list_rows(evaluated: Evaluated) -> list[EvaluatedRow]:
    """What each head said of each video; with one head, as a run's own predictions say it."""
    judged, flagged = evaluated.judged, evaluated.predictions.flagged
    probs = apply_sigmoid(judged.calibrated)
    outcomes = evaluated.applied.name_outcomes(probs)
    return [
        EvaluatedRow(
            id=video.id,
            sha256=video.sha256,
            label=video.label,
            split={"out-of-fold": "train", "new": ""}.get(video.role, video.role),
            fold=None if judged.fold is None else int(judged.fold[head, place]),
            seed=seed,
            group=video.group,
            pair=video.pair,
            dataset=video.dataset,
            method=video.method,
            logit=float(judged.logits[head, place]),
            calibrated=float(judged.calibrated[head, place]),
            p_fake=float(probs[head, place]),
            flagged=bool(flagged[head, place]),
            outcome=str(outcomes[head, place]),
            in_training=video.role == "train",
            role=video.role,
        )
        for head, seed in enumerate(judged.seeds)
        for place, video in enumerate(judged.videos)
    ]


def load_evaluation(path: Path) -> Evaluation:
    """Opens the metrics of an evaluation; one that is damaged or of another version is refused."""
    return read_document(path / METRICS, Evaluation, "evaluate again")
