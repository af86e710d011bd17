"""Extraction: every video of a manifest through detector and backbone once, into a cache that survives a kill."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from extract.cache import open_cache
from extract.errors import UsageError
from extract.failures import write_failures
from extract.files import hash_file
from extract.manifest import ManifestVideo
from extract.parts import FileState, FinishedVideo, PartStore
from extract.pipeline import Extractor, Pipeline, StageTimes
from extract.results import OK, VideoRecord, VideoResult
from extract.versions import read_versions

Runner = Callable[[Sequence[ManifestVideo], Extractor, StageTimes], Iterator[VideoResult]]


class Watcher(Protocol):
    """Whoever watches a run."""

    def begin(self, todo: int, reused: int) -> None:
        """So many videos are to be done, so many are finished already."""
        ...

    def add(self, record: VideoRecord) -> None:
        """One more is done."""
        ...


@dataclass(frozen=True)
class Redo:
    """Which finished videos are done again.

    `retry` names statuses; with `rehash` a video is known by its content instead of by size and time of its file.
    """

    retry: frozenset[str] = frozenset()
    rehash: bool = False

    def wants(self, video: ManifestVideo, finished: FinishedVideo | None) -> bool:
        """True where a video has to be done."""
        if finished is None or finished.status in self.retry:
            return True
        state = FileState.read(video.path)
        if not self.rehash or state.size != finished.state.size:
            return state != finished.state
        try:
            return state.size >= 0 and hash_file(video.path) != finished.sha256
        except OSError:
            return True  # doing it again says why it cannot be read


@dataclass(frozen=True)
class Extraction:
    """How a run ended: what was taken from earlier ones, the statuses of all videos, and where the time went."""

    out: Path
    failures: Path
    reused: int
    status_counts: dict[str, int]
    wall_s: float
    busy: StageTimes


def run_locally(videos: Sequence[ManifestVideo], extractor: Extractor, busy: StageTimes) -> Iterator[VideoResult]:
    """Extracts on this machine; results come in any order."""
    with Pipeline(extractor, busy) as pipeline:
        yield from pipeline.run(videos)


@dataclass(frozen=True)
class RunConfig:
    """How a run is done; nothing of it changes a number in the cache."""

    part_s: float = 60.0
    redo: Redo = field(default_factory=Redo)
    runner: Runner = run_locally


def extract_manifest(
    videos: Sequence[ManifestVideo],
    extractor: Extractor,
    out: Path,
    config: RunConfig | None = None,
    watcher: Watcher | None = None,
) -> Extraction:
    """Fills `out` with the features of all videos; run again after a kill, it continues.

    A video counts as finished while its file's size and time stay the same. Raises MismatchError where `out` was
    begun with other specs or weights.
    """
    config = config or RunConfig()
    begun = time.perf_counter()
    busy = StageTimes()
    with PartStore(out, extractor.fingerprint, _describe_software(extractor), config.part_s) as store:
        finished = store.find_finished()
        store.refuse_strangers(finished, videos)
        # Sorted, as they will stand in the cache: neighbours there are then neighbours in a part.
        todo = [v for v in sorted(videos, key=attrgetter("id")) if config.redo.wants(v, finished.get(v.id))]
        if config.redo.rehash:
            store.touch(_find_touched(videos, todo, finished))
        if watcher is not None:
            watcher.begin(len(todo), len(videos) - len(todo))
        try:
            for result in config.runner(todo, extractor, busy) if todo else ():
                written = time.perf_counter()
                store.add(result)
                busy.write_s += time.perf_counter() - written
                if watcher is not None:
                    watcher.add(result.record)
        finally:
            store.flush()  # an interrupted run keeps what it has
        if store.is_complete(videos):
            store.discard_parts()
        else:
            store.assemble(videos)
    with open_cache(out) as cache:
        statuses = cache.read_column("status")
        # All records are read only where one is wanted: they are many.
        failures = write_failures(out, [cache.videos[i] for i, status in enumerate(statuses) if status != OK])
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    return Extraction(out, failures, len(videos) - len(todo), counts, time.perf_counter() - begun, busy)


def _find_touched(
    videos: Sequence[ManifestVideo], todo: Sequence[ManifestVideo], finished: Mapping[str, FinishedVideo]
) -> dict[str, FileState]:
    """Files that are not done again although their time is new."""
    redone = {video.id for video in todo}
    states = {video.id: FileState.read(video.path) for video in videos if video.id not in redone}
    return {name: state for name, state in states.items() if state != finished[name].state}


def select_shard(videos: Sequence[ManifestVideo], text: str) -> list[ManifestVideo]:
    """The videos of shard `I/N`, 1/N to N/N: every N-th by id, so that shards are alike and none is left out."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"shard {text!r} is not understood; write I/N with I from 1 to N, for example 1/4")
    chosen = sorted(videos, key=attrgetter("id"))[int(index) - 1 :: int(count)]
    if not chosen:
        raise UsageError(f"shard {text} of {len(videos)} videos is empty; take at most {len(videos)} shards")
    return chosen


def _describe_software(extractor: Extractor) -> dict[str, str]:
    packages = ("unmask", "av", "numpy", "opencv-python-headless")
    return {
        "python": platform.python_version(),
        **read_versions(packages),
        "backbone_provider": extractor.backbone.provider,
        "detector_provider": extractor.detector.provider,
    }
