"""A fused model in use: crops of clips in, calibrated logits and probabilities out, every shape checked first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract import Contract, read_contract
from extract.errors import UnmaskError
from extract.session import Device, open_session

# What each input and output is; the files say it themselves.
_SHARED = {
    "lengths": "int64 (B,): frames of each clip, 1 <= length <= T",
    "logit": "float32 (B,): calibrated logit of each clip; of a video, take the mean over clips, then the sigmoid",
    "prob": "float32 (B,): sigmoid(logit), the probability at even odds that the clip is fake",
    "frame_prob": "float32 (B, T): the same for each frame; -1 past a clip's length",
}
SCORER_MEANINGS = {
    "crops": "uint8 (B, T, S, S, 3): RGB face crops of B clips; frames past a clip's length may hold anything",
    **_SHARED,
}
HEAD_MEANINGS = {
    "features": "float32 (B, T, D): backbone features of B clips; frames past a clip's length may hold any number",
    **_SHARED,
}
INPUTS = ("crops", "lengths")
OUTPUTS = ("logit", "prob", "frame_prob")
OVERFLOW = "the model gives a score that is not finite: its features overflow on these crops"


@dataclass(frozen=True)
class ClipScores:
    """What the model says of a batch of clips."""

    logit: NDArray[np.float32]  # (B,)
    prob: NDArray[np.float32]  # (B,)
    frame_prob: NDArray[np.float32]  # (B, T)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which clips (B,) have a score at all."""
        return np.isfinite(self.logit) & np.isfinite(self.prob) & np.isfinite(self.frame_prob).all(axis=1)


class FusedModel:
    """`scorer.onnx` loaded for inference; `provider` names what really runs it."""

    def __init__(self, path: Path, device: Device = "auto") -> None:
        self._session = open_session(path, device)
        self.contract: Contract = read_contract(self._session)
        self.provider = self._session.provider

    def run(self, crops: NDArray[np.uint8], lengths: NDArray[np.int64]) -> ClipScores:
        """Scores a batch of clips; input that the graph would score quietly or die of is an UnmaskError."""
        scores = self.run_unchecked(crops, lengths)
        if not scores.finite.all():
            raise UnmaskError(OVERFLOW)
        return scores

    def run_unchecked(self, crops: NDArray[np.uint8], lengths: NDArray[np.int64]) -> ClipScores:
        """The same for who looks at `finite` himself: one clip that overflows says nothing of the others."""
        require_batch(crops, lengths, self.contract.fingerprint.crop.size_px)
        found = self._session.run({"crops": crops, "lengths": lengths})
        return ClipScores(*(found[name] for name in OUTPUTS))


def require_batch(crops: NDArray[Any], lengths: NDArray[Any], size_px: int) -> None:
    """Refuses a batch the graph must not see: an empty one ends the process, a wrong length scores in silence."""
    if crops.ndim != 5 or crops.shape[2:] != (size_px, size_px, 3) or crops.dtype != np.uint8:
        raise UnmaskError(
            f"crops are {crops.dtype} {crops.shape}, expected uint8 (clips, frames, {size_px}, {size_px}, 3)"
        )
    if 0 in crops.shape:
        raise UnmaskError(f"crops are {crops.shape}: an empty batch cannot be scored")
    if lengths.shape != crops.shape[:1] or lengths.dtype != np.int64:
        raise UnmaskError(f"lengths are {lengths.dtype} {lengths.shape}, expected int64 ({crops.shape[0]},)")
    if lengths.min() < 1 or lengths.max() > crops.shape[1]:
        raise UnmaskError(
            f"lengths go from {lengths.min()} to {lengths.max()}, expected 1 to {crops.shape[1]}, the frames a clip"
        )
