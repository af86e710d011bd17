"""Looks for what stands in two splits of a manifest and should not, and for counts that its split should not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from extract.audit.protocol_counts import check_counts
from extract.audit.report import Audit, Finding, Kind, count_noun
from extract.audit.same_files import SameContent, find_same_content
from extract.audit.scope import Scope
from extract.errors import MismatchError
from extract.manifest import LABELS, SPLITS, ManifestVideo, Split
from extract.splits import list_identities

if TYPE_CHECKING:
    from extract.cache import CacheFile, VideoRecord

# What spoils a test figure comes first.
SPLIT_PAIRS: tuple[tuple[Split, Split], ...] = (("train", "test"), ("val", "test"), ("train", "val"))
EXAMPLES = 3


def audit_manifest(
    videos: Sequence[ManifestVideo], features: Path | None = None, least_similarity: float | None = None
) -> Audit:
    """Compares the splits of a manifest with one another; with the cache of its features, these too."""
    with _open_features(features) as cache:
        records = _match_records(videos, cache)
        same = find_same_content(videos, records)
        findings = [*_find_shared_names(videos), *_find_same_files(videos, same)]
        compared = cache is not None and (cache.fingerprint.backbone.trained or least_similarity is not None)
        if cache is not None and compared:
            findings += _find_near_duplicates(videos, same, cache, least_similarity)
        findings += [*_find_lost_classes(videos), *_find_wrong_counts(videos)]
        scope = Scope(videos, same, records, cache, compared)
        checked, notes = scope.list_checked(), scope.list_notes()
    counts: dict[str, dict[str, int]] = {}
    for split in (*SPLITS, ""):
        labels = Counter[str](video.label for video in videos if video.split == split)
        if labels:
            counts[split] = {label: labels[label] for label in LABELS}
    return Audit(len(videos), counts, tuple(checked), tuple(notes), tuple(findings))


def name_source(video: ManifestVideo | VideoRecord) -> str:
    """What a source clip and its fakes have in common; a real video without `pair` may be named by its id."""
    return video.pair or (video.id if video.label == "real" else "")


def _open_features(path: Path | None) -> AbstractContextManager[CacheFile | None]:
    if path is None:
        return nullcontext()
    from extract.cache import open_cache

    return open_cache(path)


def _match_records(videos: Sequence[ManifestVideo], cache: CacheFile | None) -> dict[str, VideoRecord]:
    """What the cache knows of these videos, by id."""
    if cache is None:
        return {}
    ids = {video.id for video in videos}
    records = {record.id: record for record in cache.videos if record.id in ids}
    if not records:
        raise MismatchError(
            f"{cache.path} knows none of the {len(ids)} videos of this manifest, such as {videos[0].id}; name the "
            "cache that `unmask extract` made from this manifest, or none"
        )
    return records


@dataclass(frozen=True)
class _Shared:
    """Names that stand in two splits, and the videos of the later one that bear them."""

    splits: tuple[str, str]
    names: tuple[str, ...]
    later: tuple[ManifestVideo, ...]
    examples: tuple[str, ...]


def _compare_splits(videos: Sequence[ManifestVideo], names: Sequence[Collection[str]]) -> Iterator[_Shared]:
    """For every two splits, the names that videos of both bear; `names` are those of each video."""
    bearing = {
        split: [(video, of_it) for video, of_it in zip(videos, names, strict=True) if video.split == split]
        for split in SPLITS
    }
    for earlier, later in SPLIT_PAIRS:
        before = {name: video for video, of_it in reversed(bearing[earlier]) for name in of_it}
        after = {name: video for video, of_it in reversed(bearing[later]) for name in of_it}
        shared = sorted(before.keys() & after.keys())
        yield _Shared(
            (earlier, later),
            tuple(shared),
            tuple(video for video, of_it in bearing[later] if not before.keys().isdisjoint(of_it)),
            tuple(f"{before[n].id} in {earlier}, {after[n].id} in {later}" for n in shared[:EXAMPLES]),
        )


def _find_shared_names(videos: Sequence[ManifestVideo]) -> Iterator[Finding]:
    persons = [list_identities(video) for video in videos]
    # Where a group is a person, it is counted as that.
    groups = [{video.group} - {"", *shown} for video, shown in zip(videos, persons, strict=True)]
    sources = [{name_source(video)} - {""} for video in videos]
    kinds: list[tuple[Kind, Sequence[Collection[str]]]] = [
        ("person", persons),
        ("group", groups),
        ("source clip", sources),
    ]
    for kind, names in kinds:
        for shared in _compare_splits(videos, names):
            if shared.names:
                number = count_noun(len(shared.names), kind)
                examples = [f"{name}: {ids}" for name, ids in zip(shared.names, shared.examples, strict=False)]
                what = f"divides {number} between {' and '.join(shared.splits)} ({_count_share(videos, shared)})"
                yield _make_finding(kind, what, shared, examples)


def _find_same_files(videos: Sequence[ManifestVideo], same: SameContent) -> Iterator[Finding]:
    """Files that stand in two splits, and files that are called real and fake in any."""
    content = {video.id: {str(number)} for number, group in enumerate(same.groups) for video in group}
    for shared in _compare_splits(videos, [content.get(video.id, set()) for video in videos]):
        if shared.names:
            number = count_noun(len(shared.names), "file")
            what = f"has {number} in both {' and '.join(shared.splits)} ({_count_share(videos, shared)})"
            yield _make_finding("same file", what, shared, shared.examples)
    torn = [group for group in same.groups if len({video.label for video in group}) > 1]
    if torn:
        concerned = [video for group in torn for video in group]
        yield Finding(
            kind="two labels",
            what=f"calls {count_noun(len(torn), 'file')} both real and fake",
            splits=tuple(sorted({video.split for video in concerned})),
            count=len(torn),
            videos=len(concerned),
            protocols=_list_protocols(concerned),
            examples=tuple(", ".join(f"{v.id} {v.label}" for v in group) for group in torn[:EXAMPLES]),
        )


def _find_near_duplicates(
    videos: Sequence[ManifestVideo], same: SameContent, cache: CacheFile, least: float | None
) -> Iterator[Finding]:
    from extract.audit.near_duplicates import LEAST_SIMILARITY, find_near_duplicates

    content = {video.id: number for number, group in enumerate(same.groups) for video in group}
    by_id = {video.id: video for video in videos}
    split_of = {video.id: video.split for video in videos if video.split}
    pairs = [
        pair
        for pair in find_near_duplicates(cache, split_of, LEAST_SIMILARITY if least is None else least)
        if pair.earlier not in content or content[pair.earlier] != content.get(pair.later)
    ]
    for splits in SPLIT_PAIRS:
        found = [pair for pair in pairs if pair.splits == splits]
        if found:
            shared = _Shared(splits, (), tuple(by_id[pair.later] for pair in found), ())
            what = f"shows {_count_share(videos, shared)} in {splits[0]} too, as near duplicates"
            examples = [f"{p.later} is {p.earlier} (similarity {p.similarity:.2f})" for p in found[:EXAMPLES]]
            yield _make_finding("near duplicate", what, shared, examples, len(found))


def _find_lost_classes(videos: Sequence[ManifestVideo]) -> Iterator[Finding]:
    """A split of one class, as a loop over folders leaves that overwrites what it has listed."""
    for split in reversed(SPLITS):
        inside = [video for video in videos if video.split == split]
        for label in LABELS:
            if inside and all(video.label != label for video in inside):
                what = f"has no {label} video among the {len(inside)} of {split}"
                yield Finding("one class", what, (split,), 1, len(inside), _list_protocols(inside))


def _find_wrong_counts(videos: Sequence[ManifestVideo]) -> Iterator[Finding]:
    for error in check_counts(videos):
        what = f"has {error.phrase} ({error.reading})"
        yield Finding("count", what, tuple(error.splits), error.difference, error.difference, (error.protocol,))


def _make_finding(kind: Kind, what: str, shared: _Shared, examples: Sequence[str], count: int | None = None) -> Finding:
    return Finding(
        kind=kind,
        what=what,
        splits=shared.splits,
        count=len(shared.names) if count is None else count,
        videos=len(shared.later),
        protocols=_list_protocols(shared.later),
        examples=tuple(examples),
    )


def _count_share(videos: Sequence[ManifestVideo], shared: _Shared) -> str:
    later = shared.splits[1]
    return f"{len(shared.later)} of {count_noun(sum(video.split == later for video in videos), f'{later} video')}"


def _list_protocols(videos: Sequence[ManifestVideo]) -> tuple[str, ...]:
    return tuple(sorted({video.protocol for video in videos} - {""}))
