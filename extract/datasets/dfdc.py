"""The training set of the Deepfake Detection Challenge on disk: parts, each with a `metadata.json`.

A fake names its original, and both are one group. There is no official test split among these files: `split` stays
empty, and training draws one by group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from extract.datasets.listing import Choice, Listing, read_json
from extract.errors import UsageError
from extract.manifest import ManifestVideo, list_videos

METADATA = "metadata.json"
EXPECTED = "a label REAL, or FAKE with its original"


class RealEntry(BaseModel):
    """A video as it was filmed."""

    label: Literal["REAL"]
    original: None = None


class FakeEntry(BaseModel):
    """A video made from another."""

    label: Literal["FAKE"]
    original: str


Entry = Annotated[RealEntry | FakeEntry, Field(discriminator="label")]
ENTRIES = TypeAdapter(dict[str, Entry])


def is_dfdc(directory: Path) -> bool:
    return bool(_find_parts(directory))


def scan_dfdc(directory: Path, _choice: Choice) -> Listing:
    """Lists one part, or every part in a folder of parts."""
    parts = _find_parts(directory)
    if not parts:
        raise UsageError(f"{directory} has no {METADATA}, nor has a folder in it, which the layout dfdc wants")
    videos: list[ManifestVideo] = []
    missing = unknown = 0
    for part in parts:
        entries = read_json(part / METADATA, ENTRIES, EXPECTED)
        paths = [path for path in list_videos(part) if path.parent == part]
        known = [path for path in paths if path.name in entries]
        videos += [_describe(directory, path, entries[path.name]) for path in known]
        missing += len(entries) - len(known)
        unknown += len(paths) - len(known)
    notes = [f"{missing} videos that {METADATA} names are not on disk"] * bool(missing)
    notes += [f"{unknown} videos left out: no {METADATA} names them"] * bool(unknown)
    return Listing("dfdc", tuple(videos), tuple(notes))


def _find_parts(directory: Path) -> list[Path]:
    folders = [directory, *sorted(path for path in directory.iterdir() if path.is_dir())]
    return [folder for folder in folders if (folder / METADATA).is_file()]


def _describe(directory: Path, path: Path, entry: RealEntry | FakeEntry) -> ManifestVideo:
    original = Path(entry.original).stem if entry.original else path.stem
    return ManifestVideo(
        id=path.relative_to(directory).as_posix(),
        path=path,
        label="fake" if entry.label == "FAKE" else "real",
        group=original,
        pair=original,
        dataset="DFDC",
    )
