"""A feature cache as arrays to train on: which videos can be used, their clips, and padded batches of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.cache import OK, FeatureCache, VideoRecord
from extract.errors import FormatError, UnmaskError
from extract.results import ORIGINAL_VIEW
from extract.specs import Fingerprint

SCAN_ROWS = 1 << 15


@dataclass(frozen=True)
class ClipData:
    """The usable videos of a cache (V of them) and their clips (C), in the cache's order.

    A video that names no group is a group of its own.
    """

    fingerprint: Fingerprint
    records: tuple[VideoRecord, ...]  # (V,)
    labels: NDArray[np.int64]  # (V,) 1 = fake
    groups: NDArray[np.str_]  # (V,)
    clip_video: NDArray[np.int64]  # (C,) ascending
    clip_track: NDArray[np.int64]  # (C,)
    clip_start: NDArray[np.int64]  # (C,) first row
    clip_length: NDArray[np.int64]  # (C,)
    features: Tensor  # (rows, D) float16
    excluded: dict[str, int]  # videos without features, by status

    @property
    def ungrouped(self) -> int:
        """Number of videos that name no group."""
        return sum(not record.group for record in self.records)

    def list_clips(self, videos: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clips of some videos, ascending."""
        return np.flatnonzero(np.isin(self.clip_video, videos))


class BatchReader:
    """Gathers padded batches of clips on a device, from features that are already in memory."""

    def __init__(self, data: ClipData, device: torch.device) -> None:
        self.device = device
        self._features = _place_features(data.features, device)
        home = self._features.device
        self._start = torch.from_numpy(data.clip_start).to(home)
        self._length = torch.from_numpy(data.clip_length).to(home)
        self._label = torch.from_numpy(data.labels[data.clip_video]).to(home)

    def read_batch(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, T, D) float32, lengths (B,) and labels (B,) of some clips; T is the longest of them.

        A shorter clip is padded with its own last row, which the head never looks at.
        """
        clips = clips.to(self._start.device)
        lengths = self._length[clips]  # (B,)
        times = torch.arange(int(lengths.max()), device=lengths.device)  # (T,)
        offsets = torch.minimum(times.unsqueeze(0), lengths.unsqueeze(1) - 1)  # (B, T)
        rows = self._start[clips].unsqueeze(1) + offsets
        features = self._features.index_select(0, rows.flatten()).view(*rows.shape, -1)
        return features.to(self.device).float(), lengths.to(self.device), self._label[clips].to(self.device)


def select_usable(cache: FeatureCache) -> ClipData:
    """The videos of a cache that have features; the others are counted by status."""
    chosen = [i for i, record in enumerate(cache.videos) if record.status == OK]
    excluded = Counter(record.status for record in cache.videos if record.status != OK)
    if not chosen:
        found = ", ".join(f"{count} {status}" for status, count in sorted(excluded.items())) or "no video at all"
        raise UnmaskError(f"{cache.path} holds no video with features ({found}); nothing can be trained on it")
    records = [cache.videos[i] for i in chosen]
    position = np.full(len(cache.videos), -1, dtype=np.int64)
    position[chosen] = np.arange(len(chosen))
    keep = (position[cache.clips.video] >= 0) & (cache.clips.view == ORIGINAL_VIEW)
    data = ClipData(
        fingerprint=cache.fingerprint,
        records=tuple(records),
        labels=np.array([record.label == "fake" for record in records], dtype=np.int64),
        groups=name_groups(records),
        clip_video=position[cache.clips.video[keep]],
        clip_track=cache.clips.track[keep].astype(np.int64),
        clip_start=cache.clips.start[keep].astype(np.int64),
        clip_length=cache.clips.length[keep].astype(np.int64),
        features=torch.from_numpy(cache.features),
        excluded=dict(sorted(excluded.items())),
    )
    _require_sound(data, cache)
    return data


def name_groups(records: Sequence[VideoRecord]) -> NDArray[np.str_]:
    """The group of each video; one without a group gets a name that no group can have."""
    return np.array([record.group or f"\n{record.id}" for record in records])


def _require_sound(data: ClipData, cache: FeatureCache) -> None:
    """Refuses what a sound cache never holds, before it spoils every video of a run."""
    remedy = "run `unmask extract` again"
    least = data.fingerprint.sampling.min_frames
    if data.features.shape[1] != data.fingerprint.backbone.dim:
        raise FormatError(
            f"{cache.path} holds features of {data.features.shape[1]} numbers, its fingerprint says "
            f"{data.fingerprint.backbone.dim}; {remedy}"
        )
    for clip in np.flatnonzero(data.clip_length < least)[:1]:
        raise FormatError(
            f"{cache.path}: a clip of {data.records[data.clip_video[clip]].id} has {data.clip_length[clip]} frames, "
            f"expected at least {least}; {remedy}"
        )
    empty = np.setdiff1d(np.arange(len(data.records)), data.clip_video)
    if empty.size:
        raise FormatError(f"{cache.path}: {data.records[empty[0]].id} is marked OK but has no clip; {remedy}")
    for first in range(0, len(cache.features), SCAN_ROWS):
        if not np.isfinite(cache.features[first : first + SCAN_ROWS]).all():
            raise FormatError(
                f"{cache.path}: row {first} or one of the {SCAN_ROWS} after it is not finite: the backbone's "
                "features do not fit float16; wrap one with an output of smaller scale and extract again"
            )


def _place_features(features: Tensor, device: torch.device) -> Tensor:
    """On CUDA the whole cache moves over when it takes at most half of the free memory; else batches do."""
    if device.type != "cuda":
        return features
    free, _ = torch.cuda.mem_get_info(device)
    return features.to(device) if 2 * features.nbytes <= free else features
