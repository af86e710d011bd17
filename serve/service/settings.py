"""What an operator chooses: where jobs are kept, how large a video may be, how many may wait, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.errors import UsageError

DAY_S = 24 * 3600.0
HOUR_S = 3600.0
UNITS = {"KB": 10, "MB": 20, "GB": 30, "TB": 40}


def parse_size(text: str) -> int:
    """Reads a size such as 800MB or 4GB."""
    number, unit = text[:-2].strip(), text[-2:].upper()
    try:
        size = float(number) * (1 << UNITS[unit])
    except (ValueError, KeyError) as error:
        raise UsageError(f"the size {text!r} is not understood; write for example 800MB or 4GB") from error
    if not 1 <= size < 1 << 60:
        raise UsageError(f"the size {text!r} cannot be; write for example 800MB or 4GB")
    return int(size)


@dataclass(frozen=True)
class Settings:
    """Limits and policies of one service."""

    data: Path
    most_bytes: int = 2 << 30
    most_duration_s: float = 3600.0
    most_queued: int = 100
    jobs: int = 1  # scored at the same time
    keep_uploads_s: float = 0.0  # after the end of their job
    keep_results_s: float = 30 * DAY_S
    sync_bytes: int = 50 << 20
    sync_s: float = 30.0  # of footage, for an answer in the same request
    patience_s: float = 60.0  # without a byte of an upload

    def __post_init__(self) -> None:
        """Raises UsageError for a service that could take nothing."""
        for name in ("most_bytes", "most_duration_s", "most_queued", "jobs", "keep_results_s", "sync_bytes", "sync_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"the service's {name} is {getattr(self, name)}; expected more than 0")
        if self.keep_uploads_s < 0:
            raise UsageError(f"the service's keep_uploads_s is {self.keep_uploads_s}; expected 0 or more")
