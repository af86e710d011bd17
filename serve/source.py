"""The file that a verdict is about: its hash, and whether it stayed what it was while it was read."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from extract.errors import CancelledError, Reason, VideoError
from extract.isolation import Cancel

CHUNK_BYTES = 1 << 20
SMALL_BYTES = 1 << 30  # of a file without a score that is hashed all the same


class SourceFile:
    """A file as it is when scoring begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = _read_state(path)

    @property
    def size_bytes(self) -> int:
        """Its size; 0 for what is no file."""
        return self._state[0] if self._state else 0

    def hash(self, cancel: Cancel | None = None) -> str | None:
        """sha256 of its content; None for what is no file, or cannot be read. May be cancelled."""
        if self._state is None:
            return None
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    if cancel is not None and cancel.is_set():
                        raise CancelledError(f"reading {self.path} was cancelled")
                    digest.update(chunk)
        except OSError:
            return None
        return digest.hexdigest()

    def hash_small(self, cancel: Cancel | None = None) -> str | None:
        """The same, for a file that was refused: a huge one is not worth the time."""
        return self.hash(cancel) if self.size_bytes <= SMALL_BYTES else None

    def require_unchanged(self) -> None:
        """Raises VideoError for a file that has changed since: its hash and its score are of different contents."""
        if _read_state(self.path) != self._state:
            raise VideoError(Reason.DECODE_ERROR, f"{self.path} was changed while it was read; score it again")


def _read_state(path: Path) -> tuple[int, int, int] | None:
    """Size, time of change and identity; None for a pipe or device, which has no end to read to, and for nothing."""
    with suppress(OSError, ValueError):  # a name that no file can have
        if path.is_file():
            found = path.stat()
            return found.st_size, found.st_mtime_ns, found.st_ino
    return None
