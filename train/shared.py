"""One copy of a dataset's rows that several processes train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from extract.cache import CacheFile, open_cache
from extract.files import translate_os_errors
from train.dataset import ClipData, read_clip_data
from train.rows import RowsInMemory, StreamedRows, plan_memory, read_rows


@dataclass(frozen=True)
class SharedHandle:
    """What another process needs to train on the rows: the dataset, and the file in memory that they are mapped from.

    Without such a file they do not fit, and each process reads them from the cache. Names of videos are left out.
    """

    data: ClipData
    mapped: Path | None
    shape: tuple[int, int]


@contextmanager
def share_features(
    path: Path, memory: int | None = None, processes: int = 1
) -> Iterator[tuple[ClipData, SharedHandle]]:
    """Reads a cache once, for this process and others to attach to while the context lasts.

    `memory` is what this process may take in all, in bytes; where the rows do not fit, `processes` share it.
    """
    with ExitStack() as stack:
        with open_cache(path) as cache:
            shape = cache.rows, cache.fingerprint.backbone.dim
            most_bytes = plan_memory(2 * shape[0] * shape[1], memory, processes)
            streamed = StreamedRows(path, shape[1], (most_bytes or 0) // processes)
            mapped = None if most_bytes else _fill_memory_file(cache, stack)
            data = read_clip_data(cache, streamed)
        handle = SharedHandle(replace(data, records=(), lost=()), mapped, shape)
        yield replace(data, rows=attach(handle).rows), handle


def attach(handle: SharedHandle) -> ClipData:
    """The dataset with its rows, in whichever process; its records are empty."""
    if handle.mapped is None:
        return handle.data
    # "c": writing would make a private copy, and torch takes no memory that cannot be written.
    rows = np.memmap(handle.mapped, np.float16, "c", shape=handle.shape)
    return replace(handle.data, rows=RowsInMemory(torch.from_numpy(rows)))


def _fill_memory_file(cache: CacheFile, stack: ExitStack) -> Path:
    """All rows in a file that lives in memory, where the system has such files, and else in a temporary folder."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("features")
        stack.callback(os.close, descriptor)
        path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    else:
        path = Path(stack.enter_context(TemporaryDirectory())) / "features"
        path.touch()
    with translate_os_errors(path):
        read_rows(cache, 0, np.memmap(path, np.float16, "r+", shape=(cache.rows, cache.fingerprint.backbone.dim)))
    return path
