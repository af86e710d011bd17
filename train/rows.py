"""Feature rows to train on: all of them in memory, or read from the cache in large blocks when they do not fit."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.cache import CacheFile, open_cache
from extract.errors import FormatError, MismatchError, UsageError

READ_ROWS = 1 << 13
CHECK_ROWS = 1 << 7  # what a processor's cache holds, with the copies that a check makes
RESERVE_BYTES = 600 << 20  # for what torch loads with its first step, the head, its activations and batches
WORKER_BYTES = 256 << 20  # of each further process, which shares what torch loads
LEAST_BYTES = 32 << 20  # of rows at once, below which reading takes longer than training
INFINITE = 0x7C00  # the exponent of a float16 that is infinite or not a number


class FeatureRows(Protocol):
    """The rows of a cache, wherever they are."""

    @property
    def dim(self) -> int:
        """Numbers a row."""
        ...

    @property
    def most_bytes(self) -> int | None:
        """How much may be loaded at once; None where everything is in memory already."""
        ...

    def load(self, first: int, end: int) -> Tensor:
        """Rows (end - first, D) float16."""
        ...

    def fill(self, first: int, rows: NDArray[np.float16]) -> None:
        """Writes the rows from `first` on into `rows` (n, D)."""
        ...


class RowsInMemory:
    """Rows (rows, D) float16 in memory, or on a GPU."""

    most_bytes = None

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.dim = int(rows.shape[1])

    def load(self, first: int, end: int) -> Tensor:
        """A view."""
        return self.rows[first:end]

    def fill(self, first: int, rows: NDArray[np.float16]) -> None:
        """Copies them."""
        rows[:] = self.rows[first : first + len(rows)].cpu().numpy()


class StreamedRows:
    """Rows that stay in their file and are read when they are needed, `most_bytes` of them at a time at most."""

    def __init__(self, path: Path, dim: int, most_bytes: int) -> None:
        self.dim = dim
        self.most_bytes = most_bytes
        self._path = path
        self._identity = _identify(path)
        self._stack = ExitStack()
        self._cache: CacheFile | None = None

    def load(self, first: int, end: int) -> Tensor:
        """Reads them from the file."""
        rows = np.empty((end - first, self.dim), np.float16)
        self.fill(first, rows)
        return torch.from_numpy(rows)

    def fill(self, first: int, rows: NDArray[np.float16]) -> None:
        """Reads them from the file, without a copy between."""
        if self._cache is None:
            if _identify(self._path) != self._identity:
                raise MismatchError(f"{self._path} was replaced while it is trained on; start again")
            self._cache = self._stack.enter_context(open_cache(self._path))
        read_rows(self._cache, first, rows)

    def close(self) -> None:
        """Closes the file."""
        self._cache = None
        self._stack.close()


def read_rows(cache: CacheFile, first: int, rows: NDArray[np.float16]) -> None:
    """Fills `rows` with those of a cache from `first` on; one that is not finite is refused."""
    for start in range(0, len(rows), READ_ROWS):
        block = rows[start : start + READ_ROWS]
        cache.read_features(first + start, block)
        require_finite(block, first + start, cache.path)


def require_finite(block: NDArray[np.float16], first: int, path: Path) -> None:
    """Refuses rows that would spoil every weight of a head."""
    for start in range(0, len(block), CHECK_ROWS):
        part = block[start : start + CHECK_ROWS]
        if ((part.view(np.uint16) & INFINITE) == INFINITE).any():
            raise FormatError(
                f"{path}: row {first + start} or one of the {len(part) - 1} after it is not finite: the backbone's "
                "features do not fit float16; wrap one with an output of smaller scale and extract again"
            )


def plan_memory(rows_bytes: int, limit: int | None, processes: int = 1) -> int | None:
    """How many bytes of rows to hold at once, of `rows_bytes` that there are; None for all of them.

    `limit` is what `processes` that train may take in all, in bytes; without one, most of what the machine has to
    spare. The amount is a power of two: as it decides in which order clips are shown, what else the process holds
    must not change it.
    """
    used = _read_resident()
    spare = _read_available() * 8 // 10 if limit is None else limit - used
    reserve, least = RESERVE_BYTES + (processes - 1) * WORKER_BYTES, processes * LEAST_BYTES
    room = spare - reserve
    if rows_bytes <= room:
        return None
    if room < least:
        may = f"the machine has {(used + spare) >> 20} MB" if limit is None else f"it may use {limit >> 20} MB"
        raise UsageError(
            f"the features take {rows_bytes >> 20} MB and to train on them in blocks takes at least "
            f"{(used + reserve + least) >> 20} MB, but {may}; give more with --memory, or free some"
        )
    return int(1 << (room.bit_length() - 1))


def _identify(path: Path) -> tuple[int, int, int, int]:
    """Which file lies at a path, as far as the system tells."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def parse_bytes(text: str) -> int:
    """Reads a size such as 800MB or 4GB."""
    units = {"KB": 10, "MB": 20, "GB": 30, "TB": 40}
    number, unit = text[:-2].strip(), text[-2:].upper()
    try:
        size = float(number) * (1 << units[unit])
    except (ValueError, KeyError) as error:
        raise UsageError(f"a size of memory {text!r} is not understood; write for example 800MB or 4GB") from error
    if not 0 < size < 1 << 60:
        raise UsageError(f"a size of memory {text!r} cannot be; write for example 800MB or 4GB")
    return int(size)


def _read_resident() -> int:
    """Bytes that this process has in memory; a guess where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 500 << 20


def _read_available() -> int:
    """Bytes that the machine, and a container's limit, still give; a guess where the system does not tell."""
    found = [8 << 30]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Cached file pages count as used, but the kernel gives them back.
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        found.append(limit - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        pass
    return max(0, min(found))
