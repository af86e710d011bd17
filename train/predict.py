"""A head's logits for the videos of a dataset."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from train.aggregate import aggregate_video
from train.dataset import BatchReader, ClipData
from train.head import Head

BATCH = 256


def predict_videos(head: Head, data: ClipData, reader: BatchReader, videos: NDArray[np.int64]) -> NDArray[np.float64]:
    """Uncalibrated logits (V,) of some videos, in their order; the head is left in evaluation mode."""
    clips = data.list_clips(videos)
    logits = predict_clips(head, reader, clips)
    owner, track = data.clip_video[clips], data.clip_track[clips]  # owner ascends
    first, last = np.searchsorted(owner, videos, "left"), np.searchsorted(owner, videos, "right")
    return np.array([aggregate_video(logits[a:b], track[a:b]) for a, b in zip(first, last, strict=True)])


@torch.inference_mode()
def predict_clips(head: Head, reader: BatchReader, clips: NDArray[np.int64]) -> NDArray[np.float64]:
    """Clip logits (C,) of some clips, in their order."""
    head.eval()
    logits = []
    for batch in torch.split(torch.from_numpy(clips), BATCH):
        features, lengths, _ = reader.read_batch(batch)
        logits.append(head(features, lengths)[1].double().cpu())
    return torch.cat(logits).numpy()
