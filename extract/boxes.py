"""How much boxes overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def compute_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes (n, 4) and (m, 4), x0, y0, x1, y1 -> (n, m); 0 where both are empty."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.prod(np.maximum(sides, 0), axis=2)
    areas_a, areas_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    total = areas_a[:, None] + areas_b[None, :] - shared
    iou: NDArray[np.float32] = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return iou
