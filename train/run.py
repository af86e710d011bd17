"""One training run from a feature cache to a run directory: split, fit, calibrate, judge, write."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from extract.audit.report import count_noun
from extract.cache import FeatureCache
from extract.errors import UsageError
from extract.files import hash_file
from extract.manifest import SPLITS
from extract.specs import canonical_json
from extract.versions import read_versions
from train.calibrate import apply_sigmoid
from train.checkpoint import (
    CacheSource,
    FoldRecord,
    PredictionRow,
    Run,
    RunDocument,
    SplitCount,
    SplitRecord,
    require_free,
    save_run,
)
from train.dataset import ClipData, open_clip_data, select_usable
from train.fit import choose_device
from train.fit_store import FitStore
from train.measures.clusters import choose_clusters
from train.measures.metrics import Estimate, Metrics, Predictions, measure, measure_frames
from train.plots import draw_confusion, draw_loss, draw_roc
from train.schemes import FrameScores, Job, JudgedFold, TrainConfig, Trained, Watcher, cross_validate, train_once
from train.splits import Assignment, assign_folds, assign_splits, find_overlap
from train.thresholds import decide_each

MOST_FPR = 0.5  # of a threshold, beyond which its price is worth a warning
PACKAGES = ("unmask", "torch", "numpy", "scikit-learn", "scipy", "safetensors")


def train_run(
    cache_path: Path,
    out: Path,
    config: TrainConfig | None = None,
    overwrite: bool = False,
    watch: Watcher = lambda _: None,
) -> Run:
    """Trains a head on a feature cache and writes the run directory `out`; the same call continues a killed one."""
    require_free(out, overwrite)  # before the work, not after it
    config = config or TrainConfig()
    with open_clip_data(cache_path, config.memory) as data:
        return train_on_data(data, out, config, overwrite, watch)


def train_on_cache(
    cache: FeatureCache,
    out: Path,
    config: TrainConfig | None = None,
    overwrite: bool = False,
    watch: Watcher = lambda _: None,
) -> Run:
    """The same for a cache that is in memory."""
    require_free(out, overwrite)
    return train_on_data(select_usable(cache), out, config or TrainConfig(), overwrite, watch)


def train_on_data(data: ClipData, out: Path, config: TrainConfig, overwrite: bool, watch: Watcher) -> Run:
    """The same for a dataset."""
    out = out.absolute()
    if config.seeds > 1 and config.folds is None:
        raise UsageError(f"--seeds {config.seeds} repeats a cross-validation; say its --folds too, for example 5")
    device = choose_device(config.device)
    source = _identify_cache(data)
    given = [record.split for record in data.records]
    seed = config.fit.seed
    if config.folds is None:
        assignment = assign_splits(given, data.labels, data.groups, seed)
    else:
        assignment = assign_folds(given, data.labels, data.groups, config.folds, seed)
    versions = read_versions(PACKAGES)
    store = FitStore(out, _hash_request(source, data, config, device, versions))
    try:
        job = Job(data, assignment, config, device, store, watch)
        trained = train_once(job) if config.folds is None else cross_validate(job)
        document = _describe_run(job, trained, source, versions)
        predictions = _list_predictions(job, trained)
        run = save_run(out, trained.fitted.head, document, predictions, _plan_plots(job, document, trained), overwrite)
        store.remove()
        return run
    finally:
        store.close()


def _identify_cache(data: ClipData) -> CacheSource:
    path = data.path
    return CacheSource(name=path.name, path=str(path.absolute()), sha256=hash_file(path) if path.is_file() else None)


def _hash_request(
    source: CacheSource, data: ClipData, config: TrainConfig, device: torch.device, versions: dict[str, str]
) -> str:
    """What a state of a killed run must have been asked for to be continued."""
    asked = [config.fit, config.head, data.fingerprint]
    document = {
        "asked": [canonical_json(part) for part in asked],
        "folds": [config.folds, config.seeds],
        "rows_at_once": data.rows.most_bytes,
        "threads": torch.get_num_threads(),
        "cache": source.sha256 or [record.id for record in data.records],
        "device": _name_device(device),
        "versions": versions,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _describe_run(job: Job, trained: Trained, source: CacheSource, versions: dict[str, str]) -> RunDocument:
    data, config, assignment = job.data, job.config, job.assignment
    split = _describe_split(data, assignment, config.folds)
    aucs = [fold.auc for fold in trained.folds if fold.auc is not None]
    return RunDocument(
        purpose=config.purpose,
        untrained_backbone=not data.fingerprint.backbone.trained,
        device=_name_device(job.device),
        versions=versions,
        cache=source,
        fingerprint=data.fingerprint,
        excluded=data.excluded,
        split=split,
        head=trained.fitted.head.config,
        fit=config.fit,
        seeds=config.seed_numbers,
        best_epoch=trained.fitted.best_epoch,
        curve=trained.fitted.curve,
        calibrated_on=trained.decider.calibration.source,
        calibration=trained.decider.calibration,
        thresholds=trained.decider.thresholds,
        default_preset=config.preset,
        test=_measure_split("test", job, trained),
        out_of_fold=_measure_split("train", job, trained) if trained.folds else None,
        frame_auc={name: _measure_frames(data, of, config.fit.seed) for name, of in trained.frames.items()},
        mean_fold_auc=statistics.fmean(aucs) if aucs else None,
        folds=tuple(_describe_fold(index, fold, config) for index, fold in enumerate(trained.folds)),
        warnings=_collect_warnings(split, trained),
    )


def _measure_frames(data: ClipData, frames: FrameScores, seed: int) -> Estimate:
    videos, shown = np.unique(frames.videos, return_inverse=True)
    clusters = choose_clusters([data.records[video] for video in videos])
    return measure_frames(data.labels[frames.videos], frames.logits, clusters.names[shown], seed=seed)


def _describe_fold(index: int, fold: JudgedFold, config: TrainConfig) -> FoldRecord:
    return FoldRecord(
        seed=fold.seed,
        fold=index % (config.folds or 1),
        best_epoch=fold.best_epoch,
        calibration=fold.decider.calibration,
        thresholds=fold.decider.thresholds,
        auc=fold.auc,
        curve=fold.curve,
    )


def _describe_split(data: ClipData, assignment: Assignment, folds: int | None) -> SplitRecord:
    lost = Counter(record.split for record in data.lost)
    counts: dict[str, SplitCount] = {}
    for name in SPLITS:
        videos = assignment.select(name)
        fakes = int(data.labels[videos].sum())
        groups = len(np.unique(data.groups[videos]))
        counts[name] = SplitCount(real=len(videos) - fakes, fake=fakes, groups=groups, excluded=lost[name])
    names = assignment.split.tolist()
    return SplitRecord(
        protocol=assignment.protocol,
        named=_name_protocols(data, assignment),
        folds=folds,
        counts=counts,
        overlap=find_overlap(assignment, data.records),
        ungrouped=data.ungrouped,
        assignment={record.id: name for record, name in zip(data.records, names, strict=True)},
    )


def _name_protocols(data: ClipData, assignment: Assignment) -> tuple[str, ...]:
    """What the manifest calls the splits that were kept; folds keep the test split alone."""
    kept = range(len(data.records)) if assignment.fold is None else assignment.select("test").tolist()
    return tuple(sorted({data.records[video].protocol for video in kept} - {""}))


def _select_predictions(split: str, job: Job, trained: Trained) -> Predictions | None:
    """The held-out predictions of a split to be measured; None for an empty one."""
    videos, scores = job.assignment.select(split), trained.scores
    if not videos.size:
        return None
    made = ~np.isnan(scores.logits[:, videos]).any(axis=1)  # the test split is predicted by one seed alone
    logits = scores.calibrated[made][:, videos]
    flagged = apply_sigmoid(logits) >= scores.threshold[made][:, videos]
    clusters = choose_clusters([job.data.records[video] for video in videos])
    return Predictions(job.data.labels[videos], logits, flagged, clusters.names, clusters.kind)


def _measure_split(split: str, job: Job, trained: Trained) -> Metrics | None:
    predictions = _select_predictions(split, job, trained)
    return None if predictions is None else measure(predictions, seed=job.config.fit.seed)


def _collect_warnings(split: SplitRecord, trained: Trained) -> tuple[str, ...]:
    """What a reader of the figures has to know, a sentence each."""
    found = []
    if split.overlap.groups or split.overlap.persons or split.overlap.sources:
        found.append(_describe_overlap(split))
    test = split.counts["test"]
    if test.excluded:
        found.append(
            f"{test.excluded} of {test.real + test.fake + test.excluded} videos of the test split have no features and "
            "enter no figure; run `unmask cache info` to see why"
        )
    if split.ungrouped:
        found.append(
            f"{split.ungrouped} videos name no group and count as groups of their own; that one person stands in two "
            "splits cannot be excluded"
        )
    if not trained.folds and not any((split.counts["test"].real, split.counts["test"].fake)):
        found.append("there is no test split, so this run has no test figures; mark test videos or use --folds")
    decides = trained.decider.thresholds[trained.scores.preset]
    if decides.guaranteed and decides.fpr > MOST_FPR:
        found.append(
            f"the threshold that decides keeps its promise ({decides.target.name}) at a high price: it flags "
            f"{decides.fpr:.0%} of real videos; more persons make it cheaper, another --target or preset asks for less"
        )
    return tuple(found)


def _describe_overlap(split: SplitRecord) -> str:
    overlap, test = split.overlap, split.counts["test"]
    kinds = {"group": overlap.groups, "person": overlap.persons, "source clip": overlap.sources}
    # Where every group is a person, they are counted once.
    if overlap.persons == overlap.groups:
        del kinds["person"]
    divided = ", ".join(count_noun(len(names), kind) for kind, names in kinds.items() if names)
    origin = f"the split {' + '.join(split.named)}" if split.named else f"the split ({split.protocol})"
    judged = {
        "test videos": (overlap.test_videos, test),
        "videos in folds": (overlap.fold_videos, split.counts["train"]),
    }
    if split.folds is None:
        del judged["videos in folds"]
    seen = " and ".join(
        f"{number} of {count.real + count.fake} {name}"
        for name, (number, count) in judged.items()
        if count.real + count.fake
    )
    if not seen:
        return f"{origin} divides {divided} between training and validation"
    return f"{origin} divides {divided}: {seen} show a person or come from a clip that training or validation has seen"


def _list_predictions(job: Job, trained: Trained) -> list[PredictionRow]:
    """A row a video and seed; with folds, a test video is predicted by the saved head alone."""
    return [
        _make_row(job, trained, seed, video)
        for seed in range(job.config.seeds)
        for video in range(len(job.data.records))
        if not np.isnan(trained.scores.logits[seed, video])
    ]


def _make_row(job: Job, trained: Trained, seed: int, video: int) -> PredictionRow:
    record, assignment, scores = job.data.records[video], job.assignment, trained.scores
    split = str(assignment.split[video])
    calibrated = float(scores.calibrated[seed, video])
    prob, value = apply_sigmoid(np.array(calibrated)), float(scores.threshold[seed, video])
    low, high = scores.band[seed, video].tolist()
    return PredictionRow(
        id=record.id,
        sha256=record.sha256,
        label=record.label,
        split=split,
        fold=None if assignment.fold is None or assignment.fold[video] < 0 else int(assignment.fold[video]),
        seed=job.config.seed_numbers[seed],
        group=record.group,
        pair=record.pair,
        dataset=record.dataset,
        method=record.method,
        logit=float(scores.logits[seed, video]),
        calibrated=calibrated,
        p_fake=float(prob),
        flagged=bool(prob >= value),
        outcome=str(decide_each(prob, value, low, high)),
        in_training=assignment.fold is None and split == "train",
    )


def _plan_plots(job: Job, document: RunDocument, trained: Trained) -> dict[str, Callable[[Path], None]]:
    """ROC and confusion of whatever judges the run, best evidence first: test, out-of-fold; and the loss."""
    backbone = ", untrained backbone" if document.untrained_backbone else ""
    name, fitted = document.cache.name, document.split.counts["train"]
    count = f"{fitted.real + fitted.fake} training videos"
    plots: dict[str, Callable[[Path], None]] = {
        "loss.png": partial(draw_loss, document.curve, document.best_epoch, f"{name}{backbone}", count)
    }
    judged = (
        ("test", document.test, "", "test split", "threshold"),
        ("train", document.out_of_fold, "oof_", "out-of-fold", "folds' own thresholds"),
    )
    for split, metrics, prefix, words, point in judged:
        predictions = _select_predictions(split, job, trained) if metrics is not None else None
        if metrics is None or predictions is None:
            continue
        title = f"{name}, {words}{backbone}"
        plots[f"{prefix}roc.png"] = partial(draw_roc, predictions, metrics, title, point)
        plots[f"{prefix}confusion.png"] = partial(draw_confusion, metrics, title)
    return plots


def _name_device(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"
