"""What a head is worth on given videos: the figures, what each threshold kept of its promise, and what limits both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extract.session import Device
from extract.specs import Spec
from extract.versions import read_versions
from train.calibrate import apply_sigmoid
from train.checkpoint import CacheSource, Run, read_predictions
from train.config import Purpose
from train.evaluation.judged import (
    SEEN,
    UNNAMED,
    Judged,
    Kind,
    Unscorable,
    count_known_persons,
    gather_judged,
    list_persons,
)
from train.evaluation.transfer import (
    UNCERTAIN,
    AppliedThreshold,
    Transfer,
    apply_thresholds,
    collect_thresholds,
    judge_promise,
    require_preset,
)
from train.measures.clusters import Clusters, choose_clusters
from train.measures.metrics import PREVALENCES, Estimate, Metrics, Predictions, measure, measure_frames
from train.thresholds import Target, Threshold

FORMAT: Literal["unmask-evaluation/1"] = "unmask-evaluation/1"
PACKAGES = ("unmask", "torch", "numpy", "scipy")


@dataclass(frozen=True)
class EvaluationRequest:
    """How to judge: `preset` names the threshold that decides, `prevalence` one more share of fakes for PPV and NPV."""

    targets: tuple[Target, ...] = ()
    preset: str | None = None
    prevalence: float | None = None
    include_train: bool = False
    device: Device = "auto"
    resamples: int = 1000
    seed: int = 0


class RunSource(Spec):
    """The run that is judged."""

    name: str
    path: str
    weights_sha256: str
    fingerprint_sha256: str
    head_seeds: tuple[int, ...]


class MethodFigures(Spec):
    """The fakes of one method against real videos: those of the same dataset, or all where it has none."""

    n_fake: int
    n_real: int
    recall: Estimate
    auc: Estimate


class Evaluation(Metrics):
    """`metrics.json`: the metrics of all judged videos at the threshold `preset`, and what has to be known beside them.

    `left_out` are videos that the head was made with, by split; `known_persons` are judged videos of a person whom it
    has seen in another one, and of `nameless` ones that cannot be told. `worst_case_recall` counts every unscorable
    fake as missed. Frame AUC is another number than video AUC, and is never mixed with it.
    """

    format: Literal["unmask-evaluation/1"] = FORMAT
    run: RunSource
    purpose: Purpose
    untrained_backbone: bool
    kind: Kind
    source: CacheSource
    preset: str
    roles: dict[str, int]
    left_out: dict[str, int]
    known_persons: int
    nameless: int = 0
    unscorable: Unscorable
    worst_case_recall: float | None
    frame_auc: Estimate | None
    cluster_note: str
    by_role: dict[str, Metrics]
    by_dataset: dict[str, Metrics]
    by_method: dict[str, MethodFigures]
    thresholds: dict[str, Transfer]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with the predictions behind it, from which rows and pictures are made."""

    document: Evaluation
    judged: Judged
    predictions: Predictions
    applied: AppliedThreshold


def evaluate_run(run: Run, features: Path | None = None, request: EvaluationRequest | None = None) -> Evaluated:
    """Judges a run on its own held-out data or, where another cache is given, on all of that."""
    request = request or EvaluationRequest()
    rows = read_predictions(run)
    thresholds = collect_thresholds(run, rows, request.targets)
    preset = require_preset(request.preset, thresholds, run.document.default_preset)
    judged = gather_judged(run, rows, features, request.include_train, request.device)
    applied = apply_thresholds(run, judged, thresholds)
    bench = Bench(judged, choose_clusters(judged.videos), request)
    predictions = bench.predict(applied[preset])
    metrics = bench.measure(predictions)
    document = Evaluation(
        **dict(metrics),
        **_describe_source(run, judged),
        preset=preset,
        known_persons=count_known_persons(judged, rows),
        nameless=sum(not list_persons(video) for video in judged.videos),
        worst_case_recall=_assume_the_worst(metrics, judged.unscorable),
        frame_auc=bench.measure_frames() or _recall_frame_auc(run, judged),
        cluster_note=bench.clusters.note,
        by_role=bench.measure_each(predictions, [video.role for video in judged.videos]),
        by_dataset=bench.measure_each(predictions, [video.dataset or UNNAMED for video in judged.videos]),
        by_method=bench.measure_methods(predictions),
        thresholds={name: bench.judge_threshold(threshold, applied[name]) for name, threshold in thresholds.items()},
    )
    return Evaluated(document, judged, predictions, applied[preset])


class Bench:
    """Judged videos with their clusters, ready to be measured in whole and in part."""

    def __init__(self, judged: Judged, clusters: Clusters, request: EvaluationRequest) -> None:
        self.judged = judged
        self.clusters = clusters
        self._request = request
        extra = () if request.prevalence is None else (request.prevalence,)
        self._prevalences = tuple(dict.fromkeys((*PREVALENCES, *extra)))

    def predict(self, applied: AppliedThreshold) -> Predictions:
        """What all heads say of all videos under a threshold."""
        judged = self.judged
        flagged = applied.flag(apply_sigmoid(judged.calibrated))
        return Predictions(judged.labels, judged.calibrated, flagged, self.clusters.names, self.clusters.kind)

    def measure(self, predictions: Predictions) -> Metrics:
        """All metrics."""
        return measure(predictions, self._request.resamples, self._request.seed, self._prevalences)

    def measure_each(self, predictions: Predictions, names: Sequence[str]) -> dict[str, Metrics]:
        """All metrics of the videos of each name."""
        of_video = np.array(names)
        return {name: self.measure(_select(predictions, of_video == name)) for name in sorted(set(names))}

    def measure_methods(self, predictions: Predictions) -> dict[str, MethodFigures]:
        """The fakes of each method, against the real videos of the datasets that they are in."""
        fake = predictions.labels == 1
        methods = np.array([video.method or UNNAMED for video in self.judged.videos])
        datasets = np.array([video.dataset for video in self.judged.videos])
        found = {}
        for method in sorted(set(methods[fake].tolist())):
            own = fake & (methods == method)
            reals = ~fake & np.isin(datasets, datasets[own])
            metrics = self.measure(_select(predictions, own | (reals if reals.any() else ~fake)))
            found[method] = MethodFigures(
                n_fake=metrics.n_fake, n_real=metrics.n_real, recall=metrics.recall, auc=metrics.auc
            )
        return found

    def measure_frames(self) -> Estimate | None:
        """The AUC over frames; null where the head did not run here."""
        frames = self.judged.frames
        if frames is None:
            return None
        labels, names = self.judged.labels[frames.owner], self.clusters.names[frames.owner]
        return measure_frames(labels, frames.logits, names, seed=self._request.seed)

    def judge_threshold(self, threshold: Threshold, applied: AppliedThreshold) -> Transfer:
        """What a threshold gives on these videos, beside what it promised."""
        found = self.measure(self.predict(applied))
        seen = any(video.role in SEEN for video in self.judged.videos)  # of whom a promise says nothing
        unsure = applied.name_outcomes(apply_sigmoid(self.judged.calibrated)) == UNCERTAIN
        return Transfer(
            threshold=threshold,
            recall=found.recall,
            fpr=found.fpr,
            uncertain=float(unsure.mean()),
            promise=None if seen else judge_promise(threshold.target, found.recall, found.fpr),
        )


def _recall_frame_auc(run: Run, judged: Judged) -> Estimate | None:
    """The frame AUC that training wrote down; null where it holds videos that are left out here."""
    return None if judged.left_out else run.document.frame_auc.get(judged.kind)


def _describe_source(run: Run, judged: Judged) -> dict[str, Any]:
    """Who was judged on what: the fields of an evaluation that are no figures."""
    document = run.document
    return {
        "run": RunSource(
            name=run.path.resolve().name,
            path=str(run.path),
            weights_sha256=document.weights_sha256,
            fingerprint_sha256=document.fingerprint.sha256,
            head_seeds=judged.seeds,
        ),
        "purpose": document.purpose,
        "untrained_backbone": document.untrained_backbone,
        "kind": judged.kind,
        "source": judged.source,
        "roles": dict(sorted(Counter(video.role for video in judged.videos).items())),
        "left_out": judged.left_out,
        "unscorable": judged.unscorable,
        "notes": judged.notes,
        "warnings": _warn(run, judged),
        "versions": read_versions(PACKAGES),
    }


def _warn(run: Run, judged: Judged) -> tuple[str, ...]:
    """What a reader has to know before the figures, the worst first."""
    found = []
    seen = sum(video.role in SEEN for video in judged.videos)
    if seen:
        found.append(
            f"{seen} of {len(judged.videos)} judged videos were in the training or validation data of this head: the "
            "figures over all of them flatter it; read those by role"
        )
    if judged.kind != "whole" and judged.left_out:
        found.append(
            f"of the held-out videos {sum(judged.left_out.values())} left out: the same files stand under other names "
            f"in {' and '.join(sorted(judged.left_out))}, where the head has learned from them; run `unmask audit`"
        )
    fakes = int(judged.labels.sum())
    if fakes in (0, len(judged.labels)):
        kind = "fake" if fakes else "real"
        found.append(f"all {len(judged.labels)} judged videos are {kind}, so most figures are not defined")
    if judged.kind != "whole":
        found += run.document.warnings
    return tuple(found)


def _assume_the_worst(metrics: Metrics, unscorable: Unscorable) -> float | None:
    """The recall if every unscorable fake, and every one of unknown label, were a miss."""
    missed = unscorable.fake + unscorable.unknown
    if metrics.recall.value is None:
        return None
    return metrics.recall.value * metrics.n_fake / (metrics.n_fake + missed)


def _select(predictions: Predictions, chosen: NDArray[np.bool_]) -> Predictions:
    return replace(
        predictions,
        labels=predictions.labels[chosen],
        logits=predictions.logits[..., chosen],
        flagged=predictions.flagged[..., chosen],
        groups=predictions.groups[chosen],
    )
