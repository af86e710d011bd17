"""The layout of a feature cache on disk, and the writer that fills one from results, a chunk of rows at a time.

Every dataset is chunked and fletcher32-checked. A text column is one JSON list, compressed: HDF5 cannot check the
strings it stores itself, and reads a hundred thousand of them slowly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.results import ContentHash, Sample, VideoRecord, VideoResult
from extract.specs import Fingerprint

SAMPLES = 64
CHUNK_BYTES = 1 << 20

# Little-endian on every machine, and in the content hash too.
ROW_COLUMNS = {"features": "<f2", "rows/time_s": "<f8", "rows/box": "<f4", "rows/score": "<f4"}
CLIP_COLUMNS = {
    "video": "<i4", "track": "<i4", "view": "<i2", "start": "<i8", "length": "<i4", "start_s": "<f8", "end_s": "<f8",
}  # fmt: skip
SAMPLE_COLUMNS = {"priority": "<u8", "row": "<i8"}
NUMBER_COLUMNS = ("size", "mtime_ns")
TEXT_COLUMNS = tuple(f.name for f in fields(VideoRecord) if f.name not in NUMBER_COLUMNS)


def shape_rows(fingerprint: Fingerprint) -> dict[str, tuple[int, ...]]:
    """The shape of one row in each of the row columns."""
    return dict(zip(ROW_COLUMNS, ((fingerprint.backbone.dim,), (), (4,), ()), strict=True))


def count_row_bytes(fingerprint: Fingerprint) -> int:
    """Bytes of one row: its features, time, box and score."""
    return sum(prod(shape) * np.dtype(ROW_COLUMNS[name]).itemsize for name, shape in shape_rows(fingerprint).items())


class CacheWriter:
    """Fills a file that nobody reads yet; `file` is an open h5py.File."""

    def __init__(self, file: Any, fingerprint: Fingerprint) -> None:
        self._file = file
        self._records: list[VideoRecord] = []
        self._clips: list[tuple[int, int, int, int, int, float, float]] = []
        self._samples: list[tuple[int, int, str, Sample]] = []  # priority, row of the cache, video, sample
        self._rows = 0
        self._hash: ContentHash | None = ContentHash(fingerprint)
        shapes = shape_rows(fingerprint)
        self._columns = [_RowColumn(file, name, shapes[name], dtype) for name, dtype in ROW_COLUMNS.items()]

    def add(self, result: VideoResult) -> None:
        """Appends one result; memory holds no more than a chunk of rows and the tables."""
        record = result.record
        if self._records and record.id <= self._records[-1].id:
            self._hash = None  # a content hash is one of results in order of id
        if self._hash is not None:
            self._hash.add(record, result.clips)
        if result.samples and record.split != "test":
            self._samples += [(s.priority, self._rows + s.row, record.id, s) for s in result.samples]
            if len(self._samples) >= 2 * SAMPLES:
                self._keep_best_samples()
        for clip in result.clips:
            place = (len(self._records), clip.track, clip.view, self._rows, len(clip.features))
            self._clips.append((*place, clip.start_s, clip.end_s))
            rows: tuple[NDArray[Any], ...] = (clip.features, clip.times_s, clip.boxes, clip.scores)
            for column, values in zip(self._columns, rows, strict=True):
                column.append(values)
            self._rows += len(clip.features)
        self._records.append(record)

    def finish(self) -> str | None:
        """Writes the tables; the content hash, if the results came in order of id."""
        for column in self._columns:
            column.finish()
        for name in NUMBER_COLUMNS:
            _write_table(self._file, f"videos/{name}", np.array([getattr(r, name) for r in self._records], "<i8"))
        for name in TEXT_COLUMNS:
            text = json.dumps([getattr(r, name) for r in self._records]).encode()
            _write_table(self._file, f"videos/{name}", np.frombuffer(text, np.uint8), compression="gzip")
        for place, (name, dtype) in enumerate(CLIP_COLUMNS.items()):
            _write_table(self._file, f"clips/{name}", np.array([clip[place] for clip in self._clips], dtype))
        self._keep_best_samples()
        for place, (name, dtype) in enumerate(SAMPLE_COLUMNS.items()):
            _write_table(self._file, f"samples/{name}", np.array([kept[place] for kept in self._samples], dtype))
        crops = [sample.crop for *_, sample in self._samples]
        _write_table(self._file, "samples/crop", np.stack(crops) if crops else np.zeros((0, 1, 1, 3), np.uint8))
        if self._hash is None:
            return None
        return self._hash.finish((video_id, sample) for _, _, video_id, sample in self._samples)

    def _keep_best_samples(self) -> None:
        self._samples = sorted(self._samples, key=lambda kept: kept[:2])[:SAMPLES]


class _RowColumn:
    """One dataset of rows that grows by whole chunks: a resize for each clip is what makes HDF5 slow."""

    def __init__(self, file: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self._file = file
        self._name = name
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._chunk = _fit_chunk(shape, self._dtype)
        self._waiting: list[NDArray[Any]] = []
        self._waiting_rows = 0
        self._dataset: Any = None

    def append(self, values: NDArray[Any]) -> None:
        self._waiting.append(values)
        self._waiting_rows += len(values)
        if self._waiting_rows >= self._chunk:
            whole = self._waiting_rows - self._waiting_rows % self._chunk
            self._flush(whole)

    def finish(self) -> None:
        if self._waiting_rows or self._dataset is None:
            self._flush(self._waiting_rows)

    def _flush(self, rows: int) -> None:
        block = self._join()
        # The rest is copied: a view would keep the block, and with it the results it came from.
        self._waiting, self._waiting_rows = [block[rows:].copy()], len(block) - rows
        if self._dataset is None:
            # A cache smaller than a chunk has a chunk of its own size.
            chunks = (max(1, min(self._chunk, rows)), *self._shape)
            empty, most = (0, *self._shape), (None, *self._shape)
            self._dataset = self._file.create_dataset(
                self._name, empty, self._dtype, maxshape=most, chunks=chunks, fletcher32=True
            )
        if rows:
            start = self._dataset.shape[0]
            self._dataset.resize(start + rows, axis=0)
            self._dataset[start:] = block[:rows]

    def _join(self) -> NDArray[Any]:
        empty = np.empty((0, *self._shape), self._dtype)
        return np.concatenate([empty, *self._waiting], dtype=self._dtype, casting="same_kind")


def _write_table(file: Any, name: str, values: NDArray[Any], **options: Any) -> None:
    if not len(values):  # HDF5 has no filters for nothing
        file.create_dataset(name, data=values)
        return
    chunks = (min(len(values), _fit_chunk(values.shape[1:], values.dtype)), *values.shape[1:])
    file.create_dataset(name, data=values, chunks=chunks, fletcher32=True, **options)


def _fit_chunk(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    return max(1, CHUNK_BYTES // (prod(shape) * dtype.itemsize))
