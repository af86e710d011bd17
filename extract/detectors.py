"""Face detectors behind one signature: a batch of frames in, boxes with scores out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extract.specs import DetectorSpec


@dataclass(frozen=True)
class Detections:
    """The faces of one frame, best first, in pixels of that frame."""

    boxes: NDArray[np.float32]  # (n, 4) x0, y0, x1, y1
    scores: NDArray[np.float32]  # (n,)


class Detector(Protocol):
    """Finds faces; `provider` names what really ran it."""

    spec: DetectorSpec
    provider: str

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        """Faces of each RGB frame of a batch (N, H, W, 3)."""
        ...
