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
from train.batches import BatchReader
from train.calibrate import Calibration, Method, Source, fit_calibration
from train.config import FitConfig, HeadShape, Purpose
from train.dataset import ClipData
from train.fit import Epoch, FitPlan, FittedHead, fit_head
from train.fit_store import FitStore
from train.measures.metrics import compute_auc
from train.predict import predict_frames, predict_videos
from train.splits import Assignment
from train.thresholds import DEFAULT_PRESET, Target, Threshold, choose_thresholds


@dataclass(frozen=True)
class TrainConfig:
    """What a run is asked for.

    `folds` asks for cross-validation by group, `seeds` for so many of it; the first of `targets` decides instead of
    the default preset; `memory` is what the process may take, in bytes.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    head: HeadShape = field(default_factory=HeadShape)
    folds: int | None = None
    seeds: int = 1
    device: Device = "auto"
    purpose: Purpose = "research"
    calibration: Method = "platt"
    targets: tuple[Target, ...] = ()
    memory: int | None = None

    @property
    def preset(self) -> str:
        """The name of the threshold that decides."""
        return self.targets[0].name if self.targets else DEFAULT_PRESET

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds, one a repetition."""
        return tuple(range(self.fit.seed, self.fit.seed + self.seeds))


@dataclass(frozen=True)
class Progress:
    """One finished epoch of one stage (`fit`, `fold 2/5`, `refit`), for whoever watches."""

    stage: str
    epoch: Epoch


Watcher = Callable[[Progress], None]


@dataclass(frozen=True)
class Decider:
    """A calibration and the thresholds chosen on its probabilities."""

    calibration: Calibration
    thresholds: dict[str, Threshold]

    @classmethod
    def fit(
        cls, data: ClipData, logits: NDArray[np.float64], videos: NDArray[np.int64], source: Source, config: TrainConfig
    ) -> Decider:
        """Fits both to the logits (V,), or (S, V) of several seeds, of some videos."""
        labels, groups = data.labels[videos], data.groups[videos]
        calibration = fit_calibration(logits, labels, source, config.calibration)
        probs = calibration.apply(logits)
        return cls(calibration, choose_thresholds(probs, labels, groups, source, config.targets, config.fit.seed))


class VideoScores:
    """Predictions for the V videos of a dataset by S seeds, filled in part by part; NaN until then."""

    def __init__(self, data: ClipData, config: TrainConfig) -> None:
        shape = config.seeds, len(data.records)
        self.data = data
        self.preset = config.preset
        self.logits = np.full(shape, np.nan)  # (S, V) uncalibrated
        self.calibrated = np.full(shape, np.nan)  # (S, V) logits after calibration
        self.threshold = np.full(shape, np.nan)  # (S, V) P(fake) from which a video is flagged
        self.band = np.full((*shape, 2), np.nan)  # (S, V, 2) where it is uncertain

    def fill(self, seed: int, videos: NDArray[np.int64], logits: NDArray[np.float64], decider: Decider) -> None:
        """Takes the uncalibrated logits of some videos by one seed's head, and how they are decided."""
        threshold = decider.thresholds[self.preset]
        self.logits[seed, videos] = logits
        self.calibrated[seed, videos] = decider.calibration.scale(logits)
        self.threshold[seed, videos] = threshold.value
        self.band[seed, videos] = threshold.low, threshold.high


@dataclass(frozen=True)
class FrameScores:
    """Calibrated logits of the frames of held-out videos."""

    logits: NDArray[np.float64]  # (F,)
    videos: NDArray[np.int64]  # (F,)


@dataclass(frozen=True)
class JudgedFold:
    """One fold: how the head that never saw it was fitted and, by its validation fold, decided, and its AUC here.

    The head itself is not kept: those of five folds and three seeds are a third of a gigabyte.
    """

    seed: int
    best_epoch: int
    curve: tuple[Epoch, ...]
    decider: Decider
    auc: float | None


@dataclass(frozen=True)
class Trained:
    """A head to keep, how it decides, and the predictions that judge it; frames are those of the first seed."""

    fitted: FittedHead
    decider: Decider
    scores: VideoScores
    frames: dict[str, FrameScores]  # by "test" and "out-of-fold"
    folds: tuple[JudgedFold, ...] = ()


@dataclass(frozen=True)
class Job:
    """What both ways are given."""

    data: ClipData
    assignment: Assignment
    config: TrainConfig
    device: torch.device
    store: FitStore
    watch: Watcher

    def fit(
        self,
        stage: str,
        train: NDArray[np.int64],
        val: NDArray[np.int64] | None,
        seed: int,
        stop_after: int | None = None,
    ) -> FittedHead:
        """One stage, continued where an earlier run was killed."""
        plan = FitPlan(
            self.config.fit.model_copy(update={"seed": seed}),
            self.config.head,
            self.device,
            stop_after,
            self.store.stage(stage.replace(" ", "-").replace("/", "-of-")),
            lambda epoch: self.watch(Progress(stage, epoch)),
        )
        return fit_head(self.data, train, val, plan)

    def predict(self, head: FittedHead, videos: NDArray[np.int64]) -> NDArray[np.float64]:
        """Uncalibrated logits (V,) of some videos."""
        return predict_videos(head.head, self.data, BatchReader(self.data, self.device), videos)

    def predict_frames(self, head: FittedHead, videos: NDArray[np.int64], decider: Decider) -> FrameScores:
        """Calibrated logits of the frames of some videos."""
        logits, owners = predict_frames(head.head, self.data, BatchReader(self.data, self.device), videos)
        return FrameScores(decider.calibration.scale(logits), owners)


def train_once(job: Job) -> Trained:
    """Fits on train; validation picks the epoch, the calibration and the thresholds."""
    train, val, test = (job.assignment.select(name) for name in ("train", "val", "test"))
    fitted = job.fit("fit", train, val, job.config.fit.seed)
    everyone = np.arange(len(job.data.records))
    logits = job.predict(fitted, everyone)
    decider = Decider.fit(job.data, logits[val], val, "validation", job.config)
    scores = VideoScores(job.data, job.config)
    scores.fill(0, everyone, logits, decider)
    frames = {"test": job.predict_frames(fitted, test, decider)} if test.size else {}
    return Trained(fitted, decider, scores, frames)


def cross_validate(job: Job) -> Trained:
    """Judges each fold by a head, calibration and thresholds that never saw it, then fits one head to all folds.

    That head runs for the folds' median best epoch and is calibrated on the pooled out-of-fold logits (the scheme of
    scikit-learn's CalibratedClassifierCV with ensemble=False). The out-of-fold decisions stay those of the folds'
    own thresholds: a threshold chosen on the pool and judged by it would flatter itself. Every seed fits all folds.
    """
    fold = job.assignment.fold
    if fold is None:
        raise UsageError("cross-validation needs an assignment with folds")
    scores = VideoScores(job.data, job.config)
    folds, frames = [], []
    for place in range(job.config.seeds):
        for index in range(int(fold.max()) + 1):
            judged, seen = _judge_fold(job, fold, index, place, scores)
            folds.append(judged)
            frames += seen
    pool, test = job.assignment.select("train"), job.assignment.select("test")
    decider = Decider.fit(job.data, scores.logits[:, pool], pool, "out-of-fold", job.config)
    epochs = max(1, round(statistics.median(fold.best_epoch for fold in folds)))
    fitted = job.fit("refit", pool, None, job.config.fit.seed, epochs)
    held = {"out-of-fold": FrameScores(*(np.concatenate(parts) for parts in zip(*frames, strict=True)))}
    if test.size:
        scores.fill(0, test, job.predict(fitted, test), decider)
        held["test"] = job.predict_frames(fitted, test, decider)
    return Trained(fitted, decider, scores, held, tuple(folds))


def _judge_fold(
    job: Job, fold: NDArray[np.int64], index: int, place: int, scores: VideoScores
) -> tuple[JudgedFold, list[tuple[NDArray[np.float64], NDArray[np.int64]]]]:
    """Fits without one fold and judges it; the frames of the first seed come with it."""
    count = int(fold.max()) + 1
    following = (index + 1) % count
    held, val = np.flatnonzero(fold == index), np.flatnonzero(fold == following)
    train = np.flatnonzero((fold >= 0) & (fold != index) & (fold != following))
    seed = job.config.seed_numbers[place]
    stage = f"fold {index + 1}/{count}" if job.config.seeds == 1 else f"seed {seed}, fold {index + 1}/{count}"
    fitted = job.fit(stage, train, val, seed)
    decider = Decider.fit(job.data, job.predict(fitted, val), val, "validation", job.config)
    logits = job.predict(fitted, held)
    scores.fill(place, held, logits, decider)
    auc = compute_auc(job.data.labels[held], logits)
    judged = JudgedFold(seed, fitted.best_epoch, fitted.curve, decider, auc)
    if place:
        return judged, []
    frames = job.predict_frames(fitted, held, decider)
    return judged, [(frames.logits, frames.videos)]
