"""Videos of one manifest whose files hold the same bytes, under whatever names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extract.files import hash_file
from extract.manifest import ManifestVideo

if TYPE_CHECKING:
    from extract.results import VideoRecord


@dataclass(frozen=True)
class SameContent:
    """Groups of two or more videos with the same bytes, and how that was found."""

    groups: tuple[tuple[ManifestVideo, ...], ...]
    hashed: int  # files that were read
    recorded: int  # files whose hash the cache had
    missing: int  # files that are not here, or cannot be read, and that no cache knows
    empty: int  # files of no bytes, which are the same for no reason


@dataclass(frozen=True)
class _File:
    """Where the content of a video lies, how large it is, and its hash where the cache has it."""

    place: str
    size: int  # -1: not here
    sha256: str = ""


def find_same_content(videos: Sequence[ManifestVideo], records: Mapping[str, VideoRecord]) -> SameContent:
    """Compares the content of all files, reading only those of equal size.

    A hash that the cache recorded stands for a file whose size and time are still the same, and for one that is not
    here. Names that lead to one file (links, or another way to write its path) are the same content unread.
    """
    files = [_examine(video, records.get(video.id)) for video in videos]
    sizes = Counter(size for _, size in {(file.place, file.size) for file in files})
    recorded = {file.place: file.sha256 for file in files if file.sha256}
    hashed: dict[str, str] = {}  # by place; empty where the file cannot be read
    groups: dict[str, list[ManifestVideo]] = {}
    for video, file in zip(videos, files, strict=True):
        if file.size > 0 and sizes[file.size] > 1 and file.place not in recorded and file.place not in hashed:
            hashed[file.place] = _hash_or_nothing(video)
        if file.size != 0:
            key = recorded.get(file.place) or hashed.get(file.place) or file.place
            groups.setdefault(key, []).append(video)
    return SameContent(
        groups=tuple(tuple(group) for group in groups.values() if len(group) > 1),
        hashed=sum(bool(digest) for digest in hashed.values()),
        recorded=sum(bool(file.sha256) for file in files),
        missing=sum(file.size < 0 or hashed.get(file.place) == "" for file in files),
        empty=sum(file.size == 0 for file in files),
    )


def _examine(video: ManifestVideo, record: VideoRecord | None) -> _File:
    try:
        stat = video.path.stat()
    except OSError:
        place = os.path.realpath(video.path)
        return _File(place, record.size, record.sha256) if record and record.sha256 else _File(place, -1)
    known = record is not None and (record.size, record.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    return _File(f"{stat.st_dev}:{stat.st_ino}", stat.st_size, record.sha256 if record and known else "")


def _hash_or_nothing(video: ManifestVideo) -> str:
    try:
        return hash_file(video.path)
    except OSError:
        return ""
