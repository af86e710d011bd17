"""The run directory: `head.safetensors`, `run.json`, `predictions.csv` and plots, written whole and read with checks.

head.safetensors   the head's weights, float32
run.json           RunDocument: everything that was asked, found and measured
predictions.csv    one line a usable video and seed (PredictionRow)
*.png              ROC, confusion and loss
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from extract.documents import is_document, read_document
from extract.errors import FormatError, UsageError
from extract.files import hash_file, write_directory_aside
from extract.specs import AggregateSpec, Fingerprint, Spec
from train.calibrate import Calibration, Source
from train.config import FitConfig, HeadConfig, Purpose
from train.fit import Epoch
from train.heads.head import Head
from train.measures.metrics import Estimate, Metrics
from train.splits import Overlap, Protocol
from train.thresholds import Threshold

FORMAT: Literal["unmask-run/2"] = "unmask-run/2"
DOCUMENT, WEIGHTS, PREDICTIONS = "run.json", "head.safetensors", "predictions.csv"


class CacheSource(Spec):
    """Which features were used; `sha256` is that of the file, null for a cache that was never one."""

    name: str
    path: str
    sha256: str | None


class SplitCount(Spec):
    """What a split holds; `excluded` are videos that were given to it and have no features."""

    real: int
    fake: int
    groups: int
    excluded: int = 0


class SplitRecord(Spec):
    """Who was where. With folds, `train` means every video of the folds: the saved head has seen them all.

    `protocol` is the way the split came about; `named` is what the manifest calls the splits that were kept.
    """

    protocol: Protocol
    named: tuple[str, ...] = ()
    folds: int | None
    counts: dict[str, SplitCount]
    overlap: Overlap
    ungrouped: int
    assignment: dict[str, Literal["train", "val", "test"]]


class FoldRecord(Spec):
    """One fold of one seed: its own epoch, calibration and thresholds, chosen on its validation fold; and its AUC."""

    seed: int
    fold: int
    best_epoch: int
    calibration: Calibration
    thresholds: dict[str, Threshold]
    auc: float | None
    curve: tuple[Epoch, ...]


class RunDocument(Spec):
    """`run.json`.

    `calibration` and `thresholds` belong to the saved head; `calibrated_on` names the predictions they were fitted
    to. `out_of_fold` judges each fold by the calibration and threshold of its own validation fold, never by these; of
    several seeds it is the mean. `frame_auc` is at the level of frames, by "test" and "out-of-fold" (of the first
    seed).
    """

    format: Literal["unmask-run/2"] = FORMAT
    purpose: Purpose
    untrained_backbone: bool
    device: str
    versions: dict[str, str]
    cache: CacheSource
    fingerprint: Fingerprint
    excluded: dict[str, int]
    split: SplitRecord
    head: HeadConfig
    fit: FitConfig
    seeds: tuple[int, ...]
    aggregate: AggregateSpec = AggregateSpec()
    best_epoch: int
    curve: tuple[Epoch, ...]
    calibrated_on: Source
    calibration: Calibration
    thresholds: dict[str, Threshold]
    default_preset: str
    test: Metrics | None
    out_of_fold: Metrics | None
    frame_auc: dict[str, Estimate]
    mean_fold_auc: float | None
    folds: tuple[FoldRecord, ...]
    warnings: tuple[str, ...]
    weights_sha256: str = ""

    @property
    def threshold(self) -> Threshold:
        """The threshold that decides unless another is asked for."""
        return self.thresholds[self.default_preset]


@dataclass(frozen=True)
class PredictionRow:
    """One video's prediction by one seed's head.

    `logit` is uncalibrated. `flagged` says whether P(fake) reaches the default threshold; `outcome` heeds its
    UNCERTAIN band too. `in_training` says whether the weights that made this very prediction saw the video in
    training: with folds it is a held-out prediction, by the fold's head, calibration and threshold.
    """

    id: str
    sha256: str
    label: str
    split: str
    fold: int | None
    seed: int
    group: str
    pair: str
    dataset: str
    method: str
    logit: float
    calibrated: float
    p_fake: float
    flagged: bool
    outcome: str
    in_training: bool


_ROW = TypeAdapter(PredictionRow)


@dataclass(frozen=True)
class Run:
    """A run directory that was opened and understood."""

    path: Path
    document: RunDocument


def require_free(path: Path, overwrite: bool) -> None:
    """Refuses to replace anything but a run of ours, and that only with `overwrite`."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir() or not is_document(path / DOCUMENT, "unmask-run"):
        raise UsageError(f"{path} exists and is not a run of unmask; choose another --out")
    if not overwrite:
        raise UsageError(f"{path} already holds a run; give --overwrite to replace it, or choose another --out")


def save_run(
    path: Path,
    head: Head,
    document: RunDocument,
    predictions: Sequence[PredictionRow],
    plots: Mapping[str, Callable[[Path], None]],
    overwrite: bool = False,
) -> Run:
    """Writes a run directory, whole or not at all; each plot is a function that writes the file it is given."""
    require_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_directory_aside(path) as temporary:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        (temporary / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
        document = document.model_copy(update={"weights_sha256": hash_file(temporary / WEIGHTS)})
        (temporary / DOCUMENT).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_prediction_rows(temporary / PREDICTIONS, predictions, PredictionRow)
        for name, draw in plots.items():
            draw(temporary / name)
    return Run(path, document)


def load_run(path: Path) -> Run:
    """Opens a run directory; one that is missing, damaged or of another version is refused."""
    if not path.is_dir():
        raise UsageError(f"no such run: {path}; make one with `unmask train`")
    if not (path / DOCUMENT).is_file():
        raise FormatError(f"{path} is not a run: it has no {DOCUMENT}; give a directory that `unmask train` wrote")
    return Run(path, read_document(path / DOCUMENT, RunDocument, "train again"))


def read_predictions(run: Run) -> list[PredictionRow]:
    """The predictions of a run."""
    return read_prediction_rows(run.path / PREDICTIONS)


def read_prediction_rows(path: Path) -> list[PredictionRow]:
    """Reads a table of predictions, whose further columns are left out; one that is missing or damaged is refused."""
    if not path.is_file():
        raise FormatError(f"{path.parent} has no {path.name}; it is damaged, train again")
    expected = [field.name for field in fields(PredictionRow)]
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or not set(expected) <= set(reader.fieldnames):
            missing = sorted(set(expected) - set(reader.fieldnames or ()))
            raise FormatError(f"{path} has no column {missing[0]}; it was made by another version, train again")
        for number, row in enumerate(reader, start=2):
            try:
                rows.append(
                    _ROW.validate_python({name: row[name] for name in expected} | {"fold": row["fold"] or None})
                )
            except ValidationError as error:
                raise FormatError(f"{path} is damaged in line {number}: {error.errors()[0]['msg']}") from error
    return rows


def write_prediction_rows(path: Path, rows: Sequence[PredictionRow], of: type[PredictionRow]) -> None:
    """Writes a table of rows of one class."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(of)])
        writer.writerows(astuple(row) for row in rows)


def load_head(run: Run) -> Head:
    """The head of a run on the CPU, in evaluation mode; weights that are not those of its run.json are refused."""
    file = run.path / WEIGHTS
    if not file.is_file():
        raise FormatError(f"{run.path} has no {WEIGHTS}; the run is damaged, train again")
    found = hash_file(file)
    if found != run.document.weights_sha256:
        raise FormatError(
            f"{file} was changed after training: its sha256 is {found[:12]}, expected "
            f"{run.document.weights_sha256[:12]}; train again"
        )
    head = Head(run.document.head)
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise FormatError(f"{file} is damaged: {error}; train again") from error
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != expected:
        wrong = next(n for n in sorted({*shapes, *expected}) if shapes.get(n) != expected.get(n))
        raise FormatError(
            f"{file}: {wrong} has the shape {shapes.get(wrong)}, but {DOCUMENT} describes a head in which it is "
            f"{expected.get(wrong)}; train again"
        )
    head.load_state_dict(weights)
    return head.eval()
