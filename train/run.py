"""One training run from a feature cache to a run directory: split, fit, calibrate, judge, write."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from extract.audit.report import count_noun
from extract.cache import OK, FeatureCache, read_cache
from extract.files import hash_file
from extract.manifest import SPLITS
from extract.versions import read_versions
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
from train.dataset import ClipData, select_usable
from train.fit import choose_device
from train.metrics import Metrics, measure
from train.plots import draw_confusion, draw_loss, draw_roc
from train.schemes import TrainConfig, Trained, Watcher, cross_validate, train_once
from train.splits import Assignment, assign_folds, assign_splits, find_overlap

PACKAGES = ("unmask", "torch", "numpy", "scikit-learn", "scipy", "safetensors")


def train_run(
    cache_path: Path,
    out: Path,
    config: TrainConfig | None = None,
    overwrite: bool = False,
    watch: Watcher = lambda _: None,
) -> Run:
    """Trains a head on a feature cache and writes the run directory `out`."""
    require_free(out, overwrite)  # before the work, not after it
    return train_on_cache(read_cache(cache_path), out, config, overwrite, watch)


def train_on_cache(
    cache: FeatureCache,
    out: Path,
    config: TrainConfig | None = None,
    overwrite: bool = False,
    watch: Watcher = lambda _: None,
) -> Run:
    """The same for a cache that is in memory."""
    require_free(out, overwrite)
    config = config or TrainConfig()
    device = choose_device(config.device)
    data = select_usable(cache)
    given = [record.split for record in data.records]
    if config.folds is None:
        assignment = assign_splits(given, data.labels, data.groups, config.fit.seed)
        trained = train_once(data, assignment, config, device, watch)
    else:
        assignment = assign_folds(given, data.labels, data.groups, config.folds, config.fit.seed)
        trained = cross_validate(data, assignment, config, device, watch)
    document = _describe_run(cache, data, assignment, config, trained, device)
    predictions = _list_predictions(data, assignment, trained)
    plots = _plan_plots(assignment, document, trained)
    return save_run(out, trained.fitted.head, document, predictions, plots, overwrite)


def _describe_run(
    cache: FeatureCache,
    data: ClipData,
    assignment: Assignment,
    config: TrainConfig,
    trained: Trained,
    device: torch.device,
) -> RunDocument:
    split = _describe_split(cache, data, assignment, config.folds)
    aucs = [fold.auc for fold in trained.folds if fold.auc is not None]
    return RunDocument(
        purpose=config.purpose,
        untrained_backbone=not data.fingerprint.backbone.trained,
        device=_name_device(device),
        versions=read_versions(PACKAGES),
        cache=CacheSource(
            name=cache.path.name,
            path=str(cache.path),
            sha256=hash_file(cache.path) if cache.path.is_file() else None,
        ),
        fingerprint=data.fingerprint,
        excluded=data.excluded,
        split=split,
        head=trained.fitted.head.config,
        fit=config.fit,
        best_epoch=trained.fitted.best_epoch,
        curve=trained.fitted.curve,
        calibrated_on=trained.decider.calibration.source,
        calibration=trained.decider.calibration,
        threshold=trained.decider.threshold,
        test=_measure_split(assignment, "test", config, trained),
        out_of_fold=_measure_split(assignment, "train", config, trained) if trained.folds else None,
        mean_fold_auc=statistics.fmean(aucs) if aucs else None,
        folds=tuple(
            FoldRecord(
                fold=index,
                best_epoch=fold.fitted.best_epoch,
                calibration=fold.decider.calibration,
                threshold=fold.decider.threshold,
                auc=fold.auc,
                curve=fold.fitted.curve,
            )
            for index, fold in enumerate(trained.folds)
        ),
        warnings=_collect_warnings(split, trained),
    )


def _describe_split(cache: FeatureCache, data: ClipData, assignment: Assignment, folds: int | None) -> SplitRecord:
    lost = Counter(record.split for record in cache.videos if record.status != OK)
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


def _measure_split(assignment: Assignment, split: str, config: TrainConfig, trained: Trained) -> Metrics | None:
    videos = assignment.select(split)
    return measure(trained.scores.select(videos), seed=config.fit.seed) if videos.size else None


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


def _list_predictions(data: ClipData, assignment: Assignment, trained: Trained) -> list[PredictionRow]:
    scores = trained.scores
    return [
        PredictionRow(
            id=record.id,
            label=record.label,
            split=str(assignment.split[video]),
            fold=None if assignment.fold is None or assignment.fold[video] < 0 else int(assignment.fold[video]),
            group=record.group,
            dataset=record.dataset,
            method=record.method,
            logit=float(scores.logits[video]),
            p_fake=float(scores.probs[video]),
            outcome="FAKE" if scores.flagged[video] else "REAL",
            in_training=assignment.fold is None and assignment.split[video] == "train",
        )
        for video, record in enumerate(data.records)
    ]


def _plan_plots(assignment: Assignment, document: RunDocument, trained: Trained) -> dict[str, Callable[[Path], None]]:
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
        if metrics is None:
            continue
        predictions, title = trained.scores.select(assignment.select(split)), f"{name}, {words}{backbone}"
        plots[f"{prefix}roc.png"] = partial(draw_roc, predictions, metrics, title, point)
        plots[f"{prefix}confusion.png"] = partial(draw_confusion, metrics, title)
    return plots


def _name_device(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"
