"""What an audit could compare, and what its reader has to know of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extract.audit.protocol_counts import COUNTED
from extract.audit.report import count_noun
from extract.audit.same_files import SameContent
from extract.manifest import ManifestVideo

if TYPE_CHECKING:
    from extract.cache import CacheFile, VideoRecord


@dataclass(frozen=True)
class Scope:
    """Everything that was looked at; `records` are the cache's own of these videos, by id."""

    videos: Sequence[ManifestVideo]
    same: SameContent
    records: Mapping[str, VideoRecord]
    cache: CacheFile | None
    compared: bool  # the features of the cache

    @property
    def placed(self) -> list[ManifestVideo]:
        """The videos that have a split."""
        return [video for video in self.videos if video.split]

    def list_checked(self) -> Iterator[str]:
        """What was compared, a line each."""
        if self.placed:
            yield f"persons and groups of {count_noun(sum(bool(v.group) for v in self.placed), 'video')}"
            paired = sum(v.label == "fake" and bool(v.pair) for v in self.placed)
            yield f"source clips of {count_noun(paired, 'fake')}"
        compared = len(self.videos) - self.same.missing - self.same.empty
        yield (
            f"content of {count_noun(compared, 'file')}: {self.same.recorded} by the hash in the cache, "
            f"{self.same.hashed} read, the rest by place and size"
        )
        if self.compared and self.placed:
            yield f"features of {count_noun(self._count_featured(), 'video')}"
        for protocol in sorted({video.protocol for video in self.videos} & COUNTED):
            yield f"counts of {protocol}"

    def list_notes(self) -> Iterator[str]:
        """What was not compared and why, and what is odd without being a leak, a line each."""
        if not self.placed:
            yield "not checked: no video has a split, so there is none to compare; `unmask train` makes one by group"
        elif len(self.placed) < len(self.videos):
            yield f"not checked: {count_noun(len(self.videos) - len(self.placed), 'video')} without a split"
        yield from self._note_names()
        yield from self._note_files()
        yield from self._note_features()
        unknown = sorted({video.protocol for video in self.placed} - {"", *COUNTED})
        if unknown:
            yield f"not checked: the counts of {', '.join(unknown)}, which are not known"

    def _note_names(self) -> Iterator[str]:
        ungrouped = sum(not video.group for video in self.videos)
        if ungrouped:
            yield f"not checked: who is seen in {count_noun(ungrouped, 'video')} without `group`"
        unpaired = sum(video.label == "fake" and not video.pair for video in self.videos)
        if unpaired:
            yield f"not checked: which clip {count_noun(unpaired, 'fake')} without `pair` came from"

    def _note_files(self) -> Iterator[str]:
        if self.same.missing:
            yield f"not checked: the content of {count_noun(self.same.missing, 'file')} that cannot be found or read"
        if self.same.empty:
            yield f"not checked: {count_noun(self.same.empty, 'file')} of no bytes"
        twice = sum(len({v.split for v in group}) < len(group) for group in self.same.groups)
        if twice:
            yield f"{count_noun(twice, 'file')} listed more than once in one split, where it counts double"
        torn = sum(len({v.group for v in group}) > 1 and any(not v.split for v in group) for group in self.same.groups)
        if torn:
            yield f"{count_noun(torn, 'file')} listed in several groups, which a split made by group may divide"

    def _note_features(self) -> Iterator[str]:
        if self.cache is None:
            yield "not checked: near duplicates; name the cache of features to find them"
            return
        lost = len(self.placed) - self._count_featured()
        if not self.compared:
            yield "not checked: near duplicates; the backbone of the cache is untrained, and sees colours"
        elif lost:
            yield f"not checked: near duplicates of {count_noun(lost, 'video')} without features in the cache"
        moved = sum(
            record is not None and (record.split, record.label, record.group) != (v.split, v.label, v.group)
            for v, record in ((v, self.records.get(v.id)) for v in self.videos)
        )
        if moved:
            yield (
                f"{count_noun(moved, 'video')} whose split, label or group is another in the cache, which is what "
                "`unmask train` reads; run `unmask extract` again"
            )

    def _count_featured(self) -> int:
        return sum(video.id in self.records and self.records[video.id].status == "OK" for video in self.placed)
