"""The specs: one definition of each choice that changes a feature, used by every stage.

They are stored in the cache's fingerprint and in an exported model's contract; two artefacts belong together
only when theirs are equal.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, TypeAdapter

from extract.errors import MismatchError, UsageError, describe_difference

SHORTEST = 4  # frames that show the face: fewer say nothing of how it moves
MOST_FPS = 60.0  # 600 crops a clip of ten seconds, 90 MB of 224 px


class Spec(BaseModel):
    """A small immutable document that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SamplingSpec(Spec, ABC):
    """Which instants of a video are looked at.

    A video is cut into equal consecutive clips of at most `clip_s` seconds; how instants lie in a clip is what the
    kinds of sampling differ in. A clip with fewer than `min_frames` distinct frames that show the face has no score.
    """

    clip_s: float = Field(default=10.0, gt=0)
    min_frames: int = Field(default=4, ge=1)

    @staticmethod
    def parse(text: str, clips: int | None = None) -> SamplingSpec:
        """Reads `even:COUNT` or `rate:FPS`; `clips` fixes the number of clips a video, of the former only."""
        kind, _, amount = text.partition(":")
        if kind == "even" and amount.isdecimal() and int(amount) >= 1:
            return EvenSampling(count=int(amount), clips=clips, min_frames=min(SHORTEST, int(amount)))
        fps = _parse_number(amount) if kind == "rate" else None
        if fps is None:
            raise UsageError(
                f"sampling {text!r} is not understood; write even:COUNT or rate:FPS, for example even:32 or rate:8"
            )
        if not 0 < fps <= MOST_FPS:
            raise UsageError(
                f"sampling {text!r} is out of range; expected more than 0 and at most {MOST_FPS:g} a second"
            )
        if clips is not None:
            raise UsageError(
                f"a fixed number of clips, {clips}, does not go with {text!r}, whose clips must stay short to fit in "
                "memory; leave --clips out, or sample even:COUNT"
            )
        return RateSampling.suit(fps)

    def count_clips(self, duration_s: float) -> int:
        """How many clips a video of such length is cut into, if it has the frames."""
        # A container's rounding must not add a clip to a video of just ten seconds.
        return max(1, math.ceil(round(duration_s / self.clip_s, 3)))

    def cut_clips(self, duration_s: float, frames: int) -> list[tuple[float, float]]:
        """(start, end) of each clip in seconds from the first frame.

        There are never more clips than `frames` can fill, so a file that claims years costs nothing.
        """
        count = min(self.count_clips(duration_s), max(1, frames // self.min_frames))
        edges = np.linspace(0.0, duration_s, count + 1).tolist()
        return list(pairwise(edges))

    @abstractmethod
    def sample_instants(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """The instants of one clip, in seconds from the first frame, ascending."""

    @abstractmethod
    def measure_step(self, length_s: float) -> float:
        """Seconds between two instants of a clip of such length."""


class EvenSampling(SamplingSpec):
    """`count` instants spread evenly over each clip, every one in the middle of its share."""

    kind: Literal["even"] = "even"
    count: int = Field(default=32, ge=1)
    clips: int | None = Field(default=None, ge=1)

    def count_clips(self, duration_s: float) -> int:
        """The number that was fixed, or one for every `clip_s`."""
        return self.clips or super().count_clips(duration_s)

    def sample_instants(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """As many in a short clip as in a long one."""
        return start_s + (np.arange(self.count) + 0.5) / self.count * (end_s - start_s)

    def measure_step(self, length_s: float) -> float:
        """The share of one instant."""
        return length_s / self.count


class RateSampling(SamplingSpec):
    """`fps` instants a second of presentation time, as many as fit in a clip: its sequence has a constant time step.

    Where the video itself has fewer frames a second, the step is that of its frames.
    """

    kind: Literal["rate"] = "rate"
    fps: float = Field(gt=0, le=MOST_FPS)

    @classmethod
    def suit(cls, fps: float) -> RateSampling:
        """Asks for no more frames than the shortest clip of a long video has: it lasts over half of `clip_s`."""
        fit = math.floor(fps * cls.model_fields["clip_s"].default / 2)
        return cls(fps=fps, min_frames=max(1, min(SHORTEST, fit)))

    def sample_instants(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """At (i + 0.5) / fps from the clip's start; at least one, and never more than a full clip at MOST_FPS has."""
        # Clips are longer than `clip_s` only where a few frames claim to last for hours.
        most = math.ceil(MOST_FPS * self.clip_s)
        count = min(most, max(1, math.ceil((end_s - start_s) * self.fps - 0.5)))
        first_s = min(0.5 / self.fps, (end_s - start_s) / 2)
        return start_s + first_s + np.arange(count) / self.fps

    def measure_step(self, length_s: float) -> float:
        """The same in every clip."""
        return 1 / self.fps


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_ANY_SAMPLING: TypeAdapter[SamplingSpec] = TypeAdapter(
    Annotated[EvenSampling | RateSampling, Field(discriminator="kind")]
)


class CropSpec(Spec):
    """How a face box becomes a square picture: padded with black at the frame's edge, area-resampled."""

    scale: float = Field(default=1.3, ge=1.0)
    size_px: int = Field(default=224, ge=16)
    resample: Literal["area"] = "area"


class DetectorSpec(Spec):
    """Which detector finds the faces, and every number that changes what it finds.

    `sha256` names a detector file; MTCNN has none and is named by package and version instead.
    """

    kind: Literal["retinaface", "mtcnn"]
    name: str
    sha256: str | None = None
    package: str | None = None
    max_side_px: int = 640
    min_score: float = 0.8
    nms_iou: float = 0.4
    max_faces: int = 16


class TrackSpec(Spec):
    """How boxes become tracks, where a scene cut ends them, and which of them are kept.

    `keep` is the main face of each clip, or every face seen in enough of its frames. A frame between two others in
    which the same boxes overlap by `interpolate_iou` is not detected: its boxes are interpolated, provided that each
    shows a picture that correlates by `interpolate_likeness` with those of both; None detects every frame.
    """

    keep: Literal["main", "all"] = "main"
    min_iou: float = 0.3
    max_gap_s: float = 1.0
    cut_overlap: float = 0.62
    cut_structure: float = 0.9
    interpolate_iou: float | None = 0.85
    interpolate_likeness: float = 0.95

    @classmethod
    def suit(cls, detector: DetectorSpec, keep: Literal["main", "all"] = "main") -> TrackSpec:
        """The tracks that go with a detector: MTCNN's boxes are not steady enough to interpolate between."""
        return cls(keep=keep, interpolate_iou=None) if detector.kind == "mtcnn" else cls(keep=keep)


class ViewSpec(Spec):
    """Which versions of a crop are stored; only the crop as it is."""

    names: tuple[str, ...] = ("original",)


Precision = Literal["fp32", "fp16", "int8"]


class BackboneSpec(Spec):
    """What a backbone file says of itself; `sha256` is that of the file, `parent` that of the fp32 file behind it."""

    name: str
    sha256: str
    weights: str
    weights_sha256: str
    dim: int
    crop_px: int
    precision: Precision = "fp32"
    parent: str | None = None
    trained: bool


class AggregateSpec(Spec):
    """Video logit = max over tracks of the mean over that track's clips."""

    over_tracks: Literal["max"] = "max"
    over_clips: Literal["mean"] = "mean"


class Fingerprint(Spec):
    """Everything that decides what a cached feature is."""

    backbone: BackboneSpec
    detector: DetectorSpec
    sampling: Annotated[SerializeAsAny[SamplingSpec], BeforeValidator(_ANY_SAMPLING.validate_python)] = EvenSampling()
    crop: CropSpec = CropSpec()
    tracks: TrackSpec = TrackSpec()
    views: ViewSpec = ViewSpec()

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON form."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()


def canonical_json(document: BaseModel | dict[str, Any]) -> str:
    """JSON with sorted keys and no spaces: equal documents give equal text."""
    plain = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def require_same(found: BaseModel, expected: BaseModel, what: str, remedy: str) -> None:
    """Refuses two documents that differ, naming each field that does."""
    lines = describe_difference(found.model_dump(mode="json"), expected.model_dump(mode="json"))
    if lines:
        raise MismatchError(f"{what} ({'; '.join(lines)}); {remedy}")
