"""The verdict: what is said of one file, and everything it rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

DEMONSTRATION = "DEMONSTRATION: this model was made to show the pipeline and detects nothing reliably"
UNTRAINED = "UNTRAINED BACKBONE: its weights are random and this score means nothing"


class Outcome(StrEnum):
    """What a file is taken for."""

    REAL = "REAL"
    FAKE = "FAKE"
    UNCERTAIN = "UNCERTAIN"
    NOT_SCORABLE = "NOT_SCORABLE"


@dataclass(frozen=True)
class FrameScore:
    """One sampled frame; the box is x0, y0, x1, y1 in pixels of the upright frame."""

    time_s: float
    p_fake: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ClipScore:
    """One clip of a track."""

    start_s: float
    end_s: float
    logit: float
    p_fake: float
    frames: tuple[FrameScore, ...]


@dataclass(frozen=True)
class TrackScore:
    """One face followed through the video; its logit is the mean of its clips'."""

    track: int
    logit: float
    p_fake: float
    clips: tuple[ClipScore, ...]


@dataclass(frozen=True)
class ModelFacts:
    """Which model spoke; `id` is the sha256 of its scorer file."""

    id: str
    backbone: str
    detector: str
    unmask_version: str


@dataclass(frozen=True)
class Verdict:
    """The answer for one file.

    `p_fake`, `logit` are None exactly where the outcome is NOT_SCORABLE; then `reason` and `detail` say why. From the
    first number of `uncertain` up to the second, below it, the outcome is UNCERTAIN; `threshold` lies between them.
    """

    path: str
    sha256: str | None
    outcome: Outcome
    reason: str | None
    detail: str
    p_fake: float | None
    logit: float | None
    threshold: float
    uncertain: tuple[float, float]
    preset: str
    tracks: tuple[TrackScore, ...]
    model: ModelFacts
    provider: str
    purpose: str
    untrained_backbone: bool

    @property
    def notices(self) -> tuple[str, ...]:
        """What must stand beside the outcome wherever it is shown."""
        demo = (DEMONSTRATION,) if self.purpose == "demo" else ()
        return demo + ((UNTRAINED,) if self.untrained_backbone else ())

    def to_document(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        return {**asdict(self), "notices": list(self.notices)}
