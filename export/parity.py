"""Proof that a fused model computes what its parts compute: ONNX Runtime against backbone file and torch head."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from export.fuse import CalibratedHead
from export.fused import FusedModel
from extract.backbones import Backbone, measure_feature_error
from extract.cache import open_cache
from extract.errors import UnmaskError
from extract.specs import Fingerprint, Spec, require_same
from extract.synthetic import make_crops
from train.heads.head import Head

SHAPES = ((1, 1), (2, 8), (1, 32))  # (B, T)
SAMPLE_FRAMES = 16
MOST_PROB_ERROR = 1e-4
# A sigmoid's slope is at most 1/4, so logits this close give probabilities within 1e-4 even where none is
# saturated; a saturated probability alone would agree with anything.
MOST_LOGIT_ERROR = 4 * MOST_PROB_ERROR
# Cached features are float16, which keeps 11 bits of a value that may be several deviations large.
MOST_CACHE_ERROR = 3e-2


class Check(Spec):
    """One comparison and what it found; `status` is `not measured` where its material was missing."""

    name: str
    status: Literal["passed", "failed", "not measured"]
    detail: str
    clips: int = 0
    frames: int = 0
    largest_logit: float | None = None
    logit_error: float | None = None
    prob_error: float | None = None
    feature_error: float | None = None

    def describe(self) -> str:
        """The check in words."""
        errors = {"probabilities": self.prob_error, "logits": self.logit_error, "features": self.feature_error}
        found = ", ".join(f"{name} differ by {value:.1e}" for name, value in errors.items() if value is not None)
        return f"{found} over {self.frames} crops (accepted: {self.detail})" if found else self.detail


class Reference:
    """Backbone file and torch head, one after the other: what the fused model must equal."""

    def __init__(self, backbone: Backbone, head: Head, model: FusedModel) -> None:
        self.backbone = backbone
        self.model = model
        self._head = CalibratedHead(head, model.contract.calibration).eval()

    def compare(self, name: str, batches: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> Check:
        """Runs both on batches of crops (B, T, S, S, 3) and lengths (B,)."""
        largest = logit_error = prob_error = 0.0
        for crops, lengths in batches:
            found = self.model.run(crops, lengths)
            flat = crops.reshape(-1, *crops.shape[2:])
            features = torch.from_numpy(self.backbone.embed(flat)).reshape(*crops.shape[:2], -1)
            with torch.inference_mode():
                logit, prob, frame_prob = (x.numpy() for x in self._head(features, torch.from_numpy(lengths)))
            # numpy's maximum keeps a NaN, which must not pass.
            largest = float(np.maximum(largest, np.abs(logit).max()))
            # Rounding grows with the value, so a large logit is compared relative to itself.
            relative = np.abs(found.logit - logit) / np.maximum(1, np.abs(logit))
            logit_error = float(np.maximum(logit_error, relative.max()))
            for ours, theirs in ((found.prob, prob), (found.frame_prob, frame_prob)):
                prob_error = float(np.maximum(prob_error, np.abs(ours - theirs).max()))
        passed = prob_error <= MOST_PROB_ERROR and logit_error <= MOST_LOGIT_ERROR
        return Check(
            name=name,
            status="passed" if passed else "failed",
            detail=f"probabilities within {MOST_PROB_ERROR}, logits within {MOST_LOGIT_ERROR} of their size",
            clips=sum(len(lengths) for _, lengths in batches),
            frames=int(sum(lengths.sum() for _, lengths in batches)),
            largest_logit=largest,
            logit_error=logit_error,
            prob_error=prob_error,
        )


def check_parity(reference: Reference, cache: Path | None) -> list[Check]:
    """All checks of an export; raises UnmaskError where one fails."""
    size_px = reference.backbone.spec.crop_px
    checks = [reference.compare("synthetic crops", [_make_batch(b, t, size_px) for b, t in SHAPES])]
    checks += _check_samples(reference, cache)
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        raise UnmaskError(
            "the fused model does not compute what its parts compute, so nothing was written: "
            + "; ".join(f"{check.name}: {check.describe()}" for check in failed)
        )
    return checks


def _make_batch(clips: int, frames: int, size_px: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    crops = make_crops(clips * frames, size_px, seed=clips * 1000 + frames)
    lengths = np.array([max(1, frames - 3 * i) for i in range(clips)], np.int64)
    return crops.reshape(clips, frames, size_px, size_px, 3), lengths


def _check_samples(reference: Reference, cache: Path | None) -> list[Check]:
    """The cache's own crops: through both paths, and against the features that training read."""
    names = ("crops of the cache", "features of the cache")
    if cache is None or not cache.is_file():
        detail = f"the cache {cache or ''} was not at hand"
        return [Check(name=name, status="not measured", detail=detail) for name in names]
    crops, cached = _read_samples(cache, reference.model.contract.fingerprint)
    if not len(crops):
        return [Check(name=name, status="not measured", detail="the cache holds no samples") for name in names]
    batches = [crops[i : i + SAMPLE_FRAMES][None] for i in range(0, len(crops), SAMPLE_FRAMES)]
    parity = reference.compare(names[0], [(b, np.array([b.shape[1]], np.int64)) for b in batches])
    error = measure_feature_error(reference.backbone.embed(crops), cached) if len(crops) > 1 else 0.0
    kept = Check(
        name=names[1],
        status="passed" if error <= MOST_CACHE_ERROR else "failed",
        detail=f"float16 features of training within {MOST_CACHE_ERROR} of their deviation",
        frames=len(crops),
        feature_error=error,
    )
    return [parity, kept]


def _read_samples(cache: Path, expected: Fingerprint) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    with open_cache(cache) as opened:
        require_same(opened.fingerprint, expected, f"{cache} is not the cache of this run", "name the right --cache")
        return opened.read_samples()
