"""What a backbone of lower precision costs where it takes its parent's place, on the crops that the cache keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.certificate import Check, Footage
from export.fuse import CalibratedHead
from export.parity import SAMPLE_FRAMES, read_samples
from extract.backbones import Backbone, measure_feature_error, measure_typical_error
from extract.errors import MismatchError, UnmaskError
from extract.precision import MOST_TYPICAL_ERROR
from extract.specs import BackboneSpec, Fingerprint, require_same
from train.calibrate import apply_sigmoid

MOST_HALF_PROB_ERROR = 5e-3
MOST_AUC_CHANGE = 0.01
LEAST_AGREEMENT = 0.95


def find_replacement(found: BackboneSpec, expected: BackboneSpec, path: Path, run: Path) -> BackboneSpec | None:
    """The spec of a backbone that takes the expected one's place; None for that one itself. Others are refused."""
    if found.parent == expected.sha256 and found.precision != "fp32":
        return found
    if found.parent is not None and found.sha256 != expected.sha256:
        raise MismatchError(
            f"{path} was made from the backbone {found.parent[:12]}..., but {run} was trained on features of "
            f"{expected.sha256[:12]}... ({expected.name}, {expected.precision}); convert that file, or train on a "
            "cache that this one filled"
        )
    require_same(found, expected, f"{path} is not the backbone of {run}", "name the file that filled its cache")
    return None


def check_loss(backbone: Backbone, head: CalibratedHead, cache: Path | None, expected: Fingerprint) -> Check:
    """The features and frame scores of a replaced backbone against those of its parent, which filled the cache."""
    name, precision = f"{backbone.spec.precision} in place of its parent", backbone.spec.precision
    samples = read_samples(cache, expected)
    if isinstance(samples, str):
        return Check(name=name, status="not measured", detail=samples)
    found = backbone.embed(samples.crops)
    ours, theirs = (_score(head, features) for features in (found, samples.features))
    prob_error = float(np.abs(apply_sigmoid(ours.clips) - apply_sigmoid(theirs.clips)).max())
    typical = measure_typical_error(found, samples.features)
    limits = [f"features within {MOST_TYPICAL_ERROR[precision]} deviations typically"]
    within = typical <= MOST_TYPICAL_ERROR[precision]
    if precision == "fp16":
        limits.append(f"probabilities of clips within {MOST_HALF_PROB_ERROR}")
        within = within and prob_error <= MOST_HALF_PROB_ERROR
    return Check(
        name=name,
        status="passed" if within else "failed",
        detail=", ".join(limits),
        clips=len(ours.clips),
        frames=len(found),
        logit_error_p95=float(np.quantile(np.abs(ours.frames - theirs.frames), 0.95)),
        prob_error=prob_error,
        feature_error=measure_feature_error(found, samples.features),
        typical_error=typical,
    )


@dataclass(frozen=True)
class _Logits:
    """Calibrated logits of frames (n,) and of the clips that they make."""

    frames: NDArray[np.float64]
    clips: NDArray[np.float64]


def _score(head: CalibratedHead, features: NDArray[np.float32]) -> _Logits:
    """What the head says of frames (n, D), in clips of SAMPLE_FRAMES."""
    clips = torch.split(torch.from_numpy(features), SAMPLE_FRAMES)
    with torch.inference_mode():
        found = [head.head(clip.unsqueeze(0), torch.tensor([len(clip)])) for clip in clips]
    frames, of_clips = (torch.cat([one[part].flatten() for one in found]).double().numpy() for part in (0, 1))
    return _Logits(head.slope * frames + head.intercept, head.slope * of_clips + head.intercept)


def settle_losses(
    checks: Sequence[Check], footage: Footage | None, allow: bool
) -> tuple[list[Check], Footage | None, tuple[str, ...]]:
    """Refuses a replaced backbone that costs more than is accepted; where that is allowed, says what was exceeded."""
    failed = [f"{check.name}: {check.describe()}" for check in checks if check.status == "failed"]
    if footage is not None and footage.status == "failed":
        failed.append(f"videos of {footage.manifest}: {footage.describe()}")
    if failed and not checks:
        raise UnmaskError(
            f"the exported model says something else of the videos than the cache of the run, so nothing was written: "
            f"{failed[0]}; the files, packages or machine are not those of the extraction, so extract and train again"
        )
    if failed and not allow:
        raise UnmaskError(
            f"the backbone costs more than is accepted, so nothing was written: {'; '.join(failed)}; use its fp32 "
            "parent, or say --allow-loss, which the contract records"
        )
    accepted = {"status": "accepted"}
    settled = [check.model_copy(update=accepted) if check.status == "failed" else check for check in checks]
    if footage is not None and footage.status == "failed":
        footage = footage.model_copy(update=accepted)
    return settled, footage, tuple(failed)
