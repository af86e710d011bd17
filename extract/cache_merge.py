"""Several caches as one stream of results in order of id: so parts are assembled, and shards of a large job merged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.cache import (
    SAMPLES,
    CacheFile,
    VideoResult,
    count_row_bytes,
    hash_content,
    open_cache,
    require_fingerprint,
    write_cache,
)
from extract.errors import MismatchError, UsageError
from extract.results import CONTENT_FIELDS, ClipRows, list_columns
from extract.specs import Fingerprint

BLOCK_BYTES = 128 << 20  # of rows in memory at once
OPEN_FILES = 64


class Place(NamedTuple):
    """Where the result of one video lies."""

    id: str
    source: Path
    video: int  # its index there
    rows: int


@dataclass(frozen=True)
class SourceTable:
    """What has to be known of a cache to plan a merge, without its rows."""

    path: Path
    places: list[Place]
    sample_priority: NDArray[np.uint64]
    sample_video: NDArray[np.int64]

    @classmethod
    def read(cls, cache: CacheFile) -> SourceTable:
        """The table of an open cache."""
        columns = zip(cache.read_column("id"), cache.rows_per_video, strict=True)
        places = [Place(video_id, cache.path, video, rows) for video, (video_id, rows) in enumerate(columns)]
        return cls(cache.path, places, cache.samples.priority, cache.samples.video)


def read_in_order(
    places: Sequence[Place], fingerprint: Fingerprint, priority_up_to: int | None = None
) -> Iterator[VideoResult]:
    """The results at `places`, in that order, whichever files they lie in.

    A block of videos is read file by file, so a part is touched about once where neighbours lie together, and no more
    than BLOCK_BYTES of rows and OPEN_FILES files are held at a time.
    """
    with _OpenCaches() as caches:
        for block in _cut_blocks(places, BLOCK_BYTES // count_row_bytes(fingerprint)):
            yield from _read_block(block, caches, priority_up_to)


def find_last_priority(tables: Iterable[SourceTable], wanted: Collection[tuple[Path, int]]) -> int:
    """The highest priority number that can be among the best SAMPLES of the `wanted` videos (source and index)."""
    priorities = {
        priority
        for table in tables
        for priority, video in zip(table.sample_priority.tolist(), table.sample_video.tolist(), strict=True)
        if (table.path, video) in wanted
    }
    return max(sorted(priorities)[:SAMPLES], default=-1)


@dataclass(frozen=True)
class Merged:
    """What `unmask cache merge` did; `repeated` videos were in several inputs, with one and the same result."""

    out: Path
    inputs: int
    videos: int
    repeated: int
    content_sha256: str


def merge_caches(inputs: Sequence[Path], out: Path, overwrite: bool = False) -> Merged:
    """Writes one cache with the videos of all inputs; the content is that of one run over all of them."""
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another --out, or add --overwrite")
    for path in (*inputs, out):
        _require_assembled(path)
    tables, sources = [], []
    fingerprint: Fingerprint | None = None
    for path in dict.fromkeys(inputs):
        with open_cache(path) as cache:
            fingerprint = fingerprint or cache.fingerprint
            require_fingerprint(cache.fingerprint, fingerprint, path, f"{inputs[0]} and it cannot be one cache")
            tables.append(SourceTable.read(cache))
            sources.append(_describe_input(cache))
    if fingerprint is None:
        raise UsageError("nothing to merge; name at least one feature cache")
    places = sorted(place for table in tables for place in table.places)
    last = find_last_priority(tables, {(place.source, place.video) for place in places})
    results = _take_once(places, read_in_order(places, fingerprint, last))
    write_cache(out, fingerprint, {"merged_from": sources}, results)
    with open_cache(out) as cache:
        videos = cache.video_count
        return Merged(out, len(tables), videos, len(places) - videos, cache.content_sha256 or hash_content(cache))


def name_parts(out: Path) -> Path:
    """The folder in which an extraction gathers results until it writes `out`."""
    return out.with_name(out.name + ".parts")


def list_parts(out: Path) -> list[Path]:
    """The parts in that folder, the oldest first."""
    return sorted(name_parts(out).glob("[0-9]*.h5"))


def _require_assembled(path: Path) -> None:
    if list_parts(path):
        raise UsageError(f"{path} has newer results in {name_parts(path)}; let its `unmask extract` finish first")


def _describe_input(cache: CacheFile) -> dict[str, Any]:
    digest = cache.content_sha256 or hash_content(cache)
    return {"name": cache.path.name, "content_sha256": digest, "provenance": cache.provenance}


def _take_once(places: Sequence[Place], results: Iterator[VideoResult]) -> Iterator[VideoResult]:
    """Each video once; two results of one video have to be the same."""
    held: VideoResult | None = None
    held_place: Place | None = None
    for place, result in zip(places, results, strict=True):
        if held is not None and held_place is not None and held_place.id == place.id:
            _require_equal(held, result, held_place, place)
            # Each input keeps the samples that were the best among its own videos.
            samples = {sample.row: sample for sample in (*held.samples, *result.samples)}
            held = replace(held, samples=tuple(samples.values()))
            continue
        if held is not None:
            yield held
        held, held_place = result, place
    if held is not None:
        yield held


def _require_equal(first: VideoResult, second: VideoResult, place: Place, other: Place) -> None:
    differing = [name for name in CONTENT_FIELDS if getattr(first.record, name) != getattr(second.record, name)]
    if not differing and not _have_equal_rows(first.clips, second.clips):
        differing = ["rows"]
    if differing:
        raise MismatchError(
            f"{place.id} is in {place.source} and in {other.source} with a different {', '.join(differing)}; "
            "look with `unmask cache diff`, and extract the video again or leave one of the two out"
        )


def _have_equal_rows(first: Sequence[ClipRows], second: Sequence[ClipRows]) -> bool:
    if len(first) != len(second):
        return False
    return all(
        (a.track, a.view, a.start_s, a.end_s) == (b.track, b.view, b.start_s, b.end_s)
        and all(map(np.array_equal, list_columns(a), list_columns(b)))
        for a, b in zip(first, second, strict=True)
    )


def _cut_blocks(places: Sequence[Place], most_rows: int) -> Iterator[list[Place]]:
    block: list[Place] = []
    rows = 0
    for place in places:
        if block and rows + place.rows > most_rows:
            yield block
            block, rows = [], 0
        block.append(place)
        rows += place.rows
    if block:
        yield block


def _read_block(block: list[Place], caches: _OpenCaches, priority_up_to: int | None) -> Iterator[VideoResult]:
    by_source: dict[Path, list[int]] = {}
    for position, place in enumerate(block):
        by_source.setdefault(place.source, []).append(position)
    results: dict[int, VideoResult] = {}
    for source, positions in by_source.items():
        indices = [block[position].video for position in positions]
        results.update(zip(positions, caches.get(source).read_results(indices, priority_up_to), strict=True))
    for position in range(len(block)):
        yield results.pop(position)


class _OpenCaches:
    """Open caches by path; those unused for longest are closed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[CacheFile, ExitStack]] = OrderedDict()

    def __enter__(self) -> _OpenCaches:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close_oldest()

    def get(self, path: Path) -> CacheFile:
        if path not in self._open:
            if len(self._open) == OPEN_FILES:
                self._close_oldest()
            stack = ExitStack()
            self._open[path] = stack.enter_context(open_cache(path)), stack
        self._open.move_to_end(path)
        return self._open[path][0]

    def _close_oldest(self) -> None:
        _, (_, stack) = self._open.popitem(last=False)
        stack.close()
