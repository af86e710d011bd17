"""Padded batches of clips on a device, from rows in memory or from blocks that are read while others are used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.augment import list_frames, pick_frames
from train.config import AugmentConfig
from train.dataset import ClipData
from train.rows import FeatureRows, RowsInMemory
from train.samplers import Sampler

BLOCKS = 8  # of rows that are read apart and shuffled together, so that neighbours do not always meet
GAP_ROWS = 256  # between two clips; reading over a shorter gap is quicker than reading twice


@dataclass(frozen=True)
class Batch:
    """Some clips; rows past a clip's length repeat one of its own."""

    clips: Tensor  # (B,) their numbers, on the CPU
    features: Tensor  # (B, T, D) float16
    lengths: Tensor  # (B,) int64
    labels: Tensor  # (B,) int64


@dataclass(frozen=True)
class Pool:
    """Rows that are in memory together, and the clips that are to be taken from them."""

    rows: Tensor  # (n, D) float16
    clips: Tensor  # (c,)
    first: Tensor  # (c,) the row of the pool in which each clip begins


@dataclass(frozen=True)
class _Block:
    """Clips that are read together: the stretches of rows that hold them, and where each begins among these."""

    stretches: tuple[tuple[int, int], ...]
    clips: NDArray[np.int64]  # (c,)
    first: NDArray[np.int64]  # (c,)

    @property
    def rows(self) -> int:
        return sum(end - start for start, end in self.stretches)


class BatchReader:
    """Gathers batches of a dataset's clips for a device; features stay float16, which the head takes."""

    def __init__(self, data: ClipData, device: torch.device) -> None:
        self.device = device
        self._data = data
        self._rows = _place_rows(data.rows, device)
        self._length = torch.from_numpy(data.clip_length)
        self._label = torch.from_numpy(data.labels[data.clip_video])
        self._least = data.fingerprint.sampling.min_frames

    def fit_clips(self, rows: int) -> int:
        """How many clips a batch of so many rows holds, even of the longest."""
        return max(1, rows // max(1, int(self._length.max())))

    def read_in_order(self, clips: NDArray[np.int64], size: int) -> Iterator[Batch]:
        """All `clips` (ascending) once, as they are."""
        for pool in self._read_pools(self._cut_blocks(clips), 1):
            for places in torch.split(torch.arange(len(pool.clips)), size):
                yield self._gather(pool, places, None, None)

    def read_shuffled(
        self,
        clips: NDArray[np.int64],
        size: int,
        sampler: Sampler,
        augment: AugmentConfig,
        generator: torch.Generator,
    ) -> Iterator[Batch]:
        """An epoch of `clips` in the sampler's order; rows that do not fit in memory come in shuffled blocks."""
        blocks = self._cut_blocks(clips)
        order = torch.randperm(len(blocks), generator=generator).tolist() if len(blocks) > 1 else [0]
        changes = None if augment == AugmentConfig() else augment
        place = torch.full((len(self._length),), -1)
        for pool in self._read_pools([blocks[i] for i in order], BLOCKS):
            place[pool.clips] = torch.arange(len(pool.clips))
            for chosen in torch.split(sampler.draw(pool.clips, generator), size):
                yield self._gather(pool, place[chosen], changes, generator)

    def read_rows(self, clips: NDArray[np.int64]) -> Iterator[Tensor]:
        """The rows (n, D) of `clips` (ascending), some at a time, on the CPU."""
        for batch in self.read_in_order(clips, self.fit_clips(2048)):
            inside = torch.arange(batch.features.shape[1], device=self.device) < batch.lengths.unsqueeze(1)
            yield batch.features[inside].cpu()

    def _gather(
        self, pool: Pool, places: Tensor, changes: AugmentConfig | None, generator: torch.Generator | None
    ) -> Batch:
        clips = pool.clips[places]
        lengths = self._length[clips]
        if changes is None or generator is None:
            index = list_frames(lengths)
        else:
            index, lengths = pick_frames(lengths, changes, self._least, generator)
        rows = (pool.first[places].unsqueeze(1) + index).to(pool.rows.device)  # (B, T)
        features = pool.rows.index_select(0, rows.flatten()).view(*rows.shape, -1)
        labels = self._label[clips]
        return Batch(clips, features.to(self.device), lengths.to(self.device), labels.to(self.device))

    def _cut_blocks(self, clips: NDArray[np.int64]) -> list[_Block]:
        """`clips` (ascending) in portions of which a pool holds BLOCKS; one of all where rows are in memory."""
        most = self._rows.most_bytes
        starts = self._data.clip_start[clips]
        if most is None:
            return [_Block((), clips, starts)]
        # Two pools are in memory at a time, one in use and one being read.
        most_rows = max(1, most // (2 * self._rows.dim * 2 * BLOCKS))
        ends = starts + self._data.clip_length[clips]
        blocks, at = [], 0
        while at < len(clips):
            after = max(at + 1, int(np.searchsorted(ends, starts[at] + most_rows, side="right")))
            blocks.append(_make_block(clips[at:after], starts[at:after], ends[at:after]))
            at = after
        return blocks

    def _read_pools(self, blocks: list[_Block], at_once: int) -> Iterator[Pool]:
        if isinstance(self._rows, RowsInMemory):
            yield Pool(self._rows.rows, *(torch.from_numpy(x) for x in (blocks[0].clips, blocks[0].first)))
            return
        groups = [blocks[i : i + at_once] for i in range(0, len(blocks), at_once)]
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(self._load_pool, groups[0])
            for following in [*groups[1:], None]:
                pool = waiting.result()
                if following is not None:
                    waiting = thread.submit(self._load_pool, following)
                yield pool

    def _load_pool(self, blocks: list[_Block]) -> Pool:
        # By numpy: a thread in which torch copies has threads of its own, which take the cores from those that train.
        rows = np.empty((sum(block.rows for block in blocks), self._rows.dim), np.float16)
        firsts, at = [], 0
        for block in blocks:
            firsts.append(block.first + at)
            for start, end in block.stretches:
                self._rows.fill(start, rows[at : at + end - start])
                at += end - start
        clips = np.concatenate([block.clips for block in blocks])
        return Pool(torch.from_numpy(rows), torch.from_numpy(clips), torch.from_numpy(np.concatenate(firsts)))


def _make_block(clips: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> _Block:
    gaps = np.concatenate([[0], starts[1:] - ends[:-1]])
    gaps[gaps <= GAP_ROWS] = 0  # read with their neighbours
    opens = np.flatnonzero(np.concatenate([[1], gaps[1:]]))
    closes = np.append(opens[1:], len(clips)) - 1
    stretches = tuple(zip(starts[opens].tolist(), ends[closes].tolist(), strict=True))
    return _Block(stretches, clips, starts - starts[0] - np.cumsum(gaps))


def _place_rows(rows: FeatureRows, device: torch.device) -> FeatureRows:
    """On CUDA all rows move over when they take at most half of the free memory; else batches do."""
    if device.type != "cuda" or not isinstance(rows, RowsInMemory):
        return rows
    free, _ = torch.cuda.mem_get_info(device)
    return RowsInMemory(rows.rows.to(device)) if 2 * rows.rows.nbytes <= free else rows
