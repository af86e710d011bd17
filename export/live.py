"""`head_stream.onnx` in use: clips that are scored while they are seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.contract import Contract, read_contract
from extract.errors import UnmaskError
from extract.session import Device, open_session

AFTER = "_after"  # ends a state's name where it comes out


@dataclass(frozen=True)
class StepScores:
    """What is known of B clips after a frame."""

    logit: NDArray[np.float32]  # (B,) of the clip so far
    prob: NDArray[np.float32]  # (B,) of the clip so far
    frame_prob: NDArray[np.float32]  # (B,) of this frame


class LiveHead:
    """B clips that grow together, frame by frame."""

    def __init__(self, path: Path, clips: int, device: Device = "auto") -> None:
        self._session = open_session(path, device)
        self.contract: Contract = read_contract(self._session)
        self.provider = self._session.provider
        self._clips = clips
        self.restart()

    def restart(self) -> None:
        """Forgets all frames."""
        shapes = {name: shape for name, (_, shape) in self._session.inputs.items() if name != "features"}
        self._states = {
            name: np.zeros([axis if isinstance(axis, int) else self._clips for axis in shape], np.float32)
            for name, shape in shapes.items()
        }

    def step(self, features: NDArray[np.float32]) -> StepScores:
        """Takes the features (B, D) of the next frame of every clip."""
        expected = (self._clips, self.contract.head.dim)
        if features.shape != expected or features.dtype != np.float32:
            raise UnmaskError(f"features are {features.dtype} {features.shape}, expected float32 {expected}")
        found = self._session.run({"features": features, **self._states})
        if not np.isfinite(found["logit"]).all():
            raise UnmaskError("the head gives a score that is not finite: the features overflow it")
        self._states = {name: found[f"{name}{AFTER}"] for name in self._states}
        return StepScores(found["logit"], found["prob"], found["frame_prob"])
