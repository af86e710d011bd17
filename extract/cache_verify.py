"""Whether a feature cache is whole: every checksum, the tables against each other, each number, the content hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.cache import OK, SAMPLES, CacheFile, VideoResult, list_damage, open_cache
from extract.errors import FormatError, Reason
from extract.results import ContentHash

MOST_NAMED = 5


@dataclass(frozen=True)
class Verification:
    """What was checked in a sound cache."""

    path: Path
    datasets: int
    stored_bytes: int
    videos: int
    clips: int
    rows: int
    samples: int
    content_sha256: str


def verify_cache(path: Path) -> Verification:
    """Reads a whole cache; raises FormatError with everything that is wrong with it."""
    sizes, damaged = list_damage(path)
    if damaged:
        raise _refuse(path, [f"the checksum of {', '.join(damaged)} does not fit"])
    with open_cache(path) as cache:
        digest = ContentHash(cache.fingerprint)
        problems = [*_check_tables(cache), *_check_samples(cache)]
        for result in cache.read_results(range(cache.video_count), priority_up_to=-1):
            digest.add(result.record, result.clips)
            problems += _check_numbers(result)
        found = digest.finish((cache.videos[video].id, sample) for video, sample in cache.list_samples())
        if cache.content_sha256 != found:
            problems.append(f"its content hash is {found}, expected {cache.content_sha256}")
        if problems:
            raise _refuse(path, problems)
        return Verification(
            path=path,
            datasets=len(sizes),
            stored_bytes=sum(sizes.values()),
            videos=cache.video_count,
            clips=len(cache.clips.video),
            rows=cache.rows,
            samples=len(cache.samples.row),
            content_sha256=found,
        )


def _check_tables(cache: CacheFile) -> Iterator[str]:
    videos = cache.videos
    for first, second in pairwise(videos):
        if second.id <= first.id:
            yield f"video {second.id} follows {first.id}, expected each id once and in order"
    clips = np.bincount(cache.clips.video, minlength=cache.video_count)
    for record, count in zip(videos, clips.tolist(), strict=True):
        if record.status != OK and record.status not in Reason.__members__:
            yield f"{record.id} has the status {record.status!r}, expected {OK} or one of {', '.join(Reason)}"
        if (record.status == OK) != (count > 0):
            yield f"{record.id} has the status {record.status} and {count} clips"
    least = cache.fingerprint.sampling.min_frames
    for clip in np.flatnonzero(cache.clips.length < least).tolist():
        name = videos[cache.clips.video[clip]].id
        yield f"a clip of {name} has {cache.clips.length[clip]} rows, expected at least {least}"
    for clip in np.flatnonzero(~(cache.clips.start_s <= cache.clips.end_s)).tolist():
        name = videos[cache.clips.video[clip]].id
        yield f"a clip of {name} lasts from {cache.clips.start_s[clip]} s to {cache.clips.end_s[clip]} s"


def _check_samples(cache: CacheFile) -> Iterator[str]:
    table = cache.samples
    if len(table.row) > SAMPLES:
        yield f"it has {len(table.row)} samples, expected {SAMPLES} at most"
    if len(np.unique(table.row)) != len(table.row):
        yield "two samples have one row"
    for video in np.unique(table.video).tolist():
        if cache.videos[video].split == "test":
            yield f"a sample shows the test video {cache.videos[video].id}"
    side = cache.fingerprint.backbone.crop_px
    shapes = {sample.crop.shape for _, sample in cache.list_samples()} - {(side, side, 3)}
    if shapes:
        yield f"samples have the shapes {sorted(shapes)}, expected {(side, side, 3)}"


def _check_numbers(result: VideoResult) -> Iterator[str]:
    for number, clip in enumerate(result.clips):
        columns: dict[str, NDArray[Any]] = {
            "features": clip.features,
            "times": clip.times_s,
            "boxes": clip.boxes,
            "scores": clip.scores,
        }
        for name, values in columns.items():
            if not np.isfinite(values).all():
                yield f"{name} of {result.record.id}, clip {number}, are not all finite"


def _refuse(path: Path, problems: list[str]) -> FormatError:
    more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
    return FormatError(f"{path} is damaged: {'; '.join(problems[:MOST_NAMED])}{more}; run `unmask extract` again")
