"""Proof that a fused model computes what its parts compute: ONNX Runtime against backbone file and torch head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.certificate import Check
from export.fuse import CalibratedHead
from export.fused import ClipScores, FusedModel
from export.live import LiveHead
from export.probes import SHAPES, Batch, make_batch, make_batches
from extract.backbones import Backbone, measure_feature_error
from extract.cache import open_cache
from extract.errors import UnmaskError
from extract.session import open_session
from extract.specs import Fingerprint, require_same
from train.heads.head import Head

SAMPLE_FRAMES = 16
STREAMED = 48  # frames of a stream that are compared at every step
MOST_PROB_ERROR = 1e-4
# A sigmoid's slope is at most 1/4, so logits this close give probabilities within 1e-4 even where none is
# saturated; a saturated probability alone would agree with anything.
MOST_LOGIT_ERROR = 4 * MOST_PROB_ERROR
# Cached features are float16, which keeps 11 bits of a value that may be several deviations large.
MOST_CACHE_ERROR = 3e-2


class Reference:
    """Backbone file and torch head, one after the other: what the fused model must equal."""

    def __init__(self, backbone: Backbone, head: Head, model: FusedModel) -> None:
        self.backbone = backbone
        self.model = model
        self._head = CalibratedHead(head, model.contract.calibration).eval()

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, T, D) of crops (B, T, S, S, 3)."""
        flat = self.backbone.embed(crops.reshape(-1, *crops.shape[2:]))
        return flat.reshape(*crops.shape[:2], -1)

    def score(self, features: NDArray[np.float32], lengths: NDArray[np.int64]) -> ClipScores:
        """What torch says of features (B, T, D)."""
        with torch.inference_mode():
            found = self._head(torch.from_numpy(features), torch.from_numpy(lengths))
        return ClipScores(*(tensor.numpy() for tensor in found))

    def compare(self, name: str, batches: list[Batch]) -> Check:
        """Runs both on batches of crops (B, T, S, S, 3) and lengths (B,)."""
        largest = logit_error = prob_error = 0.0
        for crops, lengths in batches:
            found, expected = self.model.run(crops, lengths), self.score(self.embed(crops), lengths)
            logit = expected.logit
            # numpy's maximum keeps a NaN, which must not pass.
            largest = float(np.maximum(largest, np.abs(logit).max()))
            # Rounding grows with the value, so a large logit is compared relative to itself.
            relative = np.abs(found.logit - logit) / np.maximum(1, np.abs(logit))
            logit_error = float(np.maximum(logit_error, relative.max()))
            for ours, theirs in ((found.prob, expected.prob), (found.frame_prob, expected.frame_prob)):
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
    """The fused model on synthetic crops, and on those of the run's cache where it is at hand."""
    size_px = reference.backbone.spec.crop_px
    return [reference.compare("synthetic crops", make_batches(size_px)), *_check_samples(reference, cache)]


def check_head(reference: Reference, path: Path) -> Check:
    """`head.onnx` behind the backbone file against torch, on synthetic crops."""
    session = open_session(path, "cpu")
    differences = []
    for crops, lengths in make_batches(reference.backbone.spec.crop_px):
        features = reference.embed(crops)
        found = session.run({"features": features, "lengths": lengths})["logit"]
        differences.append(np.abs(found - reference.score(features, lengths).logit).max())
    return _judge_logits("head.onnx alone", float(np.max(differences)), sum(b * t for b, t in SHAPES))


def check_stream(reference: Reference, path: Path) -> Check:
    """`head_stream.onnx` frame by frame against torch on as much of the clip."""
    rows = np.random.default_rng(0).normal(0, 1, (2, STREAMED, reference.backbone.spec.dim))
    scale = reference.embed(make_batch(1, SAMPLE_FRAMES, reference.backbone.spec.crop_px)[0])
    features = np.asarray(rows * scale.std() + scale.mean(), np.float32)
    live, differences = LiveHead(path, clips=2, device="cpu"), []
    for frame in range(STREAMED):
        found = live.step(features[:, frame]).logit
        expected = reference.score(features[:, : frame + 1], np.full(2, frame + 1, np.int64)).logit
        differences.append(np.abs(found - expected).max())
    return _judge_logits("head_stream.onnx, each step", float(np.max(differences)), 2 * STREAMED)


def _judge_logits(name: str, error: float, frames: int) -> Check:
    return Check(
        name=name,
        status="passed" if error <= MOST_LOGIT_ERROR else "failed",
        detail=f"logits within {MOST_LOGIT_ERROR}",
        frames=frames,
        logit_error=error,
    )


def require_passed(checks: Sequence[Check]) -> None:
    """Raises UnmaskError where a check failed."""
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        raise UnmaskError(
            "the model's files do not compute what backbone file and torch head compute, so nothing was written: "
            + "; ".join(f"{check.name}: {check.describe()}" for check in failed)
        )


def _check_samples(reference: Reference, cache: Path | None) -> list[Check]:
    """The cache's own crops through both paths; and, unless the backbone was replaced, the features training read."""
    contract = reference.model.contract
    names = ["crops of the cache"] + ["features of the cache"] * (contract.replaced is None)
    samples = read_samples(cache, contract.fingerprint)
    if isinstance(samples, str):
        return [Check(name=name, status="not measured", detail=samples) for name in names]
    parity = reference.compare(names[0], samples.batches)
    return [parity] if contract.replaced else [parity, _check_features(reference.backbone, samples, names[1])]


def _check_features(backbone: Backbone, samples: Samples, name: str) -> Check:
    found, kept = backbone.embed(samples.crops), samples.features
    error = measure_feature_error(found, kept) if len(kept) > 1 else 0.0
    return Check(
        name=name,
        status="passed" if error <= MOST_CACHE_ERROR else "failed",
        detail=f"float16 features of training within {MOST_CACHE_ERROR} of their deviation",
        frames=len(kept),
        feature_error=error,
    )


@dataclass(frozen=True)
class Samples:
    """Crops (n, S, S, 3) that a cache keeps, and the features (n, D) that it was filled with."""

    crops: NDArray[np.uint8]
    features: NDArray[np.float32]

    @property
    def batches(self) -> list[Batch]:
        """The crops as clips of SAMPLE_FRAMES, one a batch."""
        cut = [self.crops[i : i + SAMPLE_FRAMES][None] for i in range(0, len(self.crops), SAMPLE_FRAMES)]
        return [(crops, np.array([crops.shape[1]], np.int64)) for crops in cut]


def read_samples(cache: Path | None, expected: Fingerprint) -> Samples | str:
    """The samples of a run's cache, or why there are none; the cache of another run is refused."""
    if cache is None or not cache.is_file():
        return f"the cache {cache or ''} was not at hand"
    with open_cache(cache) as opened:
        require_same(opened.fingerprint, expected, f"{cache} is not the cache of this run", "name the right --cache")
        samples = Samples(*opened.read_samples())
    return samples if len(samples.crops) else "the cache holds no samples"
