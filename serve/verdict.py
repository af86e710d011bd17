"""The verdict: what is said of one file, and everything it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from extract.errors import FormatError

FORMAT = "unmask-verdict/1"
DEMONSTRATION = "DEMONSTRATION: this model was made to show the pipeline and detects nothing reliably"
UNTRAINED = "UNTRAINED BACKBONE: its weights are random and this score means nothing"


class Outcome(StrEnum):
    """What a file is taken for."""

    REAL = "REAL"
    FAKE = "FAKE"
    UNCERTAIN = "UNCERTAIN"
    NOT_SCORABLE = "NOT_SCORABLE"


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One sampled frame; the box is x0, y0, x1, y1 in pixels of the upright frame."""

    time_s: float
    p_fake: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ClipScore:
    """One clip of a track; `counted` where the contract lets it count towards the video's score."""

    start_s: float
    end_s: float
    logit: float
    p_fake: float
    counted: bool
    frames: tuple[FrameScore, ...]


@dataclass(frozen=True)
class Interval:
    """A stretch in which a face looks fake frame after frame; `p_fake` is the highest of its frames."""

    start_s: float
    end_s: float
    p_fake: float


@dataclass(frozen=True)
class TrackScore:
    """One face followed through the video.

    Its logit is the mean over its counted clips, or over all of them where none counts: then the contract judges
    videos by another face, and this one is scored beside it.
    """

    track: int
    logit: float
    p_fake: float
    counted: bool
    clips: tuple[ClipScore, ...]
    intervals: tuple[Interval, ...]

    @property
    def frames(self) -> Iterator[FrameScore]:
        """The frames of all its clips, in order."""
        return (frame for clip in self.clips for frame in clip.frames)


@dataclass(frozen=True)
class FileFacts:
    """What the file says of its video, read before decoding; pixels are those of the stored frame."""

    size_bytes: int
    container: str
    codec: str
    width: int
    height: int
    frames: int
    duration_s: float


@dataclass(frozen=True)
class ModelFacts:
    """Which model spoke; `id` is the sha256 of its scorer file, `datasets` what its head was trained on."""

    id: str
    backbone: str
    precision: str
    head: str
    detector: str
    datasets: tuple[str, ...]
    unmask_version: str


@dataclass(frozen=True)
class Rates:
    """What the threshold did on the videos it was chosen on, and what it does on new ones of their kind at the least.

    The bounds hold with 95 % confidence; `target` is met by them only where `guaranteed`. `source` says how those
    videos were scored.
    """

    target: str
    recall: float
    fpr: float
    recall_bound: float
    fpr_bound: float
    guaranteed: bool
    n_fake: int
    n_real: int
    source: str


@dataclass(frozen=True)
class Odds:
    """The same where a share of `prevalence` of all videos is fake.

    `p_fake` is the file's probability there; `ppv` is the share of fakes among all videos that this threshold flags,
    `npv` the share of real ones among the others; the `_low` are what they are with the bounds of the rates. None
    where the threshold's rates are not known, or where nothing is flagged.
    """

    prevalence: float
    p_fake: float | None
    ppv: float | None
    ppv_low: float | None
    npv: float | None
    npv_low: float | None


@dataclass(frozen=True)
class Verdict:
    """The answer for one file.

    `p_fake`, `logit` are None exactly where the outcome is NOT_SCORABLE; then `reason` and `detail` say why. From the
    first number of `uncertain` up to the second, below it, the outcome is UNCERTAIN; `threshold` lies between them. A
    face that does not count and yet passes the threshold makes a REAL video UNCERTAIN too, and `detail` names it.
    `face` is the track that gave the video its score. `rates` is None for a threshold that the model does not know,
    `odds` where no prevalence was named.
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
    rates: Rates | None
    odds: Odds | None
    face: int | None
    tracks: tuple[TrackScore, ...]
    file: FileFacts | None
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
        return {"format": FORMAT, **asdict(self), "notices": list(self.notices)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Verdict:
        """The verdict that gave this document; raises FormatError for anything else."""
        try:
            return _make_reader().validate_python({name: document[name] for name in cls.__dataclass_fields__})
        except (ValidationError, KeyError) as error:
            raise FormatError(f"this is no verdict of the format {FORMAT}: {error}") from error


@cache
def _make_reader() -> TypeAdapter[Verdict]:
    return TypeAdapter(Verdict)
