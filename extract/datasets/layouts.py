"""How datasets lie on disk: recognises a layout and lists its videos, with the split that is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from extract.datasets.celeb_df import is_celeb_df, scan_celeb_df
from extract.datasets.dfdc import is_dfdc, scan_dfdc
from extract.datasets.ffpp import is_ffpp, scan_ffpp
from extract.datasets.listing import Choice, Listing
from extract.errors import UsageError
from extract.manifest import LABELS, Label, ManifestVideo, list_videos, read_manifest
from extract.splits import split_identities


@dataclass(frozen=True)
class Layout:
    """One way in which a dataset lies on disk."""

    looks_for: str
    recognise: Callable[[Path], bool]
    scan: Callable[[Path, Choice], Listing]


def make_manifest(source: Path, layout: str = "auto", choice: Choice | None = None) -> Listing:
    """Lists the videos of a dataset; `layout` is auto or one of LAYOUTS."""
    choice = choice or Choice()
    if not source.exists():
        raise UsageError(f"no such file or directory: {source}")
    name = _recognise_layout(source) if layout == "auto" else layout
    _refuse_misfits(source, name, choice)
    listing = LAYOUTS[name].scan(source, choice)
    if not listing.videos:
        raise UsageError(f"{source}: no video in {LAYOUTS[name].looks_for}")
    notes = (*listing.notes, *_note_gaps(listing.videos))
    if choice.split == "none":
        videos = tuple(replace(video, split="", protocol="") for video in listing.videos)
        return Listing(name, videos, notes)
    if choice.split == "identity-disjoint":
        divided = split_identities(listing.videos)
        return Listing(name, divided.videos, notes, divided)
    return replace(listing, notes=notes)


def _recognise_layout(source: Path) -> str:
    if source.is_file():
        return "csv"
    found = next((name for name, layout in LAYOUTS.items() if layout.recognise(source)), None)
    if found is None:
        looked = ", ".join(f"{layout.looks_for} ({name})" for name, layout in LAYOUTS.items())
        raise UsageError(f"{source} fits no layout; looked for {looked}; give the folder that holds one of these")
    return found


def _refuse_misfits(source: Path, name: str, choice: Choice) -> None:
    if source.is_file() != (name == "csv"):
        found, wanted = ("a file", "a directory") if source.is_file() else ("a directory", "a file")
        raise UsageError(f"{source} is {found}, but --layout {name} wants {wanted}")
    if choice.compression and name != "ffpp":
        raise UsageError(f"--compression is for --layout ffpp, but {source} is listed as {name}; leave it out")
    if choice.split == "identity-disjoint" and name != "celeb-df":
        raise UsageError(
            f"--split identity-disjoint is for --layout celeb-df, whose names tell who was swapped, but {source} is "
            f"listed as {name}; use --split official or none"
        )


def _note_gaps(videos: Collection[ManifestVideo]) -> Iterator[str]:
    missing = sum(not video.path.is_file() for video in videos)
    if missing:
        yield f"{missing} of these files do not exist"
    for label in LABELS:
        if all(video.label != label for video in videos):
            yield f"no {label} video is listed; training and evaluation need both classes"
    if not any(video.group for video in videos):
        yield "no column or name tells who is seen; fill in `group`, or persons leak"


def _scan_csv(source: Path, _choice: Choice) -> Listing:
    return Listing("csv", tuple(read_manifest(source)))


def _has_folders(directory: Path) -> bool:
    return any(d.is_dir() and d.name.lower() in LABELS for d in directory.iterdir())


def _scan_folders(directory: Path, _choice: Choice) -> Listing:
    """Lists `Real/` and `Fake/` (in any case) below a directory; groups are those that file names give away."""
    by_label = {label: [d for d in directory.iterdir() if d.is_dir() and d.name.lower() == label] for label in LABELS}
    missing = [label for label, found in by_label.items() if not found]
    if missing:
        raise UsageError(f"{directory} has no folder {' and no folder '.join(missing)}; expected Real/ and Fake/")
    videos = [
        ManifestVideo(id=path.relative_to(directory).as_posix(), path=path, label=cast(Label, label))
        for label, folders in by_label.items()
        for folder in folders
        for path in list_videos(folder)
    ]
    empty = [label for label in LABELS if not any(v.label == label for v in videos)]
    if empty:
        raise UsageError(f"{directory}: no video in its folder {' nor in '.join(empty)}")
    grouped = _group_by_name(videos)
    guessed = any(video.group for video in grouped)
    return Listing("folders", tuple(grouped), ("the groups were read from file names: check them",) * guessed)


def _group_by_name(videos: list[ManifestVideo]) -> list[ManifestVideo]:
    """Groups that names give away: `id7_...` is person 7 (Celeb-DF), and `clip_fake` was made from `clip`.

    A fake in training whose original is in test teaches the head the wrong label for that face.
    """
    originals = {video.path.stem for video in videos if video.label == "real"}

    def name(video: ManifestVideo) -> ManifestVideo:
        stem = video.path.stem
        person = re.match(r"id\d+(?=_)", stem)
        if person:
            return replace(video, group=person.group())
        begins = [stem[: match.start()] for match in re.finditer(r"[^0-9A-Za-z]", stem)] + [stem]
        original = next((begin for begin in reversed(begins) if begin in originals), None)
        return video if original is None else replace(video, group=original, pair=original)

    return [name(video) for video in videos]


LAYOUTS = {
    "celeb-df": Layout("Celeb-real/ or Celeb-synthesis/", is_celeb_df, scan_celeb_df),
    "ffpp": Layout("original_sequences/ or manipulated_sequences/", is_ffpp, scan_ffpp),
    "folders": Layout("Real/ and Fake/", _has_folders, _scan_folders),
    "dfdc": Layout("parts with metadata.json", is_dfdc, scan_dfdc),
    "csv": Layout("a CSV file", Path.is_file, _scan_csv),
}
