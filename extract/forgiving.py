"""A file to write to that never fails HDF5: the first refused write is remembered, and all that follow are dropped.

HDF5 that cannot flush a file ends the whole process with a segmentation fault when Python exits.
"""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class ForgivingFile(io.FileIO):
    """A new file; whoever writes it raises `refusal` after HDF5 has closed in peace."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.refusal: OSError | None = None

    def write(self, content: Buffer, /) -> int:
        """Writes, or pretends to."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            while rest and self.refusal is None:
                written = super().write(rest)  # a disk takes what still fits, and refuses the rest
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                rest = rest[written:]
        except OSError as error:
            self.refusal = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Truncates, or pretends to."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return size or 0
