"""The feature cache `features.h5`: written in parts that are whole or absent, assembled into one checked file.

/features            (rows, D) float16
/rows/*              per row: time_s, box (x0, y0, x1, y1 in pixels), score (of the detection)
/clips/*             per clip: video, track, view, start, length, start_s, end_s; rows start .. start+length
/videos/*            per video, sorted by id: id, path, size, mtime_ns, sha256, label, group, pair, dataset,
                     method, split, protocol, status (OK or why there is none), detail; a text column is one
                     JSON list of strings in UTF-8
/samples/*           up to 64 crops of non-test videos: crop, priority, and the row each of them filled
attributes           format, fingerprint (JSON), provenance (JSON: versions and provider), content_sha256

All of it is fletcher32-checked, and HDF5's own structures carry checksums of theirs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.cache_writer import CLIP_COLUMNS, NUMBER_COLUMNS, ROW_COLUMNS, SAMPLES, CacheWriter, count_row_bytes
from extract.errors import FormatError, UsageError
from extract.files import write_aside
from extract.forgiving import ForgivingFile
from extract.results import OK, ClipRows, ContentHash, Sample, SamplePicker, VideoRecord, VideoResult
from extract.specs import Fingerprint, canonical_json, require_same

__all__ = [
    "FORMAT", "OK", "SAMPLES", "CacheFile", "ClipRows", "ClipTable", "FeatureCache", "Sample", "SamplePicker",
    "VideoRecord", "VideoResult", "count_row_bytes", "hash_content", "list_damage", "open_cache", "read_cache",
    "read_fingerprint", "require_fingerprint", "summarise_cache", "write_cache",
]  # fmt: skip

FORMAT = "unmask-features/2"
READ_BYTES = 16 << 20  # of rows at once
ATTRIBUTES = ("format", "fingerprint", "provenance", "content_sha256")
REMEDY = "run `unmask extract` again"
# What h5py raises on a file whose bytes were changed.
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError)


@dataclass(frozen=True)
class ClipTable:
    """All clips of a cache, one array a column; clip i is the rows start[i] .. start[i] + length[i]."""

    video: NDArray[np.int32]
    track: NDArray[np.int32]
    view: NDArray[np.int16]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


@dataclass(frozen=True)
class SampleTable:
    """The samples of a cache without their crops, one array a column."""

    priority: NDArray[np.uint64]
    row: NDArray[np.int64]  # of the whole cache
    video: NDArray[np.int64]
    row_in_video: NDArray[np.int64]


@dataclass(frozen=True)
class FeatureCache:
    """A cache in memory."""

    path: Path
    fingerprint: Fingerprint
    provenance: dict[str, Any]
    videos: list[VideoRecord]
    clips: ClipTable
    features: NDArray[np.float16]  # (rows, D)
    times_s: NDArray[np.float64]  # (rows,)
    boxes: NDArray[np.float32]  # (rows, 4)
    scores: NDArray[np.float32]  # (rows,)
    sample_crops: NDArray[np.uint8]  # (samples, S, S, 3)
    sample_rows: NDArray[np.int64]  # (samples,) the row of /features that each crop filled


def write_cache(
    path: Path, fingerprint: Fingerprint, provenance: dict[str, Any], results: Iterable[VideoResult]
) -> None:
    """Writes a whole cache file from results in order of id, holding few of them in memory at a time."""
    with write_aside(path) as temporary, _create_file(temporary) as file:
        writer = CacheWriter(file, fingerprint)
        for result in results:
            writer.add(result)
        content_sha256 = writer.finish()
        # Written last: a file without them is not a cache.
        attributes = {"provenance": canonical_json(provenance), "fingerprint": canonical_json(fingerprint)}
        if content_sha256 is not None:
            attributes["content_sha256"] = content_sha256
        for name, text in {**attributes, "format": FORMAT}.items():
            file.attrs[name] = np.bytes_(text.encode())  # of fixed length, so that a checksum covers it


class CacheFile:
    """A cache opened for reading: clips and samples loaded, columns of the videos when asked for, rows on disk."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self.fingerprint, self.provenance, self.content_sha256 = _read_header(path, file)
        self.clips = ClipTable(**{name: self._read(f"clips/{name}") for name in CLIP_COLUMNS})
        self.video_count = int(file["videos/size"].shape[0])
        self.rows = int(file["features"].shape[0])  # number of cached feature vectors
        self._require_sound()
        bounds = np.searchsorted(self.clips.video, np.arange(self.video_count + 1))
        self._clip_bounds: list[int] = bounds.tolist()
        self._row_bounds: list[int] = np.append(self.clips.start, self.rows)[bounds].tolist()
        self.samples = self._locate_samples()

    @cached_property
    def videos(self) -> list[VideoRecord]:
        """All records, in the order of the file."""
        columns = [self.read_column(f.name) for f in fields(VideoRecord)]
        return [VideoRecord(*values) for values in zip(*columns, strict=True)]

    @property
    def rows_per_video(self) -> list[int]:
        """How many rows each video has."""
        return [end - first for first, end in pairwise(self._row_bounds)]

    def read_column(self, name: str) -> list[Any]:
        """One field of all records: quicker than the records where no more is wanted."""
        stored = self._read(f"videos/{name}")
        try:
            values: list[Any] = stored.tolist() if name in NUMBER_COLUMNS else json.loads(stored.tobytes())
        except ValueError as error:
            raise FormatError(f"{self.path} is damaged: videos/{name} is no JSON ({error}); {REMEDY}") from error
        if len(values) != self.video_count:
            raise self._contradict(f"videos/{name} has {len(values)} entries, expected {self.video_count}")
        return values

    def read_results(self, chosen: Sequence[int], priority_up_to: int | None = None) -> Iterator[VideoResult]:
        """The results of some videos, by index; neighbours are read together, a few MiB at a time.

        Samples of a higher priority number than `priority_up_to` are left out: their crops take long to read.
        """
        for run in self._cut_runs(chosen):
            first, end = self._row_bounds[run.start], self._row_bounds[run.stop]
            features, times_s, boxes, scores = (self._read(name, first, end) for name in ROW_COLUMNS)
            for video in run:
                clips = []
                for clip in range(self._clip_bounds[video], self._clip_bounds[video + 1]):
                    start = int(self.clips.start[clip]) - first
                    rows = slice(start, start + int(self.clips.length[clip]))
                    clips.append(self._make_clip(clip, times_s[rows], boxes[rows], scores[rows], features[rows]))
                yield VideoResult(self.videos[video], tuple(clips), self._read_video_samples(video, priority_up_to))

    def read_features(self, first: int, out: NDArray[np.float16]) -> None:
        """Fills `out` (n, D) with the features of the rows from `first` on, without a copy between."""
        try:
            self._file["features"].read_direct(out, np.s_[first : first + len(out)])
        except DAMAGE as error:
            raise FormatError(f"{self.path} is damaged in features: {_first_line(error)}; {REMEDY}") from error

    def read_areas(self) -> NDArray[np.float64]:
        """Mean area (clips,) of each clip's boxes in square pixels."""
        corners = self._read("rows/box").astype(np.float64)  # (rows, 4)
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        ends = np.concatenate([[0.0], np.cumsum(areas)])
        start, length = self.clips.start, self.clips.length
        return np.asarray((ends[start + length] - ends[start]) / np.maximum(length, 1), np.float64)

    def read_samples(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The sample crops (n, S, S, 3) and the features (n, D) they gave when the cache was filled."""
        features = [self._read("features", row, row + 1)[0] for row in self.samples.row.tolist()]
        dim = self.fingerprint.backbone.dim
        return self._read("samples/crop"), np.array(features, np.float32).reshape(-1, dim)

    def read_all(self) -> FeatureCache:
        """The whole cache in memory."""
        features, times_s, boxes, scores = (self._read(name) for name in ROW_COLUMNS)
        return FeatureCache(
            path=self.path,
            fingerprint=self.fingerprint,
            provenance=self.provenance,
            videos=self.videos,
            clips=self.clips,
            features=features,
            times_s=times_s,
            boxes=boxes,
            scores=scores,
            sample_crops=self._read("samples/crop"),
            sample_rows=self.samples.row,
        )

    def list_samples(self) -> Iterator[tuple[int, Sample]]:
        """Every sample with the index of its video, one crop at a time."""
        for number, video in enumerate(self.samples.video.tolist()):
            yield video, self._read_sample(number)

    def _cut_runs(self, chosen: Sequence[int]) -> Iterator[range]:
        """Videos that follow one another and whose rows fit READ_BYTES together; one video at least."""
        most_rows = READ_BYTES // count_row_bytes(self.fingerprint)
        run = range(0)
        for video in chosen:
            fits = video == run.stop and self._row_bounds[video + 1] - self._row_bounds[run.start] <= most_rows
            if run and not fits:
                yield run
            run = range(run.start if run and fits else video, video + 1)
        if run:
            yield run

    def _make_clip(self, clip: int, *columns: NDArray[Any]) -> ClipRows:
        table = self.clips
        place = int(table.track[clip]), int(table.view[clip]), float(table.start_s[clip]), float(table.end_s[clip])
        return ClipRows(*place, *columns)

    def _read_video_samples(self, video: int, priority_up_to: int | None) -> tuple[Sample, ...]:
        numbers = self._samples_by_video.get(video, ())
        wanted = (n for n in numbers if priority_up_to is None or int(self.samples.priority[n]) <= priority_up_to)
        return tuple(self._read_sample(number) for number in wanted)

    @cached_property
    def _samples_by_video(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number, video in enumerate(self.samples.video.tolist()):
            found.setdefault(video, []).append(number)
        return found

    def _read_sample(self, number: int) -> Sample:
        crop = self._read("samples/crop", number, number + 1)[0]
        return Sample(int(self.samples.priority[number]), int(self.samples.row_in_video[number]), crop)

    def _locate_samples(self) -> SampleTable:
        priority, row = self._read("samples/priority"), self._read("samples/row")
        if not len(priority) == len(row) == len(self._file["samples/crop"]):
            raise self._contradict("samples have columns of different lengths")
        if len(row) and (row.min() < 0 or row.max() >= self.rows):
            raise self._contradict(f"a sample lies outside of the {self.rows} rows")
        video = np.searchsorted(np.array(self._row_bounds), row, side="right") - 1
        return SampleTable(priority, row, video, row - np.array(self._row_bounds, np.int64)[video])

    def _require_sound(self) -> None:
        """Refuses tables by which rows would be read wrongly."""
        table, dim = self.clips, self.fingerprint.backbone.dim
        if len({len(getattr(table, name)) for name in CLIP_COLUMNS}) > 1:
            raise self._contradict("clips have columns of different lengths")
        if any(self._file[name].shape[0] != self.rows for name in ROW_COLUMNS):
            raise self._contradict("rows have columns of different lengths")
        if self._file["features"].shape != (self.rows, dim):
            raise self._contradict(f"features are {self._file['features'].shape}, expected {(self.rows, dim)}")
        ends = np.cumsum(table.length, dtype=np.int64)
        consecutive = (table.length >= 0).all() and (table.start == ends - table.length).all()
        if not consecutive or int(table.length.sum(dtype=np.int64)) != self.rows:
            raise self._contradict(f"clips are not consecutive rows of the {self.rows} there are")
        videos = table.video
        if len(videos) and (videos[0] < 0 or videos[-1] >= self.video_count or (np.diff(videos) < 0).any()):
            raise self._contradict(f"clips name videos out of order, or beyond the {self.video_count} there are")

    def _contradict(self, what: str) -> FormatError:
        return FormatError(f"{self.path} is damaged, its tables contradict each other: {what}; {REMEDY}")

    def _read(self, name: str, first: int = 0, end: int | None = None) -> NDArray[Any]:
        try:
            values: NDArray[Any] = self._file[name][first:end]
        except DAMAGE as error:
            raise FormatError(f"{self.path} is damaged in {name}: {_first_line(error)}; {REMEDY}") from error
        return values


@contextmanager
def open_cache(path: Path) -> Iterator[CacheFile]:
    """Opens a cache; a file that is missing, damaged or of another version is refused in a sentence."""
    with _open_file(path) as file:
        try:
            cache = CacheFile(path, file)
        except DAMAGE as error:
            raise _refuse(path, error) from error
        yield cache


def read_fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a cache, without its tables."""
    with _open_file(path) as file:
        return _read_header(path, file)[0]


def read_cache(path: Path) -> FeatureCache:
    """Reads a whole cache into memory."""
    with open_cache(path) as cache:
        return cache.read_all()


def list_damage(path: Path) -> tuple[dict[str, int], list[str]]:
    """Reads every dataset in blocks: the stored bytes of each, and the names of those whose checksums do not fit."""
    names: list[str] = []
    sizes: dict[str, int] = {}
    damaged: list[str] = []
    with _open_file(path) as file:
        try:
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        except DAMAGE as error:
            raise _refuse(path, error) from error
        for name in names:
            try:
                sizes[name] = _read_through(file[name])
            except DAMAGE:
                damaged.append(name)
    return sizes, damaged


def summarise_cache(path: Path) -> dict[str, Any]:
    """What `unmask cache info` prints."""
    with open_cache(path) as cache:
        return {
            "path": str(path),
            "format": FORMAT,
            "videos": cache.video_count,
            "clips": len(cache.clips.video),
            "rows": cache.rows,
            "dim": cache.fingerprint.backbone.dim,
            "status_counts": dict(sorted(Counter(cache.read_column("status")).items())),
            "untrained_backbone": not cache.fingerprint.backbone.trained,
            "fingerprint_sha256": cache.fingerprint.sha256,
            "content_sha256": cache.content_sha256 or hash_content(cache),
            "provenance": cache.provenance,
            "fingerprint": cache.fingerprint.model_dump(mode="json"),
        }


def hash_content(cache: CacheFile) -> str:
    """Hash of everything that was computed, by video id; where and when it was written does not enter it."""
    digest = ContentHash(cache.fingerprint)
    ids = cache.read_column("id")
    for result in cache.read_results(sorted(range(len(ids)), key=ids.__getitem__), priority_up_to=-1):
        digest.add(result.record, result.clips)
    return digest.finish((ids[video], sample) for video, sample in cache.list_samples())


def require_fingerprint(found: Fingerprint, expected: Fingerprint, path: Path, remedy: str) -> None:
    """Refuses a cache that was made with other specs or weights, naming each field that differs."""
    require_same(found, expected, f"{path} was made differently", remedy)


@contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UsageError(f"no such feature cache: {path}; make one with `unmask extract`")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
        except DAMAGE as error:
            raise _refuse(path, error) from error
        yield file


def _refuse(path: Path, error: Exception) -> FormatError:
    return FormatError(f"{path} is damaged or not a feature cache: {_first_line(error)}; {REMEDY}")


@contextmanager
def _create_file(path: Path) -> Iterator[Any]:
    """A new HDF5 file; a write that the system refuses ends in that OSError, after HDF5 has closed in peace."""
    with ForgivingFile(path) as raw:
        try:
            # From version 1.10 on, HDF5's own structures carry checksums too.
            with h5py.File(raw, "w", libver=("v110", "v110")) as file:
                yield file
        finally:
            if raw.refusal is not None:
                raise raw.refusal


def _read_header(path: Path, file: Any) -> tuple[Fingerprint, dict[str, Any], str | None]:
    try:
        found, fingerprint_json, provenance_json, content = (_read_attribute(file, name) for name in ATTRIBUTES)
    except DAMAGE as error:
        raise _refuse(path, error) from error
    if found != FORMAT:
        raise FormatError(f"{path} has the format {found!r}, expected {FORMAT!r}; {REMEDY}")
    try:
        fingerprint, provenance = (
            Fingerprint.model_validate_json(fingerprint_json or ""),
            json.loads(provenance_json or ""),
        )
    except ValueError as error:
        raise FormatError(f"{path}: its fingerprint is not understood ({error}); {REMEDY}") from error
    return fingerprint, provenance, content


def _read_attribute(file: Any, name: str) -> str | None:
    value = file.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else value


def _read_through(dataset: Any) -> int:
    rows = max(1, READ_BYTES * len(dataset) // max(1, dataset.nbytes))
    for first in range(0, len(dataset), rows):
        dataset[first : first + rows]
    return int(dataset.id.get_storage_size())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
