"""From a face box to the square picture the backbone sees."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from extract.specs import CropSpec


def cut_crop(frame: NDArray[np.uint8], box: NDArray[np.float32], spec: CropSpec) -> NDArray[np.uint8]:
    """Cuts the square of `scale` x the longer side around a box x0, y0, x1, y1; (H, W, 3) -> (S, S, 3).

    What lies beyond the frame is black. Shrinking averages areas; a face smaller than the crop is interpolated
    linearly, since area resampling would enlarge it in blocks.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    side = max(1, round(spec.scale * max(x1 - x0, y1 - y0)))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    square = _pad_square(frame, left, top, side)
    method = cv2.INTER_AREA if side >= spec.size_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (spec.size_px, spec.size_px), interpolation=method), dtype=np.uint8)


def _pad_square(frame: NDArray[np.uint8], left: int, top: int, side: int) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    inside = frame[max(0, top) : max(0, min(height, top + side)), max(0, left) : max(0, min(width, left + side))]
    if inside.shape[:2] == (side, side):
        return inside
    square = np.zeros((side, side, 3), np.uint8)
    y, x = max(0, -top), max(0, -left)
    square[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return square
