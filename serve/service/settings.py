"""What an operator chooses: where jobs are kept, what decides, how large a video may be, how many may wait."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extract.errors import UsageError
from extract.limits import DEFAULT_LIMITS, MediaLimits

DAY_S = 24 * 3600.0
HOUR_S = 3600.0
POSITIVE = (
    "most_bytes", "most_duration_s", "most_pixels", "most_queued", "most_queued_each", "jobs", "keep_results_s",
    "sync_bytes", "sync_s",
)  # fmt: skip
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


def parse_pixels(text: str) -> int:
    """Reads how many pixels a frame may have, from its sides or in millions: 3840x2160, or 8.3MP."""
    sides = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    millions = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?MP", text.strip(), re.IGNORECASE)
    pixels = int(sides[1]) * int(sides[2]) if sides else round(float(millions[1]) * 1e6) if millions else 0
    if not 1 <= pixels < 1 << 30:
        raise UsageError(
            f"the frame size {text!r} is not understood or cannot be; write for example 3840x2160 or 8.3MP"
        )
    return pixels


@dataclass(frozen=True)
class Settings:
    """Limits and policies of one service."""

    data: Path
    most_bytes: int = 2 << 30
    most_duration_s: float = 3600.0
    most_pixels: int = DEFAULT_LIMITS.most_pixels  # of a frame
    most_queued: int = 100
    most_queued_each: int = 100  # of one owner
    jobs: int = 1  # scored at the same time
    keep_uploads_s: float = 0.0  # after the end of their job
    keep_results_s: float = 30 * DAY_S
    sync_bytes: int = 50 << 20
    sync_s: float = 30.0  # of footage, for an answer in the same request
    patience_s: float = 60.0  # without a byte of an upload
    choices: dict[str, Any] = field(default_factory=dict)  # what decides: preset, threshold, prevalence, tracks

    def __post_init__(self) -> None:
        """Raises UsageError for a service that could take nothing."""
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise UsageError(f"the service's {name} is {getattr(self, name)}; expected more than 0")
        if self.keep_uploads_s < 0:
            raise UsageError(f"the service's keep_uploads_s is {self.keep_uploads_s}; expected 0 or more")

    @property
    def limits(self) -> MediaLimits:
        """What a video may cost whoever reads it."""
        return MediaLimits(most_duration_s=self.most_duration_s, most_pixels=self.most_pixels)
