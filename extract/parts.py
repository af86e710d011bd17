"""An extraction in progress: finished videos in parts on disk, so that a killed run loses a minute at most."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from extract.cache import VideoRecord, VideoResult, open_cache, require_fingerprint, write_cache
from extract.errors import MismatchError
from extract.files import translate_os_errors
from extract.manifest import ManifestVideo
from extract.specs import Fingerprint

MOST_PENDING_BYTES = 256 << 20


@dataclass(frozen=True)
class FileState:
    """What tells whether a video file is still the one that was extracted."""

    size: int
    mtime_ns: int

    @classmethod
    def read(cls, path: Path) -> FileState:
        """The state of a file; a missing one has size and time -1."""
        try:
            stat = path.stat()
        except OSError:
            return cls(-1, -1)
        return cls(stat.st_size, stat.st_mtime_ns)


class PartStore:
    """Collects results beside the cache to be (`features.h5.parts/`) and assembles it from them."""

    def __init__(
        self,
        out: Path,
        fingerprint: Fingerprint,
        provenance: dict[str, Any],
        part_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out
        self._directory = out.with_name(out.name + ".parts")
        self._fingerprint = fingerprint
        self._provenance = provenance
        self._part_s = part_s
        self._clock = clock
        self._pending: list[VideoResult] = []
        self._pending_bytes = 0
        self._last_flush = clock()
        self._check_fingerprints()
        with translate_os_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)  # where nothing can be written, say so before the work

    def find_finished(self) -> dict[str, FileState]:
        """Videos that need no work, by id, with the state their files had."""
        return {
            record.id: FileState(record.size, record.mtime_ns)
            for source in self._sources()
            for record in _read_records(source)
        }

    def add(self, result: VideoResult) -> None:
        """Keeps one result; writes a part when a minute or 256 MiB have gathered."""
        self._pending.append(result)
        self._pending_bytes += sum(c.features.nbytes for c in result.clips) + sum(s.crop.nbytes for s in result.samples)
        if self._clock() - self._last_flush >= self._part_s or self._pending_bytes >= MOST_PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending as one part."""
        if self._pending:
            number = 1 + max((int(p.stem) for p in self._directory.glob("*.h5")), default=-1)
            write_cache(self._directory / f"{number:06d}.h5", self._fingerprint, self._provenance, self._pending)
        self._pending, self._pending_bytes, self._last_flush = [], 0, self._clock()

    def is_complete(self, videos: Sequence[ManifestVideo]) -> bool:
        """True where the assembled cache says all of `videos` as the manifest has them now, and no part is left."""
        if self._pending or self._sources() != [self.out]:
            return False
        manifest = {video.id: video for video in videos}
        records = _read_records(self.out)
        return {r.id for r in records} == set(manifest) and all(label_record(r, manifest[r.id]) == r for r in records)

    def assemble(self, videos: Sequence[ManifestVideo]) -> None:
        """Writes the cache from all parts, sorted by id, labels and splits as the manifest has them now."""
        self.flush()
        self._refuse_strangers(videos)
        write_cache(self.out, self._fingerprint, self._provenance, self._merge({v.id: v for v in videos}))
        self.discard_parts()

    def discard_parts(self) -> None:
        """Removes the parts, whose content the assembled cache holds."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _merge(self, manifest: dict[str, ManifestVideo]) -> Iterator[VideoResult]:
        # A later part has the newer result of a video whose file was changed.
        newest = {record.id: source for source in self._sources() for record in _read_records(source)}
        # Extraction goes by id too, so neighbours here are neighbours in a part, and each is opened about once.
        for source, ids in groupby(sorted(newest), key=newest.__getitem__):
            with open_cache(source) as cache:
                index = {record.id: i for i, record in enumerate(cache.videos)}
                for result in cache.read_results([index[video_id] for video_id in ids]):
                    yield replace(result, record=label_record(result.record, manifest[result.record.id]))

    def _sources(self) -> list[Path]:
        """The assembled file, if any, then the parts, oldest first."""
        return [p for p in [self.out] if p.exists()] + sorted(self._directory.glob("[0-9]*.h5"))

    def _check_fingerprints(self) -> None:
        for source in self._sources():
            with open_cache(source) as cache:
                require_fingerprint(
                    cache.fingerprint,
                    self._fingerprint,
                    source,
                    "choose another --out, or remove what is there",
                )

    def _refuse_strangers(self, videos: Sequence[ManifestVideo]) -> None:
        strangers = sorted(set(self.find_finished()) - {video.id for video in videos})
        if strangers:
            raise MismatchError(
                f"{self.out} or its parts hold {len(strangers)} videos that the manifest does not list "
                f"(first: {strangers[0]}); choose another --out, or add them to the manifest"
            )


def label_record(record: VideoRecord, video: ManifestVideo) -> VideoRecord:
    """The record with what the manifest says of the video."""
    return replace(
        record,
        path=str(video.path),
        label=video.label,
        group=video.group,
        pair=video.pair,
        dataset=video.dataset,
        method=video.method,
        split=video.split,
        protocol=video.protocol,
    )


def _read_records(path: Path) -> list[VideoRecord]:
    with open_cache(path) as cache:
        return cache.videos
