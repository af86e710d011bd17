"""A feature cache as arrays to train on: which videos can be used, and their clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from extract.cache import OK, CacheFile, ClipTable, FeatureCache, VideoRecord, open_cache
from extract.errors import FormatError, UnmaskError
from extract.results import ORIGINAL_VIEW
from extract.specs import Fingerprint
from train.operating_points import name_groups
from train.rows import FeatureRows, RowsInMemory, StreamedRows, plan_memory, read_rows, require_finite


@dataclass(frozen=True)
class ClipData:
    """The usable videos of a cache (V of them) and their clips (C), in the cache's order.

    A video that names no group is a group of its own.
    """

    path: Path
    fingerprint: Fingerprint
    records: tuple[VideoRecord, ...]  # (V,)
    lost: tuple[VideoRecord, ...]  # videos without features
    labels: NDArray[np.int64]  # (V,) 1 = fake
    groups: NDArray[np.str_]  # (V,)
    pairs: NDArray[np.str_]  # (V,) what a real video and its fakes share, or nothing
    clip_video: NDArray[np.int64]  # (C,) ascending
    clip_track: NDArray[np.int64]  # (C,)
    clip_start: NDArray[np.int64]  # (C,) first row, ascending
    clip_length: NDArray[np.int64]  # (C,)
    clip_leads: NDArray[np.bool_]  # (C,) whether no other face is larger in that stretch of its video
    rows: FeatureRows

    @property
    def excluded(self) -> dict[str, int]:
        """Videos without features, by status."""
        return dict(sorted(Counter(record.status for record in self.lost).items()))

    @property
    def ungrouped(self) -> int:
        """Number of videos that name no group."""
        return sum(not record.group for record in self.records)

    def list_clips(self, videos: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clips of some videos, ascending."""
        return np.flatnonzero(np.isin(self.clip_video, videos))

    def list_training_clips(self, videos: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clips of some videos to learn from: of a fake only its largest face, since bystanders are real.

        Which face was swapped no label tells; in a real video every face is real.
        """
        clips = self.list_clips(videos)
        taught = self.clip_leads[clips] | (self.labels[self.clip_video[clips]] == 0)
        return np.asarray(clips[taught], np.int64)


def select_usable(cache: FeatureCache) -> ClipData:
    """The videos with features of a cache that is in memory."""
    require_finite(cache.features, 0, cache.path)
    corners = cache.boxes.astype(np.float64)
    whole = np.add.reduceat((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), cache.clips.start)
    areas = whole / cache.clips.length  # mean of each clip's boxes
    rows = RowsInMemory(torch.from_numpy(cache.features))
    return _make_data(cache.path, cache.fingerprint, cache.videos, cache.clips, areas, rows)


@contextmanager
def open_clip_data(path: Path, memory: int | None = None) -> Iterator[ClipData]:
    """The videos with features of a cache file; rows that do not fit `memory` bytes for all stay in the file."""
    with ExitStack() as stack:
        with open_cache(path) as cache:
            dim = cache.fingerprint.backbone.dim
            tables = cache.videos, cache.clips, cache.read_areas()  # before the plan, which counts what is there
            most_bytes = plan_memory(2 * dim * cache.rows, memory)
            rows: FeatureRows
            if most_bytes is None:
                features = np.empty((cache.rows, dim), np.float16)
                read_rows(cache, 0, features)
                rows = RowsInMemory(torch.from_numpy(features))
            else:
                rows = stack.enter_context(closing(StreamedRows(path, dim, most_bytes)))
            data = _make_data(path, cache.fingerprint, *tables, rows)
        del tables
        yield data


def read_clip_data(cache: CacheFile, rows: FeatureRows) -> ClipData:
    """The videos with features of an open cache, whose rows are `rows`."""
    return _make_data(cache.path, cache.fingerprint, cache.videos, cache.clips, cache.read_areas(), rows)


def _make_data(
    path: Path,
    fingerprint: Fingerprint,
    videos: Sequence[VideoRecord],
    table: ClipTable,
    areas: NDArray[np.float64],
    rows: FeatureRows,
) -> ClipData:
    records = tuple(record for record in videos if record.status == OK)
    lost = tuple(record for record in videos if record.status != OK)
    if not records:
        counts = Counter(record.status for record in lost)
        found = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no video at all"
        raise UnmaskError(f"{path} holds no video with features ({found}); nothing can be trained on it")
    usable = np.array([record.status == OK for record in videos])
    keep = usable[table.video] & (table.view == ORIGINAL_VIEW)
    video = (np.cumsum(usable) - 1)[table.video[keep]]
    data = ClipData(
        path=path,
        fingerprint=fingerprint,
        records=records,
        lost=lost,
        labels=np.array([record.label == "fake" for record in records], dtype=np.int64),
        groups=name_groups(records),
        pairs=np.array([record.pair for record in records]),
        clip_video=video.astype(np.int64),
        clip_track=table.track[keep].astype(np.int64),
        clip_start=table.start[keep].astype(np.int64),
        clip_length=table.length[keep].astype(np.int64),
        clip_leads=_find_leaders(video, table.start_s[keep], areas[keep]),
        rows=rows,
    )
    _require_sound(data)
    return data


def _find_leaders(
    video: NDArray[np.int64], start_s: NDArray[np.float64], areas: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each clip is the largest of those of its video that begin when it does; the first of equals."""
    order = np.lexsort((-areas, start_s, video))  # stable
    same = (np.diff(video[order]) == 0) & (np.diff(start_s[order]) == 0)
    leads = np.empty(len(order), np.bool_)
    leads[order] = np.concatenate([[True], ~same])[: len(order)]
    return leads


def _require_sound(data: ClipData) -> None:
    """Refuses what a sound cache never holds, before it spoils every video of a run."""
    remedy = "run `unmask extract` again"
    least = data.fingerprint.sampling.min_frames
    if data.rows.dim != data.fingerprint.backbone.dim:
        raise FormatError(
            f"{data.path} holds features of {data.rows.dim} numbers, its fingerprint says "
            f"{data.fingerprint.backbone.dim}; {remedy}"
        )
    for clip in np.flatnonzero(data.clip_length < least)[:1]:
        raise FormatError(
            f"{data.path}: a clip of {data.records[data.clip_video[clip]].id} has {data.clip_length[clip]} frames, "
            f"expected at least {least}; {remedy}"
        )
    empty = np.setdiff1d(np.arange(len(data.records)), data.clip_video)
    if empty.size:
        raise FormatError(f"{data.path}: {data.records[empty[0]].id} is marked OK but has no clip; {remedy}")
