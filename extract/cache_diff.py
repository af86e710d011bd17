"""Where two feature caches differ: video by video, row by row, features measured in their own deviations."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.backbones import raise_small
from extract.cache import CacheFile, ClipRows, VideoResult, open_cache
from extract.errors import describe_difference
from extract.results import CONTENT_FIELDS

MOST_NAMED = 10


@dataclass(frozen=True)
class Largest:
    """The largest difference of one quantity, and the video that shows it; none where nothing differs."""

    value: float = 0.0
    video: str | None = None


@dataclass(frozen=True)
class CacheDifference:
    """What tells cache B from cache A; videos are named by id.

    `fields` lists, by name, the fields of the record in which a video differs; `shapes` the videos whose clips differ
    in number, place or rows; `largest` the differences of all others: time_s in seconds, box_px in pixels, score, and
    features_deviations in standard deviations of each dimension in A.
    """

    path_a: Path
    path_b: Path
    tolerance: float
    videos: int  # in both
    only_in_a: list[str]
    only_in_b: list[str]
    fields: dict[str, list[str]]
    shapes: list[str]
    largest: dict[str, Largest]
    fingerprint: list[str]  # said, but no difference of content

    @property
    def equal(self) -> bool:
        """Whether the contents are equal within the tolerance."""
        listed = (self.only_in_a, self.only_in_b, self.shapes, *self.fields.values())
        return not any(listed) and all(found.value <= self.tolerance for found in self.largest.values())

    def describe(self) -> list[str]:
        """Lines for people."""
        lines = [f"fingerprint: {line}" for line in self.fingerprint]
        lines += _name_some(f"only in {self.path_a}", self.only_in_a)
        lines += _name_some(f"only in {self.path_b}", self.only_in_b)
        for name, ids in self.fields.items():
            lines += _name_some(f"another {name}", ids)
        lines += _name_some("other clips or rows", self.shapes)
        for name, found in self.largest.items():
            if found.video is not None:
                lines.append(f"{name}: differs by up to {found.value:.3g}, in {found.video}")
        verdict = "equal" if self.equal else "different"
        return [*lines, f"{self.videos} videos in both: {verdict} within {self.tolerance:g}"]

    def to_json(self) -> dict[str, Any]:
        """One document; long lists are cut after a count."""
        return {
            "equal": self.equal,
            "tolerance": self.tolerance,
            "videos": self.videos,
            "only_in_a": _count(self.only_in_a),
            "only_in_b": _count(self.only_in_b),
            "fields": {name: _count(ids) for name, ids in self.fields.items()},
            "shapes": _count(self.shapes),
            # JSON knows no infinity.
            "largest": {
                n: {"value": min(f.value, sys.float_info.max), "video": f.video} for n, f in self.largest.items()
            },
            "fingerprint": self.fingerprint,
        }


def diff_caches(path_a: Path, path_b: Path, tolerance: float = 0.0) -> CacheDifference:
    """Compares two caches; `tolerance` is in the unit of each quantity, for features in deviations."""
    with open_cache(path_a) as a, open_cache(path_b) as b:
        index_a, index_b = _index(a), _index(b)
        common = sorted(index_a.keys() & index_b.keys())
        in_a, in_b = [index_a[video_id] for video_id in common], [index_b[video_id] for video_id in common]
        found = _Findings(a.fingerprint.backbone.dim)
        for ours, theirs in zip(a.read_results(in_a, -1), b.read_results(in_b, -1), strict=True):
            found.compare(ours, theirs)
        return CacheDifference(
            path_a=path_a,
            path_b=path_b,
            tolerance=tolerance,
            videos=len(common),
            only_in_a=sorted(index_a.keys() - index_b.keys()),
            only_in_b=sorted(index_b.keys() - index_a.keys()),
            fields=found.fields,
            shapes=found.shapes,
            largest={**found.largest, "features_deviations": found.measure_features(a, in_a)},
            fingerprint=describe_difference(
                a.fingerprint.model_dump(), b.fingerprint.model_dump(), words=("A has", "B has")
            ),
        )


@dataclass
class _Findings:
    """Grows with each pair of results; of the features it keeps the largest difference of each dimension."""

    dim: int
    fields: dict[str, list[str]] = field(default_factory=dict)
    shapes: list[str] = field(default_factory=list)
    largest: dict[str, Largest] = field(default_factory=lambda: {n: Largest() for n in ("time_s", "box_px", "score")})

    def __post_init__(self) -> None:
        self._feature_error = np.zeros(self.dim)
        self._feature_video = np.full(self.dim, "", dtype=object)

    def compare(self, a: VideoResult, b: VideoResult) -> None:
        """Takes two results of one video."""
        for name in CONTENT_FIELDS:
            if getattr(a.record, name) != getattr(b.record, name):
                self.fields.setdefault(name, []).append(a.record.id)
        if [_describe_shape(clip) for clip in a.clips] != [_describe_shape(clip) for clip in b.clips]:
            self.shapes.append(a.record.id)
            return
        for ours, theirs in zip(a.clips, b.clips, strict=True):
            self._note("time_s", a.record.id, [ours.start_s, ours.end_s], [theirs.start_s, theirs.end_s])
            self._note("time_s", a.record.id, ours.times_s, theirs.times_s)
            self._note("box_px", a.record.id, ours.boxes, theirs.boxes)
            self._note("score", a.record.id, ours.scores, theirs.scores)
            if not np.array_equal(ours.features, theirs.features):
                error = _subtract(ours.features, theirs.features).max(axis=0)  # (D,)
                worse = error > self._feature_error
                self._feature_error[worse], self._feature_video[worse] = error[worse], a.record.id

    def measure_features(self, cache: CacheFile, videos: Sequence[int]) -> Largest:
        """The largest difference of features, in deviations over the given videos of `cache`."""
        if not self._feature_error.any():
            return Largest()
        deviation = np.nan_to_num(measure_deviation(cache, videos), nan=0.0, posinf=0.0)
        relative = self._feature_error / raise_small(deviation)
        worst = int(relative.argmax())
        return Largest(float(relative[worst]), str(self._feature_video[worst]))

    def _note(self, name: str, video_id: str, a: Sequence[float] | NDArray[Any], b: Any) -> None:
        if not np.array_equal(a, b):
            value = float(_subtract(a, b).max())
            if value > self.largest[name].value:
                self.largest[name] = Largest(value, video_id)


def measure_deviation(cache: CacheFile, videos: Sequence[int]) -> NDArray[np.float64]:
    """Standard deviation (D,) of the features of some videos, a block at a time.

    Means and squares of blocks are joined by the parallel form of Welford's method (Chan, Golub and LeVeque, 1979).
    """
    count, mean, squares = 0, np.zeros(cache.fingerprint.backbone.dim), np.zeros(cache.fingerprint.backbone.dim)
    for block in _read_features(cache, videos):
        block_mean = block.mean(axis=0)
        shift, total = block_mean - mean, count + len(block)
        squares += ((block - block_mean) ** 2).sum(axis=0) + shift**2 * (count * len(block) / total)
        mean += shift * (len(block) / total)
        count = total
    return np.sqrt(squares / max(count, 1))


def _read_features(cache: CacheFile, videos: Sequence[int]) -> Iterator[NDArray[np.float64]]:
    for result in cache.read_results(videos, -1):
        for clip in result.clips:
            if len(clip.features):
                yield clip.features.astype(np.float64)


def _describe_shape(clip: ClipRows) -> tuple[int, ...]:
    return clip.track, clip.view, *clip.features.shape


def _subtract(a: Any, b: Any) -> NDArray[np.float64]:
    """The size of each difference; what is not a number on one side only differs without bound."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        size = np.abs(first - second)
    return np.where(same, 0.0, np.where(np.isnan(size), np.inf, size))


def _index(cache: CacheFile) -> dict[str, int]:
    return {video_id: video for video, video_id in enumerate(cache.read_column("id"))}


def _count(ids: list[str]) -> dict[str, Any]:
    return {"count": len(ids), "first": ids[:MOST_NAMED]}


def _name_some(what: str, ids: list[str]) -> list[str]:
    more = ", ..." if len(ids) > MOST_NAMED else ""
    return [f"{what}: {len(ids)} videos ({', '.join(ids[:MOST_NAMED])}{more})"] if ids else []
