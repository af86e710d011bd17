"""The feature cache `features.h5`: written in parts that are whole or absent, assembled into one checked file.

/features            (rows, D) float16, fletcher32-checked
/rows/*              per row: time_s, box (x0, y0, x1, y1 in pixels), score (of the detection)
/clips/*             per clip: video, track, view, start, length, start_s, end_s; rows start .. start+length
/videos/*            per video, sorted by id: id, path, size, mtime_ns, sha256, label, group, pair, dataset,
                     method, split, protocol, status (OK or why there is none), detail
/samples/*           up to 64 crops of non-test videos with the row each of them filled
attributes           format, fingerprint (JSON), provenance (JSON: versions and provider)
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.errors import FormatError, UsageError
from extract.files import write_aside
from extract.specs import Fingerprint, canonical_json, require_same

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

FORMAT = "unmask-features/2"
SAMPLES = 64
OK = "OK"


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
    """Writes a whole cache file from results in order of id, holding one result in memory at a time."""
    with write_aside(path) as temporary, _create_file(temporary) as file:
        writer = _Writer(file, fingerprint.backbone.dim)
        for result in results:
            writer.add(result)
        writer.finish()
        # Written last: a file without them is not a cache.
        file.attrs["provenance"] = canonical_json(provenance)
        file.attrs["fingerprint"] = canonical_json(fingerprint)
        file.attrs["format"] = FORMAT


class CacheFile:
    """A cache opened for reading, its small tables loaded and its rows still on disk."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self.fingerprint, self.provenance = _read_header(path, file)
        columns = [_read_column(file[f"videos/{f.name}"]) for f in fields(VideoRecord)]
        self.videos = [VideoRecord(*values) for values in zip(*columns, strict=True)]
        self.clips = ClipTable(**{f.name: file[f"clips/{f.name}"][:] for f in fields(ClipTable)})
        self._clip_bounds = np.searchsorted(self.clips.video, np.arange(len(self.videos) + 1))
        self._sample_rows: NDArray[np.int64] = file["samples/row"][:]

    @property
    def rows(self) -> int:
        """Number of cached feature vectors."""
        return int(self._file["features"].shape[0])

    def read_results(self, chosen: Sequence[int]) -> Iterator[VideoResult]:
        """The results of some videos, by index, read one at a time."""
        for index in chosen:
            clips = range(self._clip_bounds[index], self._clip_bounds[index + 1])
            yield VideoResult(
                record=self.videos[index],
                clips=tuple(self._read_clip(clip) for clip in clips),
                samples=self._read_samples(clips),
            )

    def read_samples(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The sample crops (n, S, S, 3) and the features (n, D) they gave when the cache was filled."""
        features = [self._file["features"][int(row)] for row in self._sample_rows]
        dim = self.fingerprint.backbone.dim
        return self._file["samples/crop"][:], np.array(features, np.float32).reshape(-1, dim)

    def read_all(self) -> FeatureCache:
        """The whole cache in memory."""
        file = self._file
        return FeatureCache(
            path=self.path,
            fingerprint=self.fingerprint,
            provenance=self.provenance,
            videos=self.videos,
            clips=self.clips,
            features=file["features"][:],
            times_s=file["rows/time_s"][:],
            boxes=file["rows/box"][:],
            scores=file["rows/score"][:],
            sample_crops=file["samples/crop"][:],
            sample_rows=file["samples/row"][:],
        )

    def _read_clip(self, clip: int) -> ClipRows:
        table = self.clips
        rows = slice(int(table.start[clip]), int(table.start[clip]) + int(table.length[clip]))
        return ClipRows(
            track=int(table.track[clip]),
            view=int(table.view[clip]),
            start_s=float(table.start_s[clip]),
            end_s=float(table.end_s[clip]),
            times_s=self._file["rows/time_s"][rows],
            boxes=self._file["rows/box"][rows],
            scores=self._file["rows/score"][rows],
            features=self._file["features"][rows],
        )

    def _read_samples(self, clips: range) -> tuple[Sample, ...]:
        if not clips:
            return ()
        first = int(self.clips.start[clips[0]])
        end = int(self.clips.start[clips[-1]] + self.clips.length[clips[-1]])
        group = self._file["samples"]
        return tuple(
            Sample(priority=int(group["priority"][i]), row=int(self._sample_rows[i]) - first, crop=group["crop"][i])
            for i in np.flatnonzero((self._sample_rows >= first) & (self._sample_rows < end))
        )


@contextmanager
def open_cache(path: Path) -> Iterator[CacheFile]:
    """Opens a cache; a file that is missing, damaged or of another version is refused in a sentence."""
    if not path.is_file():
        raise UsageError(f"no such feature cache: {path}; make one with `unmask extract`")
    with ExitStack() as stack:
        try:
            cache = CacheFile(path, stack.enter_context(h5py.File(path, "r")))
        except (OSError, KeyError) as error:
            raise FormatError(
                f"{path} is damaged or not a feature cache: {error}; run `unmask extract` again"
            ) from error
        try:
            yield cache
        except OSError as error:  # a checksum that does not fit its rows
            raise FormatError(f"{path} is damaged: {error}; run `unmask extract` again") from error


def read_cache(path: Path) -> FeatureCache:
    """Reads a whole cache into memory."""
    with open_cache(path) as cache:
        return cache.read_all()


def summarise_cache(path: Path) -> dict[str, Any]:
    """What `unmask cache info` prints."""
    with open_cache(path) as cache:
        statuses = [video.status for video in cache.videos]
        return {
            "path": str(path),
            "format": FORMAT,
            "videos": len(cache.videos),
            "clips": len(cache.clips.video),
            "rows": cache.rows,
            "dim": cache.fingerprint.backbone.dim,
            "status_counts": {status: statuses.count(status) for status in sorted(set(statuses))},
            "untrained_backbone": not cache.fingerprint.backbone.trained,
            "fingerprint_sha256": cache.fingerprint.sha256,
            "content_sha256": hash_content(cache),
            "provenance": cache.provenance,
            "fingerprint": cache.fingerprint.model_dump(mode="json"),
        }


def hash_content(cache: CacheFile) -> str:
    """Hash of everything that was computed, by video id; where and when it was written does not enter it."""
    digest = hashlib.sha256(canonical_json(cache.fingerprint).encode())
    order = sorted(range(len(cache.videos)), key=lambda i: cache.videos[i].id)
    for result in cache.read_results(order):
        record = asdict(result.record)
        del record["path"], record["mtime_ns"], record["detail"]  # the detail may name the path
        digest.update(canonical_json(record).encode())
        for clip in result.clips:
            place = [clip.track, clip.view, clip.start_s, clip.end_s]
            digest.update(json.dumps(place).encode())
            for column in (clip.times_s, clip.boxes, clip.scores, clip.features):
                digest.update(np.ascontiguousarray(column).tobytes())
        for sample in sorted(result.samples, key=lambda s: s.row):
            digest.update(str(sample.row).encode() + sample.crop.tobytes())
    return digest.hexdigest()


def require_fingerprint(found: Fingerprint, expected: Fingerprint, path: Path, remedy: str) -> None:
    """Refuses a cache that was made with other specs or weights, naming each field that differs."""
    require_same(found, expected, f"{path} was made differently", remedy)


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
        return int.from_bytes(hashlib.sha256(f"{self._key}:{row}".encode()).digest()[:8], "big")


@contextmanager
def _create_file(path: Path) -> Iterator[Any]:
    """A new HDF5 file; a write that the system refuses ends in that OSError, after HDF5 has closed in peace."""
    with _ForgivingFile(path) as raw:
        try:
            with h5py.File(raw, "w", rdcc_nbytes=16 << 20) as file:
                yield file
        finally:
            if raw.refusal is not None:
                raise raw.refusal


class _ForgivingFile(io.FileIO):
    """Remembers the first refused write and drops all that follow.

    HDF5 that cannot flush a file ends the whole process with a segmentation fault when Python exits.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.refusal: OSError | None = None

    def write(self, content: Buffer, /) -> int:
        """Writes, or pretends to."""
        size = memoryview(content).nbytes
        if self.refusal is None:
            try:
                written = super().write(content)
                if written != size:  # a disk takes what still fits, and refuses the rest
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self.refusal = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Truncates, or pretends to."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return size or 0


class _Writer:
    """Appends results to the datasets of a file that nobody reads yet."""

    def __init__(self, file: Any, dim: int) -> None:
        self._file = file
        self._records: list[VideoRecord] = []
        self._clips: list[tuple[int, int, int, int, int, float, float]] = []
        self._samples: list[tuple[int, int, NDArray[np.uint8]]] = []  # priority, row, crop
        self._features = self._create("features", (dim,), np.float16, fletcher32=True)
        self._times = self._create("rows/time_s", (), np.float64)
        self._boxes = self._create("rows/box", (4,), np.float32)
        self._scores = self._create("rows/score", (), np.float32)

    def add(self, result: VideoResult) -> None:
        first = int(self._features.shape[0])
        for clip in result.clips:
            start = int(self._features.shape[0])
            place = (len(self._records), clip.track, clip.view, start, len(clip.features))
            self._clips.append((*place, clip.start_s, clip.end_s))
            _append(self._features, clip.features)
            _append(self._times, clip.times_s)
            _append(self._boxes, clip.boxes)
            _append(self._scores, clip.scores)
        if result.record.split != "test":
            self._samples += [(s.priority, first + s.row, s.crop) for s in result.samples]
            self._samples = sorted(self._samples, key=lambda s: s[:2])[:SAMPLES]
        self._records.append(result.record)

    def finish(self) -> None:
        for name in (f.name for f in fields(VideoRecord)):
            values = [getattr(record, name) for record in self._records]
            kind: Any = np.int64 if name in ("size", "mtime_ns") else h5py.string_dtype()
            column = np.array(values, dtype=object if kind is not np.int64 else kind)
            self._file.create_dataset(f"videos/{name}", data=column, dtype=kind)
        kinds = ("i4", "i4", "i2", "i8", "i4", "f8", "f8")
        for place, (field, kind) in enumerate(zip(fields(ClipTable), kinds, strict=True)):
            self._file.create_dataset(f"clips/{field.name}", data=np.array([c[place] for c in self._clips], dtype=kind))
        crops = [crop for _, _, crop in self._samples]
        self._file["samples/priority"] = np.array([p for p, _, _ in self._samples], dtype=np.uint64)
        self._file["samples/row"] = np.array([row for _, row, _ in self._samples], dtype=np.int64)
        self._file["samples/crop"] = np.stack(crops) if crops else np.zeros((0, 1, 1, 3), np.uint8)

    def _create(self, name: str, shape: tuple[int, ...], dtype: Any, **options: Any) -> Any:
        rows = max(1, (1 << 20) // (int(np.prod(shape)) * np.dtype(dtype).itemsize))  # chunks of about 1 MiB
        return self._file.create_dataset(
            name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(min(rows, 1024), *shape), **options
        )


def _append(dataset: Any, values: NDArray[Any]) -> None:
    start = dataset.shape[0]
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _read_header(path: Path, file: Any) -> tuple[Fingerprint, dict[str, Any]]:
    found = file.attrs.get("format")
    if found != FORMAT:
        raise FormatError(f"{path} has the format {found!r}, expected {FORMAT!r}; run `unmask extract` again")
    try:
        return Fingerprint.model_validate_json(file.attrs["fingerprint"]), json.loads(file.attrs["provenance"])
    except ValueError as error:
        raise FormatError(f"{path}: its fingerprint is not understood ({error}); run `unmask extract` again") from error


def _read_column(dataset: Any) -> list[Any]:
    if h5py.check_string_dtype(dataset.dtype):
        return list(dataset.asstr()[:])
    return [int(value) for value in dataset[:]]
