"""From clip logits to the one logit of a video: the function that training, evaluation and serving share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def aggregate_video(clip_logits: ArrayLike, tracks: ArrayLike) -> float:
    """The max over tracks of the mean over that track's clips (AggregateSpec).

    `clip_logits` and `tracks` are (C,), one entry a clip, in any order. A calibration that is affine with a
    positive slope gives the same result before and after. A video without clips has no logit: ValueError.
    """
    names = np.asarray(tracks)
    return float(aggregate_videos(clip_logits, names, np.zeros(names.shape, np.int64))[0])


def aggregate_videos(clip_logits: ArrayLike, tracks: ArrayLike, videos: ArrayLike) -> NDArray[np.float64]:
    """The same for several videos at once: `videos` (C,) says whose clip each is; one logit a video, ascending."""
    logits = np.asarray(clip_logits, dtype=np.float64)  # (C,)
    track, video = np.asarray(tracks), np.asarray(videos)  # (C,)
    if logits.ndim != 1 or not logits.shape == track.shape == video.shape or not logits.size:
        raise ValueError(f"expected arrays of one shape (C,) with C >= 1, found {logits.shape}, {track.shape}")
    order = np.lexsort((track, video))
    logits, track, video = logits[order], track[order], video[order]
    new_video = np.concatenate([[True], video[1:] != video[:-1]])
    new_track = new_video | np.concatenate([[True], track[1:] != track[:-1]])
    face = np.cumsum(new_track) - 1
    means = np.bincount(face, weights=logits) / np.bincount(face)  # one a face
    first_face = face[new_video]
    return np.asarray(np.maximum.reduceat(means, first_face), np.float64)
