"""An exported model on real videos, against the cached features and the head of its run: does production agree?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.certificate import Footage, Status
from export.fused import FusedModel
from export.loss import LEAST_AGREEMENT, MOST_AUC_CHANGE
from extract.clips import ClipSpecs, read_clips
from extract.detectors import Detector
from extract.errors import MismatchError, UnmaskError, VideoError
from extract.files import hash_file
from extract.manifest import ManifestVideo, read_manifest
from extract.video import open_video
from train.aggregate import aggregate_video
from train.batches import BatchReader
from train.calibrate import apply_sigmoid
from train.checkpoint import PredictionRow, Run, load_head, read_predictions
from train.dataset import open_clip_data
from train.fit import choose_device
from train.measures.clusters import choose_clusters
from train.measures.compare import compare
from train.measures.metrics import Estimate, Predictions, measure
from train.predict import predict_videos
from train.thresholds import Threshold, decide_each

# With the backbone of the cache the two sides differ by the rounding of its features to half precision.
MOST_PROB_ERROR = 2e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Videos with the calibrated logits (V,) of the exported model; those without a score are counted by reason."""

    videos: list[ManifestVideo]
    sha256: list[str]
    logits: Floats
    lost: dict[str, int]


def measure_footage(
    manifest: Path,
    model: FusedModel,
    detector: Detector,
    run: Run,
    cache: Path,
    on_video: Callable[[int, int], None] = lambda *_: None,
) -> Footage:
    """Scores the videos of a manifest with the exported model, and compares where the run's cache holds them too."""
    scored = _score_videos(read_manifest(manifest), model, detector, on_video)
    if not scored.videos:
        reasons = ", ".join(f"{count} {reason}" for reason, count in scored.lost.items())
        raise UnmaskError(f"no video of {manifest} can be scored ({reasons}); give videos that show a face")
    preset, threshold = model.contract.choose_threshold(None)
    predicted = _predict(scored.videos, scored.logits, threshold)
    expected = _score_from_cache(run, cache)
    both = [place for place, sha256 in enumerate(scored.sha256) if sha256 in expected]
    theirs = np.array([expected[scored.sha256[place]] for place in both])
    found = _compare([scored.videos[place] for place in both], scored.logits[both], theirs, threshold)
    status, detail = _judge(found, model.contract.replaced is not None)
    return Footage(
        manifest=manifest.name,
        status=status,
        detail=detail,
        n_fake=int(predicted.labels.sum()),
        n_real=int((1 - predicted.labels).sum()),
        clusters=len(np.unique(predicted.groups)),
        cluster=predicted.cluster,
        not_scorable=scored.lost,
        roles=_count_roles(scored.sha256, read_predictions(run)),
        auc=measure(predicted).auc,
        preset=preset,
        **found,
    )


def _score_videos(
    videos: Sequence[ManifestVideo], model: FusedModel, detector: Detector, on_video: Callable[[int, int], None]
) -> Scored:
    prints = model.contract.fingerprint
    specs = ClipSpecs(prints.sampling, prints.crop, prints.tracks)
    kept: dict[str, tuple[ManifestVideo, float]] = {}
    lost: Counter[str] = Counter()
    for done, video in enumerate(videos, start=1):
        try:
            logits, tracks = [], []
            for clip in read_clips(open_video(video.path), specs, detector):
                scores = model.run(clip.crops[None], np.array([len(clip.crops)], np.int64))
                logits.append(float(scores.logit[0]))
                tracks.append(clip.track)
            sha256 = hash_file(video.path)
            known = kept.setdefault(sha256, (video, aggregate_video(logits, tracks)))
            _require_one_label(known[0], video)
        except VideoError as error:
            lost[str(error.reason)] += 1
        on_video(done, len(videos))
    of_kept = list(kept.values())
    logits_of_kept = np.array([logit for _, logit in of_kept])
    return Scored([video for video, _ in of_kept], list(kept), logits_of_kept, dict(sorted(lost.items())))


def _require_one_label(first: ManifestVideo, second: ManifestVideo) -> None:
    if first.label != second.label:
        raise MismatchError(
            f"{first.id} is called {first.label} and {second.id}, which is the same file, {second.label}; correct the "
            "manifest"
        )


def _score_from_cache(run: Run, cache: Path) -> dict[str, float]:
    """Calibrated logits by sha256 of the saved head on all videos of the cache; of none where there is no cache."""
    if not cache.is_file():
        return {}
    place = choose_device("cpu")
    with open_clip_data(cache) as data:
        every = np.arange(len(data.records))
        logits = predict_videos(load_head(run).to(place), data, BatchReader(data, place), every)
        calibrated = run.document.calibration.scale(logits)
        return {record.sha256: float(logit) for record, logit in zip(data.records, calibrated, strict=True)}


def _compare(videos: Sequence[ManifestVideo], ours: Floats, theirs: Floats, threshold: Threshold) -> dict[str, Any]:
    """The fields of Footage that compare both sides on the same videos."""
    if not videos:
        nothing = {"compared": 0, "decided": 0, "agreed": 0, "moved": 0}
        return {**nothing, "prob_error": None, "auc_change": Estimate(value=None)}
    probs = [apply_sigmoid(side) for side in (ours, theirs)]
    first, second = (decide_each(side, threshold.value, threshold.low, threshold.high) for side in probs)
    unsure = (first == "UNCERTAIN").astype(int) + (second == "UNCERTAIN").astype(int)
    decided = unsure == 0
    change = compare(_predict(videos, ours, threshold), _predict(videos, theirs, threshold)).differences["auc"]
    return {
        "compared": len(videos),
        "decided": int(decided.sum()),
        "agreed": int((first == second)[decided].sum()),
        "moved": int((unsure == 1).sum()),
        "prob_error": float(np.abs(probs[0] - probs[1]).max()),
        "auc_change": change,
    }


def _judge(found: dict[str, Any], replaced: bool) -> tuple[Status, str]:
    """Whether the comparison keeps the limits, and which these are."""
    if not found["compared"]:
        return "not measured", "none of them is in the cache of the run, so nothing tells what training saw of them"
    if not replaced:
        within = found["prob_error"] <= MOST_PROB_ERROR
        return "passed" if within else "failed", f"probabilities within {MOST_PROB_ERROR} of those from the cache"
    limits = f"AUC within {MOST_AUC_CHANGE}, {LEAST_AGREEMENT:.0%} of verdicts outside the UNCERTAIN band equal"
    change = found["auc_change"].value
    agreed = found["agreed"] >= LEAST_AGREEMENT * found["decided"]
    # Of one class alone no AUC is defined; the verdicts are compared all the same.
    within = agreed and (change is None or abs(change) <= MOST_AUC_CHANGE)
    return "passed" if within else "failed", limits


def _count_roles(sha256: Sequence[str], rows: Sequence[PredictionRow]) -> dict[str, int]:
    """How many of the videos had which part in training; the heads of folds have together seen all of theirs."""
    ranked = sorted(rows, key=lambda row: ("test", "val", "train").index(row.split))
    roles = {row.sha256: row.split for row in ranked}
    return dict(sorted(Counter(roles.get(one, "new") for one in sha256).items()))


def _predict(videos: Sequence[ManifestVideo], logits: Floats, threshold: Threshold) -> Predictions:
    labels = np.array([video.label == "fake" for video in videos], dtype=np.int64)
    clusters = choose_clusters(videos)
    flagged = apply_sigmoid(logits) >= threshold.value
    return Predictions(labels, logits[None], flagged[None], clusters.names, clusters.kind)
