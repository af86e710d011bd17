"""How much boxes overlap, and which of two frames belong together."""

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


def pair_boxes(a: NDArray[np.float32], b: NDArray[np.float32], min_iou: float) -> dict[int, int]:
    """Which box of b (m, 4) each box of a (n, 4) belongs to; those that overlap most are joined first.

    Boxes without a partner that overlaps them by `min_iou` are left out.
    """
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    overlap = compute_iou(a, b)
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(b))
        if overlap[i, j] < min_iou:
            break
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs
