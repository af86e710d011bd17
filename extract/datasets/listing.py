"""What comes of listing a dataset: its videos, and what a person should know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from extract.errors import FormatError
from extract.manifest import LABELS, SPLITS, ManifestVideo
from extract.splits import IdentitySplit

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """What is wanted of a dataset: its split, and of FaceForensics++ one compression or (empty) all."""

    split: Literal["official", "identity-disjoint", "none"] = "official"
    compression: str = ""


@dataclass(frozen=True)
class Listing:
    """The videos of a dataset, notes for a person, and who is on which side where we divided the persons."""

    layout: str
    videos: tuple[ManifestVideo, ...]
    notes: tuple[str, ...] = ()
    identities: IdentitySplit | None = None

    def summarise(self) -> dict[str, Any]:
        """Counts, as a JSON document."""
        named = {split: [video for video in self.videos if video.split == split] for split in SPLITS}
        return {
            "layout": self.layout,
            "datasets": sorted({video.dataset for video in self.videos if video.dataset}),
            "videos": len(self.videos),
            **_count_labels(self.videos),
            "groups": len({video.group for video in self.videos if video.group}),
            "splits": {split: _count_labels(videos) for split, videos in named.items() if videos},
            "identities": self.identities and self.identities.summarise(),
            "notes": list(self.notes),
        }

    def describe(self) -> list[str]:
        """The same for a person: one line, and one for each split."""
        counts = self.summarise()
        names = f" of {', '.join(counts['datasets'])}" if counts["datasets"] else ""
        total = f"{counts['videos']} videos{names}, {counts['real']} real, {counts['fake']} fake"
        lines = [f"{total}, {counts['groups']} groups"]
        lines += [f"  {split:5} {n['real']} real, {n['fake']} fake" for split, n in counts["splits"].items()]
        if self.identities:
            people = ", ".join(f"{side} {n}" for side, n in counts["identities"]["swapped_people"].items())
            lines += [
                f"  people in swaps: {people}; {self.identities.dropped} fakes between people of two sides left out",
                f"  sha256 of who is where: {self.identities.sha256}",
            ]
        return lines


def _count_labels(videos: Sequence[ManifestVideo]) -> dict[str, int]:
    return {label: sum(video.label == label for video in videos) for label in LABELS}


def read_text(path: Path) -> str:
    """A list that a dataset ships, as text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not a text in UTF-8: {error}; unpack the dataset's own file again") from error


def read_json(path: Path, form: TypeAdapter[T], expected: str) -> T:
    """A JSON list that a dataset ships; refuses one that is not as `expected` says, naming the entry."""
    try:
        return form.validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        entry = f"entry {first['loc'][0]}" if first["loc"] else "the file"
        raise FormatError(f"{path}: {entry} is not what was expected, {expected}: {first['msg']}") from error


def require_names(strangers: list[Path], expected: str) -> None:
    """Refuses videos whose names do not tell who is seen: listed without a group, they would leak."""
    if strangers:
        raise FormatError(
            f"{strangers[0]} and {len(strangers) - 1} others are not named like videos of this dataset "
            f"(expected {expected}); move them out of the dataset"
        )
