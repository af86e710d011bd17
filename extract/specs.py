"""The specs: one definition of each choice that changes a feature, used by every stage.

They are stored in the cache's fingerprint and in an exported model's contract; two artefacts belong together
only when theirs are equal.
"""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from extract.errors import MismatchError, UsageError, describe_difference


class Spec(BaseModel):
    """A small immutable document that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SamplingSpec(Spec):
    """Which instants of a video are looked at.

    A video is cut into equal consecutive clips of at most `clip_s` seconds; `count` instants are spread evenly
    over each, every one in the middle of its share. A clip with fewer than `min_frames` distinct frames that
    show the face has no score.
    """

    kind: Literal["even"] = "even"
    count: int = Field(default=32, ge=1)
    clip_s: float = Field(default=10.0, gt=0)
    clips: int | None = Field(default=None, ge=1)
    min_frames: int = Field(default=4, ge=1)

    @classmethod
    def parse(cls, text: str, clips: int | None = None) -> SamplingSpec:
        """Reads `even:COUNT`; `clips` fixes the number of clips a video."""
        kind, _, count = text.partition(":")
        if kind != "even" or not count.isdecimal() or int(count) < 1:
            raise UsageError(f"sampling {text!r} is not understood; write even:COUNT, for example even:32")
        return cls(count=int(count), clips=clips, min_frames=min(4, int(count)))

    def cut_clips(self, duration_s: float, frames: int) -> list[tuple[float, float]]:
        """(start, end) of each clip in seconds from the first frame.

        There are never more clips than `frames` can fill, so a file that claims years costs nothing.
        """
        # A container's rounding must not add a clip to a video of just ten seconds.
        count = self.clips or max(1, math.ceil(round(duration_s / self.clip_s, 3)))
        count = min(count, max(1, frames // self.min_frames))
        edges = np.linspace(0.0, duration_s, count + 1).tolist()
        return list(pairwise(edges))

    def sample_instants(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """The instants of one clip, in seconds from the first frame, ascending."""
        return start_s + (np.arange(self.count) + 0.5) / self.count * (end_s - start_s)


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


Precision = Literal["fp32", "fp16"]


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
    sampling: SamplingSpec = SamplingSpec()
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
