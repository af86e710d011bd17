"""Seeded synthetic crops: pictures varied enough to compare two runs of a network on, taken from nobody."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def make_crops(count: int, size_px: int, seed: int) -> NDArray[np.uint8]:
    """Random colour fields at several scales under a little noise; (count, S, S, 3) uint8."""
    rng = np.random.default_rng(seed)
    crops = np.empty((count, size_px, size_px, 3), np.uint8)
    for index in range(count):
        grid = int(rng.integers(2, 24))
        field = rng.uniform(0, 255, (grid, grid, 3)).astype(np.float32)
        picture = cv2.resize(field, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
        picture = picture * rng.uniform(0.3, 1.2) + rng.uniform(-40, 40) + rng.normal(0, 6, picture.shape)
        crops[index] = np.clip(picture, 0, 255)
    return crops
