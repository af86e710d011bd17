"""The errors a user may meet.

    UnmaskError              our fault to explain: one sentence, exit 1
    ├── UsageError           asked for something that cannot be: exit 2
    ├── FormatError          a file of ours that this version does not understand, or that is damaged
    ├── MismatchError        two artefacts that do not belong together; says which fields differ
    ├── DeviceError          the device asked for cannot run
    ├── MissingPackageError  an optional package, or a download, that is not there
    ├── DiskError            writing failed: disk full, no permission
    ├── CancelledError       whoever asked does not want the answer any more
    └── VideoError           one video cannot be used; a batch records it as a status and goes on

A message says what was found, what was expected and what to do, and names the path.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

STOPPED = 130  # the exit code after Ctrl-C


class UnmaskError(Exception):
    """Base of all errors that are shown to a user as one sentence."""

    exit_code = 1


class UsageError(UnmaskError):
    """The request itself is wrong (a path that does not exist, options that exclude each other)."""

    exit_code = 2


class FormatError(UnmaskError):
    """A file is damaged, of another kind, or of a format version this code does not read."""


class MismatchError(UnmaskError):
    """Two artefacts were made with different specs, weights or versions."""


class DeviceError(UnmaskError):
    """The requested device cannot run the model."""


class MissingPackageError(UnmaskError):
    """An optional package or a download is not available on this machine."""


class DiskError(UnmaskError):
    """The operating system refused to write."""


class CancelledError(UnmaskError):
    """Work was cancelled by the caller."""


class Reason(StrEnum):
    """Why a video has no score."""

    NO_FACE = "NO_FACE"
    TOO_SHORT = "TOO_SHORT"
    DECODE_ERROR = "DECODE_ERROR"
    DECODER_CRASHED = "DECODER_CRASHED"
    TOO_LARGE = "TOO_LARGE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMED_OUT = "TIMED_OUT"
    WORKER_DIED = "WORKER_DIED"
    NO_VIDEO_STREAM = "NO_VIDEO_STREAM"
    NOT_FOUND = "NOT_FOUND"
    NOT_FINITE = "NOT_FINITE"

    @classmethod
    def parse_retry(cls, texts: Iterable[str]) -> frozenset[Reason]:
        """Reads what --retry was given: reasons in any case, separated by commas; UsageError for one there is not."""
        names = sorted({name.strip().upper() for text in texts for name in text.split(",")})
        unknown = [name for name in names if name not in cls.__members__]
        if unknown:
            raise UsageError(f"--retry {unknown[0]} is no reason; known are {', '.join(cls)}")
        return frozenset(cls(name) for name in names)


class VideoError(UnmaskError):
    """One video cannot be used, for a reason that is recorded with it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def describe_difference(
    found: object, expected: object, path: str = "", words: tuple[str, str] = ("found", "expected")
) -> list[str]:
    """Lists the leaves in which two JSON-like documents differ, as `path: found X, expected Y`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            line
            for key in sorted({*found, *expected})
            for line in describe_difference(
                found.get(key, "nothing"), expected.get(key, "nothing"), f"{path}.{key}" if path else str(key), words
            )
        ]
    return [] if found == expected else [f"{path}: {words[0]} {found!r}, {words[1]} {expected!r}"]
