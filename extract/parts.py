"""An extraction in progress: finished videos in parts on disk, so that a kill costs about a minute of results."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from glob import escape
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from extract.cache import VideoRecord, VideoResult, open_cache, read_fingerprint, require_fingerprint, write_cache
from extract.cache_merge import SourceTable, find_last_priority, list_parts, name_parts, read_in_order
from extract.errors import MismatchError
from extract.files import translate_os_errors
from extract.lock import Lock, is_other_process
from extract.manifest import ManifestVideo
from extract.specs import Fingerprint

MOST_PENDING_BYTES = 256 << 20
MANIFEST_COLUMNS = ("label", "group", "pair", "dataset", "method", "split", "protocol")


class FileState(NamedTuple):
    """What tells, without reading it, whether a video file is still the one that was extracted."""

    size: int
    mtime_ns: int

    @classmethod
    def read(cls, path: Path) -> FileState:
        """The state of a file; a missing one has size and time -1."""
        try:
            stat = os.stat(path)
        except OSError:
            return cls(-1, -1)
        return cls(stat.st_size, stat.st_mtime_ns)


class FinishedVideo(NamedTuple):
    """What is known of a video that an earlier run has finished."""

    state: FileState
    sha256: str
    status: str


class PartStore:
    """Collects results beside the cache to be (`features.h5.parts/`) and assembles it from them.

    Results come in any order; of two results of one video the later counts. One process at a time has the store of an
    output, from its making until `discard_parts` or `close`.
    """

    def __init__(
        self,
        out: Path,
        fingerprint: Fingerprint,
        provenance: dict[str, Any],
        part_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out
        self._directory = name_parts(out)
        self._fingerprint = fingerprint
        self._provenance = provenance
        self._part_s = part_s
        self._clock = clock
        self._pending: list[VideoResult] = []
        self._pending_bytes = 0
        self._last_flush = self._last_add = clock()
        self._check_fingerprints()
        with translate_os_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)  # where nothing can be written, say so before the work
            self._lock = Lock(self._directory / "lock", f"fills {out}; let it finish, or choose another --out")
        self._check_fingerprints()  # again: another run may have finished while this one waited for the lock
        self._remove_strays()
        self._touched: dict[str, FileState] = {}
        self._next_part = 1 + max((int(part.stem) for part in list_parts(self.out)), default=-1)

    def __enter__(self) -> PartStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets another run have the output; what is pending is lost, so flush before."""
        self._lock.release()

    def find_finished(self) -> dict[str, FinishedVideo]:
        """Videos that need no work, by id."""
        finished: dict[str, FinishedVideo] = {}
        for source in self._list_sources():
            with open_cache(source) as cache:
                states = map(FileState, cache.read_column("size"), cache.read_column("mtime_ns"))
                found = map(FinishedVideo, states, cache.read_column("sha256"), cache.read_column("status"))
                finished.update(zip(cache.read_column("id"), found, strict=True))
        return finished

    def refuse_strangers(self, finished: Collection[str], videos: Sequence[ManifestVideo]) -> None:
        """Raises MismatchError where some finished videos are not among `videos`."""
        strangers = sorted(set(finished) - {video.id for video in videos})
        if strangers:
            raise MismatchError(
                f"{self.out} or its parts hold {len(strangers)} videos that are not to be done "
                f"(first: {strangers[0]}); choose another --out, or take the manifest or shard it was begun with"
            )

    def touch(self, states: Mapping[str, FileState]) -> None:
        """Files, by video id, that have a new time and the content they had: the cache will know them by it."""
        self._touched = dict(states)

    def add(self, result: VideoResult) -> None:
        """Keeps one result; writes a part when a minute or 256 MiB have gathered, or results come slowly."""
        self._pending.append(result)
        self._pending_bytes += sum(c.features.nbytes for c in result.clips) + sum(s.crop.nbytes for s in result.samples)
        now = self._clock()
        waited_s, self._last_add = now - self._last_add, now
        # After half a minute without a result the next one may take as long: this one must not wait for it.
        due = now - self._last_flush >= self._part_s or waited_s >= self._part_s / 2
        if due or self._pending_bytes >= MOST_PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending as one part."""
        if self._pending:
            newest = {result.record.id: result for result in self._pending}
            ordered = [newest[video_id] for video_id in sorted(newest)]  # so that assembling reads neighbours at once
            part = self._directory / f"{self._next_part:06d}.h5"
            write_cache(part, self._fingerprint, self._provenance, ordered)
            self._next_part += 1
        self._pending, self._pending_bytes, self._last_flush = [], 0, self._clock()

    def is_complete(self, videos: Sequence[ManifestVideo]) -> bool:
        """True where the assembled cache says all of `videos` as the manifest has them now, and no part is left."""
        if self._pending or self._touched or self._list_sources() != [self.out]:
            return False
        ordered = sorted(videos, key=attrgetter("id"))
        with open_cache(self.out) as cache:
            return cache.read_column("path") == [str(video.path) for video in ordered] and all(
                cache.read_column(name) == list(map(attrgetter(name), ordered)) for name in ("id", *MANIFEST_COLUMNS)
            )

    def assemble(self, videos: Sequence[ManifestVideo]) -> None:
        """Writes the cache from all parts, sorted by id, labels and splits as the manifest has them now."""
        self.flush()
        write_cache(self.out, self._fingerprint, self._provenance, self._merge({v.id: v for v in videos}))
        self.discard_parts()

    def discard_parts(self) -> None:
        """Removes the parts, whose content the assembled cache holds, and lets another run have the output."""
        with suppress(OSError):
            for part in list_parts(self.out):
                part.unlink()  # the oldest first: one that outlives a kill must not hide a newer result
            shutil.rmtree(self._directory)
        self.close()

    def _merge(self, manifest: dict[str, ManifestVideo]) -> Iterator[VideoResult]:
        tables = []
        for source in self._list_sources():
            with open_cache(source) as cache:
                tables.append(SourceTable.read(cache))
        newest = {place.id: place for table in tables for place in table.places}
        self.refuse_strangers(newest, list(manifest.values()))
        kept = {(p.source, p.video) for p in newest.values() if manifest[p.id].split != "test"}
        places = [newest[video_id] for video_id in sorted(newest)]
        for result in read_in_order(places, self._fingerprint, find_last_priority(tables, kept)):
            record = label_record(result.record, manifest[result.record.id])
            state = self._touched.get(record.id)
            yield replace(result, record=record if state is None else replace(record, mtime_ns=state.mtime_ns))

    def _list_sources(self) -> list[Path]:
        """The assembled file, if any, then the parts, oldest first."""
        return [p for p in [self.out] if p.exists()] + list_parts(self.out)

    def _remove_strays(self) -> None:
        """Removes what killed runs left half written."""
        temporaries = self.out.parent.glob(f".{escape(self.out.name)}.*.tmp")
        for stray in (*self._directory.glob(".*.tmp"), *temporaries):
            pid = stray.name.split(".")[-2]
            if pid.isdigit() and not is_other_process(int(pid)):
                with suppress(OSError):
                    stray.unlink()

    def _check_fingerprints(self) -> None:
        remedy = "choose another --out, or remove what is there"
        for source in self._list_sources():
            require_fingerprint(read_fingerprint(source), self._fingerprint, source, remedy)


def make_record(video: ManifestVideo, state: FileState, sha256: str, status: str, detail: str) -> VideoRecord:
    """The record of a video that was just done: what was found, and what the manifest says of it."""
    return VideoRecord(
        id=video.id,
        path=str(video.path),
        size=state.size,
        mtime_ns=state.mtime_ns,
        sha256=sha256,
        status=status,
        detail=detail,
        **{name: getattr(video, name) for name in MANIFEST_COLUMNS},
    )


def label_record(record: VideoRecord, video: ManifestVideo) -> VideoRecord:
    """The record with what the manifest says of the video."""
    return replace(record, path=str(video.path), **{name: getattr(video, name) for name in MANIFEST_COLUMNS})
