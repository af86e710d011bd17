"""The list of videos to work on: reads and writes `videos.csv`, and makes it from a dataset on disk.

Columns: `path, label, split, group, pair, dataset, method, protocol`. Only the first two are required. Paths are
relative to the file. A group is a person or source that must not be divided between splits; a pair joins a fake to the
real video it was made from; a protocol names where the split comes from, such as a dataset's official list.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from extract.errors import FormatError, UsageError
from extract.files import write_aside

Label = Literal["real", "fake"]
Split = Literal["train", "val", "test", ""]

LABELS = ("real", "fake")
SPLITS = ("train", "val", "test", "")
COLUMNS = ("path", "label", "split", "group", "pair", "dataset", "method", "protocol")
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"}
)


@dataclass(frozen=True)
class ManifestVideo:
    """One line of the manifest; `id` is the path as written there, unique in it."""

    id: str
    path: Path
    label: Label
    split: Split = ""
    group: str = ""
    pair: str = ""
    dataset: str = ""
    method: str = ""
    protocol: str = ""


def read_manifest(path: Path) -> list[ManifestVideo]:
    """Reads a CSV file with at least the columns path and label; others than ours are ignored."""
    if not path.is_file():
        raise UsageError(f"no such manifest: {path}; make one with `unmask manifest DIR --out {path}`")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise FormatError(
                    f"{path} has no column {' and no column '.join(sorted(missing))}; a manifest begins with a "
                    f"line naming its columns, at least path,label"
                )
            videos = [_parse_row(row, f"{path} line {reader.line_num}", path.parent) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} is not a CSV text in UTF-8: {error}") from error
    if not videos:
        raise FormatError(f"{path} lists no video")
    _require_unique(videos, path)
    return videos


def write_manifest(path: Path, videos: Iterable[ManifestVideo]) -> None:
    """Writes a manifest whose paths are relative to its own folder."""
    with write_aside(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for video in videos:
            # Folders are resolved, so that `..` means what it says; a link to a video keeps its own name.
            place = video.path.parent.resolve() / video.path.name
            relative = Path(os.path.relpath(place, path.resolve().parent)).as_posix()
            writer.writerow([relative, *(getattr(video, column) for column in COLUMNS[1:])])


def list_videos(directory: Path) -> list[Path]:
    """Every file below a directory whose suffix is that of a video, sorted."""
    return sorted(
        p
        for p in directory.rglob("*")
        if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def make_manifest(source: Path, layout: str = "auto") -> list[ManifestVideo]:
    """Lists the videos of a dataset; `layout` is auto or one of LAYOUTS."""
    if not source.exists():
        raise UsageError(f"no such file or directory: {source}")
    if layout == "auto":
        layout = "csv" if source.is_file() else "folders"
    return LAYOUTS[layout](source)


def scan_folders(directory: Path) -> list[ManifestVideo]:
    """Lists `Real/` and `Fake/` (in any case) below a directory; groups are those that file names give away."""
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory; the layout `folders` wants one with Real/ and Fake/")
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
    return _group_by_name(videos)


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


LAYOUTS: dict[str, Callable[[Path], list[ManifestVideo]]] = {"folders": scan_folders, "csv": read_manifest}


def _parse_row(row: dict[str, str | None], place: str, folder: Path) -> ManifestVideo:
    text = {column: (row.get(column) or "").strip() for column in COLUMNS}
    label, split = text["label"].lower(), text["split"].lower()
    if not text["path"]:
        raise FormatError(f"{place}: the path is empty")
    if label not in LABELS:
        raise FormatError(f"{place}: label {text['label']!r} is unknown; expected real or fake")
    if split not in SPLITS:
        raise FormatError(f"{place}: split {text['split']!r} is unknown; expected train, val, test or nothing")
    return ManifestVideo(
        id=Path(text["path"]).as_posix(),
        path=folder / text["path"],
        label=cast(Label, label),
        split=cast(Split, split),
        group=text["group"],
        pair=text["pair"],
        dataset=text["dataset"],
        method=text["method"],
        protocol=text["protocol"],
    )


def _require_unique(videos: list[ManifestVideo], path: Path) -> None:
    seen: set[str] = set()
    for video in videos:
        if video.id in seen:
            raise FormatError(f"{path} lists {video.id} twice; a video stands in a manifest once")
        seen.add(video.id)
