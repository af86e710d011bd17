"""Scores files with an exported model: the library's `Scorer.open("model/").score("clip.mp4")`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle import ModelFolder, open_model_folder, require_detector
from export.contract import Contract
from export.fused import FusedModel
from extract.clips import Clip, ClipSpecs, read_clips
from extract.detectors import Detector, open_detector_of_spec
from extract.errors import VideoError
from extract.files import hash_file
from extract.session import Device
from extract.video import open_video
from serve.verdict import ClipScore, FrameScore, ModelFacts, Outcome, TrackScore, Verdict
from train.aggregate import aggregate_video
from train.calibrate import apply_sigmoid
from train.thresholds import decide


class Scorer:
    """An exported model ready to score files."""

    def __init__(self, folder: ModelFolder, model: FusedModel, detector: Detector, preset: str | None = None) -> None:
        self._model = model
        self._detector = detector
        self.contract: Contract = model.contract
        self.preset, self._threshold = self.contract.choose_threshold(preset)
        prints = self.contract.fingerprint
        self._specs = ClipSpecs(prints.sampling, prints.crop, prints.tracks)
        self.facts = ModelFacts(
            folder.scorer_sha256, prints.backbone.name, prints.detector.name, self.contract.unmask_version
        )

    @classmethod
    def open(cls, path: str | Path, device: Device = "auto", preset: str | None = None) -> Scorer:
        """Opens a model folder; raises an UnmaskError for one that is damaged or cannot run on `device`."""
        folder = open_model_folder(Path(path))
        model = FusedModel(folder.scorer, device)
        spec = model.contract.fingerprint.detector
        require_detector(folder, spec)
        return cls(folder, model, open_detector_of_spec(spec, folder.detector, device), preset)

    def score(self, path: str | Path) -> Verdict:
        """The verdict on one file; a file that cannot be scored gets a verdict that says why, never an error."""
        path = Path(path)
        clips: dict[int, list[ClipScore]] = defaultdict(list)
        try:
            video = open_video(path)
            for clip in read_clips(video, self._specs, self._detector):
                clips[clip.track].append(self._score_clip(clip))
        except VideoError as error:
            return self._conclude(path, Outcome.NOT_SCORABLE, error.reason, error.detail, None, ())
        logits = [(clip.logit, track) for track, scores in clips.items() for clip in scores]
        logit = aggregate_video(*zip(*logits, strict=True))
        outcome = Outcome(decide(_as_prob(logit), self._threshold))
        tracks = tuple(_join_track(track, scores) for track, scores in sorted(clips.items()))
        return self._conclude(path, outcome, None, video.note, logit, tracks)

    def _score_clip(self, clip: Clip) -> ClipScore:
        scores = self._model.run(clip.crops[None], np.array([len(clip.crops)], np.int64))
        frames = tuple(
            FrameScore(float(time_s), float(prob), _as_box(box))
            for time_s, prob, box in zip(clip.times_s, scores.frame_prob[0], clip.boxes, strict=True)
        )
        return ClipScore(clip.start_s, clip.end_s, float(scores.logit[0]), float(scores.prob[0]), frames)

    def _conclude(
        self,
        path: Path,
        outcome: Outcome,
        reason: str | None,
        detail: str,
        logit: float | None,
        tracks: tuple[TrackScore, ...],
    ) -> Verdict:
        return Verdict(
            path=str(path),
            sha256=_hash_if_readable(path),
            outcome=outcome,
            reason=None if reason is None else str(reason),
            detail=detail,
            p_fake=None if logit is None else _as_prob(logit),
            logit=logit,
            threshold=self._threshold.value,
            uncertain=(self._threshold.low, self._threshold.high),
            preset=self.preset,
            tracks=tracks,
            model=self.facts,
            provider=self._model.provider,
            purpose=self.contract.purpose,
            untrained_backbone=self.contract.untrained_backbone,
        )


def _join_track(track: int, clips: list[ClipScore]) -> TrackScore:
    logit = aggregate_video([clip.logit for clip in clips], [track] * len(clips))
    return TrackScore(track, logit, _as_prob(logit), tuple(clips))


def _as_box(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1


def _as_prob(logit: float) -> float:
    return float(apply_sigmoid(np.array(logit)))


def _hash_if_readable(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None
