"""From clip logits to the one logit of a video: the function that training, evaluation and serving share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def aggregate_video(clip_logits: ArrayLike, tracks: ArrayLike) -> float:
    """The max over tracks of the mean over that track's clips (AggregateSpec).

    `clip_logits` and `tracks` are (C,), one entry a clip, in any order. A calibration that is affine with a
    positive slope gives the same result before and after. A video without clips has no logit: ValueError.
    """
    logits = np.asarray(clip_logits, dtype=np.float64)  # (C,)
    names = np.asarray(tracks)  # (C,)
    if logits.ndim != 1 or logits.shape != names.shape or not logits.size:
        raise ValueError(f"expected two arrays of one shape (C,) with C >= 1, found {logits.shape}, {names.shape}")
    _, track = np.unique(names, return_inverse=True)
    return float((np.bincount(track, weights=logits) / np.bincount(track)).max())
