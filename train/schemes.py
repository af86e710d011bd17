"""The two ways to a calibrated head: one split into train, validation and test, or folds that judge one another."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from extract.errors import UsageError
from extract.session import Device
from train.calibrate import Calibration, Source, Threshold, choose_threshold, fit_temperature
from train.config import FitConfig, Purpose
from train.dataset import BatchReader, ClipData
from train.fit import Epoch, FittedHead, fit_head
from train.metrics import Predictions, compute_auc
from train.predict import predict_videos
from train.splits import Assignment


@dataclass(frozen=True)
class TrainConfig:
    """What a run is asked for; `folds` asks for cross-validation by group."""

    fit: FitConfig = field(default_factory=FitConfig)
    folds: int | None = None
    device: Device = "auto"
    purpose: Purpose = "research"


@dataclass(frozen=True)
class Progress:
    """One finished epoch of one stage (`fit`, `fold 2/5`, `refit`), for whoever watches."""

    stage: str
    epoch: Epoch


Watcher = Callable[[Progress], None]


@dataclass(frozen=True)
class Decider:
    """A calibration and the threshold chosen on its probabilities."""

    calibration: Calibration
    threshold: Threshold

    @classmethod
    def fit(cls, logits: NDArray[np.float64], labels: NDArray[np.int64], source: Source) -> Decider:
        """Fits both to the same video logits (V,)."""
        calibration = fit_temperature(logits, labels, source)
        return cls(calibration, choose_threshold(calibration.apply(logits), labels, source))


class VideoScores:
    """Predictions for the V videos of a dataset, filled in part by part; NaN until then."""

    def __init__(self, data: ClipData) -> None:
        count = len(data.records)
        self.data = data
        self.logits = np.full(count, np.nan)  # (V,) uncalibrated
        self.calibrated = np.full(count, np.nan)  # (V,) logits after calibration
        self.probs = np.full(count, np.nan)  # (V,)
        self.flagged = np.zeros(count, dtype=np.bool_)  # (V,)

    def fill(self, videos: NDArray[np.int64], logits: NDArray[np.float64], decider: Decider) -> None:
        """Takes the uncalibrated logits of some videos and the decisions that follow from them."""
        self.logits[videos] = logits
        self.calibrated[videos] = decider.calibration.scale(logits)
        self.probs[videos] = decider.calibration.apply(logits)
        self.flagged[videos] = self.probs[videos] >= decider.threshold.value

    def select(self, videos: NDArray[np.int64]) -> Predictions:
        """The predictions of some videos, to be measured."""
        data = self.data
        return Predictions(data.labels[videos], self.calibrated[videos], self.flagged[videos], data.groups[videos])


@dataclass(frozen=True)
class JudgedFold:
    """One fold: the head that never saw it, decided by that head's validation fold, and its AUC on this one."""

    fitted: FittedHead
    decider: Decider
    auc: float | None


@dataclass(frozen=True)
class Trained:
    """A head to keep, how it decides, and the predictions that judge it."""

    fitted: FittedHead
    decider: Decider
    scores: VideoScores
    folds: tuple[JudgedFold, ...] = ()


def train_once(
    data: ClipData, assignment: Assignment, config: TrainConfig, device: torch.device, watch: Watcher
) -> Trained:
    """Fits on train; validation picks the epoch, the calibration and the threshold."""
    train, val = assignment.select("train"), assignment.select("val")
    fitted = fit_head(data, train, val, config.fit, device, lambda epoch: watch(Progress("fit", epoch)))
    everyone = np.arange(len(data.records))
    logits = predict_videos(fitted.head, data, BatchReader(data, device), everyone)
    decider = Decider.fit(logits[val], data.labels[val], "validation")
    scores = VideoScores(data)
    scores.fill(everyone, logits, decider)
    return Trained(fitted, decider, scores)


def cross_validate(
    data: ClipData, assignment: Assignment, config: TrainConfig, device: torch.device, watch: Watcher
) -> Trained:
    """Judges each fold by a head, calibration and threshold that never saw it, then fits one head to all folds.

    That head runs for the folds' median best epoch and is calibrated on the pooled out-of-fold logits (the scheme of
    scikit-learn's CalibratedClassifierCV with ensemble=False). The out-of-fold decisions stay those of the folds'
    own thresholds: a threshold chosen on the pool and judged by it would flatter itself.
    """
    if assignment.fold is None:
        raise UsageError("cross-validation needs an assignment with folds")
    scores = VideoScores(data)
    count = int(assignment.fold.max()) + 1
    folds = []
    for index in range(count):
        held = assignment.fold == index
        val = assignment.fold == (index + 1) % count
        train = (assignment.fold >= 0) & ~held & ~val
        stage = f"fold {index + 1}/{count}"
        fitted = fit_head(
            data, np.flatnonzero(train), np.flatnonzero(val), config.fit, device, _name_stage(watch, stage)
        )
        folds.append(_judge_fold(fitted, np.flatnonzero(held), np.flatnonzero(val), scores, device))
    pool = assignment.select("train")
    decider = Decider.fit(scores.logits[pool], data.labels[pool], "out-of-fold")
    epochs = max(1, round(statistics.median(fold.fitted.best_epoch for fold in folds)))
    fit = config.fit.model_copy(update={"epochs": epochs})
    fitted = fit_head(data, pool, None, fit, device, _name_stage(watch, "refit"))
    test = assignment.select("test")
    if test.size:
        scores.fill(test, predict_videos(fitted.head, data, BatchReader(data, device), test), decider)
    return Trained(fitted, decider, scores, tuple(folds))


def _judge_fold(
    fitted: FittedHead, held: NDArray[np.int64], val: NDArray[np.int64], scores: VideoScores, device: torch.device
) -> JudgedFold:
    data = scores.data
    reader = BatchReader(data, device)
    decider = Decider.fit(predict_videos(fitted.head, data, reader, val), data.labels[val], "validation")
    scores.fill(held, predict_videos(fitted.head, data, reader, held), decider)
    return JudgedFold(fitted, decider, compute_auc(data.labels[held], scores.logits[held]))


def _name_stage(watch: Watcher, stage: str) -> Callable[[Epoch], None]:
    return lambda epoch: watch(Progress(stage, epoch))
