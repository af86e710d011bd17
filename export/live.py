"""`head_stream.onnx` in use: clips that are scored while they are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.contract import Contract, read_contract
from extract.errors import UnmaskError
from extract.session import Device, open_session

AFTER = "_after"  # ends a state's name where it comes out

Memory = dict[str, NDArray[np.float32]]  # the states of some clips by name, as the file takes them


@dataclass(frozen=True)
class StepScores:
    """What is known of B clips after a frame."""

    logit: NDArray[np.float32]  # (B,) of the clip so far
    prob: NDArray[np.float32]  # (B,) of the clip so far
    frame_prob: NDArray[np.float32]  # (B,) of this frame


class LiveHead:
    """B clips that grow together, frame by frame; or clips that come and go, each with a memory of its own."""

    def __init__(self, path: Path, clips: int = 1, device: Device = "auto") -> None:
        self._session = open_session(path, device)
        self.contract: Contract = read_contract(self._session)
        self.provider = self._session.provider
        self._clips = clips
        self._shapes = {name: shape for name, (_, shape) in self._session.inputs.items() if name != "features"}
        # Where a state's shape is open, there its clips lie.
        self._axes = {
            name: next(axis for axis, size in enumerate(shape) if not isinstance(size, int))
            for name, shape in self._shapes.items()
        }
        self.restart()

    def restart(self) -> None:
        """Forgets all frames."""
        self._states = self.begin(self._clips)

    def step(self, features: NDArray[np.float32]) -> StepScores:
        """Takes the features (B, D) of the next frame of every clip."""
        scores, self._states = self._run(features, self._states, self._clips)
        return scores

    def begin(self, clips: int = 1) -> Memory:
        """The memory of clips that have seen nothing."""
        return {
            name: np.zeros([size if isinstance(size, int) else clips for size in shape], np.float32)
            for name, shape in self._shapes.items()
        }

    def step_each(self, features: NDArray[np.float32], memories: Sequence[Memory]) -> tuple[StepScores, list[Memory]]:
        """Takes the features (B, D) of the next frame of B clips, each with the memory it had before; and after it."""
        if not memories:
            raise UnmaskError("a step needs the memory of at least one clip, found none")
        states = {name: np.concatenate([m[name] for m in memories], axis) for name, axis in self._axes.items()}
        scores, after = self._run(features, states, len(memories))
        return scores, [
            {name: np.take(after[name], [clip], axis) for name, axis in self._axes.items()}
            for clip in range(len(memories))
        ]

    def _run(self, features: NDArray[np.float32], states: Memory, clips: int) -> tuple[StepScores, Memory]:
        expected = (clips, self.contract.head.dim)
        if features.shape != expected or features.dtype != np.float32:
            raise UnmaskError(f"features are {features.dtype} {features.shape}, expected float32 {expected}")
        found = self._session.run({"features": features, **states})
        if not np.isfinite(found["logit"]).all():
            raise UnmaskError("the head gives a score that is not finite: the features overflow it")
        scores = StepScores(found["logit"], found["prob"], found["frame_prob"])
        return scores, {name: found[f"{name}{AFTER}"] for name in states}
