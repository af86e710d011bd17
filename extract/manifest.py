"""The list of videos to work on: reads and writes `videos.csv`.

Columns: `path, label, split, group, pair, dataset, method, protocol`. Only the first two are required. Paths are
relative to the file. A group is a person or source that must not be divided between splits; a pair joins a fake to the
real video it was made from; a protocol names where the split comes from, such as a dataset's official list.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast

from extract.errors import FormatError, UsageError
from extract.files import write_aside

Label = Literal["real", "fake"]
Split = Literal["train", "val", "test", ""]

LABELS = ("real", "fake")
SPLITS: tuple[Split, ...] = ("train", "val", "test")
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


def write_manifest(path: Path, videos: Iterable[ManifestVideo], overwrite: bool = True) -> None:
    """Writes a manifest whose paths are relative to its own folder.

    Without `overwrite`, a file that says something else is refused: people fill in groups by hand.
    """
    content = _format_manifest(path, videos)
    if not overwrite and path.exists() and path.read_bytes() != content:
        raise UsageError(f"{path} exists already and says something else; choose another --out, or add --overwrite")
    with write_aside(path) as temporary:
        temporary.write_bytes(content)


def _format_manifest(path: Path, videos: Iterable[ManifestVideo]) -> bytes:
    home = path.parent.resolve()

    @cache
    def relate(folder: Path) -> Path:
        # Folders are resolved, so that `..` means what it says; a link to a video keeps its own name.
        return Path(os.path.relpath(folder.resolve(), home))

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video in videos:
        relative = (relate(video.path.parent) / video.path.name).as_posix()
        writer.writerow([relative, *(getattr(video, column) for column in COLUMNS[1:])])
    try:
        return text.getvalue().encode()
    except UnicodeEncodeError as error:
        name = str(error.object)[: error.end].rpartition("\n")[2]
        raise FormatError(f"{path} is written in UTF-8, which {name!r}... is not; rename that file") from error


def list_videos(directory: Path) -> list[Path]:
    """Every file below a directory whose suffix is that of a video, sorted."""
    return sorted(
        p
        for p in directory.rglob("*")
        if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def _parse_row(row: dict[str, str | None], place: str, folder: Path) -> ManifestVideo:
    text = {column: (row.get(column) or "").strip() for column in COLUMNS}
    label, split = text["label"].lower(), text["split"].lower()
    if not text["path"]:
        raise FormatError(f"{place}: the path is empty")
    if label not in LABELS:
        raise FormatError(f"{place}: label {text['label']!r} is unknown; expected real or fake")
    if split not in (*SPLITS, ""):
        raise FormatError(f"{place}: split {text['split']!r} is unknown; expected train, val, test or nothing")
    return ManifestVideo(
        id=Path(text["path"]).as_posix(),
        path=folder / text["path"],
        label=cast(Label, label),
        split=split,
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
