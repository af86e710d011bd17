"""What extraction finds in one video: its record, the rows of its clips, a few sample crops; and the hash of it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.specs import Fingerprint, canonical_json

OK = "OK"
ORIGINAL_VIEW = 0  # the crop as it is; the number of its name in the view spec


@dataclass(frozen=True)
class VideoRecord:
    """What the cache knows of one video; `status` is OK or a Reason."""

    id: str
    path: str
    size: int
    mtime_ns: int
    sha256: str
    label: str
    group: str
    pair: str
    dataset: str
    method: str
    split: str
    protocol: str
    status: str
    detail: str


@dataclass(frozen=True)
class ClipRows:
    """The rows of one clip, before they are written."""

    track: int
    view: int
    start_s: float
    end_s: float
    times_s: NDArray[np.float64]  # (n,)
    boxes: NDArray[np.float32]  # (n, 4)
    scores: NDArray[np.float32]  # (n,)
    features: NDArray[np.float16]  # (n, D)


@dataclass(frozen=True)
class Sample:
    """One crop kept for parity checks; `row` counts within its video."""

    priority: int
    row: int
    crop: NDArray[np.uint8]  # (S, S, 3)


@dataclass(frozen=True)
class VideoResult:
    """Everything that extraction found in one video."""

    record: VideoRecord
    clips: tuple[ClipRows, ...] = ()
    samples: tuple[Sample, ...] = ()


class SamplePicker:
    """Keeps the few crops of one video that may become samples, however long it is.

    The choice is by hash of video and row, so it is the same in whatever order videos come.
    """

    def __init__(self, video_id: str, seed: int = 0, most: int = 4) -> None:
        self._key = f"{seed}:{video_id}"
        self._most = most
        self._rows = 0
        self.samples: tuple[Sample, ...] = ()

    def add(self, crops: NDArray[np.uint8]) -> None:
        """Offers the crops (n, S, S, 3) of the next rows."""
        offered = [Sample(self._rank(self._rows + i), self._rows + i, crop) for i, crop in enumerate(crops)]
        self._rows += len(crops)
        best = sorted([*self.samples, *offered], key=lambda sample: sample.priority)[: self._most]
        # A copy each: a view would keep the whole clip in memory.
        self.samples = tuple(Sample(s.priority, s.row, s.crop.copy()) for s in best)

    def _rank(self, row: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._key}:{row}".encode(errors="surrogateescape")).digest()[:8], "big")


# Where and when a video was read is no content; neither is the detail, which may name the path.
CONTENT_FIELDS = tuple(f.name for f in fields(VideoRecord) if f.name not in ("path", "mtime_ns", "detail"))
HASHED_AS = ("<f8", "<f4", "<f4", "<f2")  # as the columns are stored, on every machine


class ContentHash:
    """Hash of everything that was computed, fed in order of video id."""

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._digest = hashlib.sha256(canonical_json(fingerprint).encode())

    def add(self, record: VideoRecord, clips: Sequence[ClipRows]) -> None:
        """Takes the next video."""
        self._digest.update(json.dumps([getattr(record, name) for name in CONTENT_FIELDS]).encode())
        for clip in clips:
            place = [int(clip.track), int(clip.view), float(clip.start_s), float(clip.end_s), len(clip.features)]
            self._digest.update(json.dumps(place).encode())
            for values, dtype in zip(list_columns(clip), HASHED_AS, strict=True):
                self._digest.update(np.ascontiguousarray(values, dtype).data)

    def finish(self, samples: Iterable[tuple[str, Sample]]) -> str:
        """The hash in hex; `samples` are those the cache keeps, each with its video's id."""
        for video_id, sample in sorted(samples, key=lambda pair: (pair[0], pair[1].row)):
            self._digest.update(json.dumps([video_id, sample.row, *sample.crop.shape]).encode())
            self._digest.update(np.ascontiguousarray(sample.crop).data)
        return self._digest.hexdigest()


def list_columns(clip: ClipRows) -> tuple[NDArray[Any], ...]:
    """What a clip has of each row: time, box, score, features."""
    return clip.times_s, clip.boxes, clip.scores, clip.features
