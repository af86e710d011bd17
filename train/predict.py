"""A head's logits for the videos of a dataset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from train.aggregate import aggregate_videos
from train.batches import Batch, BatchReader
from train.dataset import ClipData
from train.heads.head import Head

BATCH_ROWS = 512  # 16 clips of 32 frames; more are hardly faster, and take memory of every process of a sweep


def predict_videos(head: Head, data: ClipData, reader: BatchReader, videos: NDArray[np.int64]) -> NDArray[np.float64]:
    """Uncalibrated logits (V,) of some videos, in their order; the head is left in evaluation mode."""
    clips = data.list_clips(videos)
    logits = aggregate_videos(predict_clips(head, reader, clips), data.clip_track[clips], data.clip_video[clips])
    return logits[np.searchsorted(np.unique(videos), videos)]


def predict_clips(head: Head, reader: BatchReader, clips: NDArray[np.int64]) -> NDArray[np.float64]:
    """Clip logits (C,) of some clips (ascending), in their order."""
    return np.concatenate([clip_logits for _, _, clip_logits in _run(head, reader, clips)])


def predict_frames(
    head: Head, data: ClipData, reader: BatchReader, videos: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Uncalibrated logits (F,) of all cached frames of some videos, and the video (F,) that shows each."""
    logits, owners = [], []
    for batch, frame_logits, _ in _run(head, reader, data.list_clips(videos)):
        lengths = batch.lengths.cpu().numpy()
        inside = np.arange(frame_logits.shape[1]) < lengths[:, None]  # (B, T)
        logits.append(frame_logits[inside])
        owners.append(np.repeat(data.clip_video[batch.clips.numpy()], lengths))
    return np.concatenate(logits), np.concatenate(owners)


@torch.inference_mode()
def _run(
    head: Head, reader: BatchReader, clips: NDArray[np.int64]
) -> Iterator[tuple[Batch, NDArray[np.float64], NDArray[np.float64]]]:
    """Frame logits (B, T) and clip logits (B,) of each batch, in float32."""
    head.eval()
    for batch in reader.read_in_order(clips, reader.fit_clips(BATCH_ROWS)):
        frames, logits = head(batch.features, batch.lengths)
        yield batch, frames.double().cpu().numpy(), logits.double().cpu().numpy()
