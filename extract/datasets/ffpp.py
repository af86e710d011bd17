"""FaceForensics++ on disk: originals, five manipulations, three compressions, and the split lists.

`NNN` is an original; `AAA_BBB` shows target A with the face of source B. The lists name pairs of originals; both
originals and both fakes of a pair are of one split, so no person is divided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter

from extract.datasets.listing import Choice, Listing, read_json, require_names
from extract.errors import FormatError, UsageError
from extract.manifest import ManifestVideo, Split, list_videos
from extract.splits import join_linked

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
COMPRESSIONS = {"c0": "raw", "raw": "raw", "c23": "c23", "c40": "c40"}  # folder: name; raw was once called c0
# The Google data set that the download script puts into the same tree. It has no official split, and its 28 actors are
# swapped with one another so freely that no split of ours could keep them apart.
UNSPLIT = ("original_sequences/actors", "manipulated_sequences/DeepFakeDetection")
OFFICIAL_PAIRS: dict[Split, int] = {"train": 360, "val": 70, "test": 70}

Number = Annotated[str, StringConstraints(pattern=r"^\d{3}$")]
PAIRS = TypeAdapter(list[tuple[Number, Number]])
EXPECTED = 'a pair like ["953", "974"]'
Pair = tuple[str, str]  # sorted


@dataclass(frozen=True)
class _Folder:
    """One method (empty for originals) in one compression."""

    path: Path
    method: str
    compression: str

    def expect(self, pair: Pair) -> tuple[str, str]:
        """The two names that a pair has here."""
        first, second = pair
        return (f"{first}_{second}", f"{second}_{first}") if self.method else (first, second)


def is_ffpp(directory: Path) -> bool:
    return (directory / "original_sequences").is_dir() or (directory / "manipulated_sequences").is_dir()


def scan_ffpp(directory: Path, choice: Choice) -> Listing:
    """Lists every compression and method on disk, or one compression."""
    if not is_ffpp(directory):
        raise UsageError(
            f"{directory} has neither original_sequences/ nor manipulated_sequences/, which the layout ffpp wants"
        )
    folders = _choose_folders(directory, choice.compression)
    files = {folder: list_videos(folder.path) for folder in folders}
    _require_names(files)
    listed = _read_splits(directory, required=choice.split == "official")
    groups = _find_groups(listed, files.values())
    official = {s: sum(split == s for split in listed.values()) for s in OFFICIAL_PAIRS} == OFFICIAL_PAIRS
    protocol = "ffpp-official" if official else "ffpp-list"
    split_of = {name: split for pair, split in listed.items() for f in folders for name in f.expect(pair)}
    videos = [
        _describe(directory, folder, path, groups, split_of.get(path.stem, ""), protocol)
        for folder, paths in files.items()
        for path in paths
    ]
    notes = _note_unsplit(directory)
    if choice.split == "official":
        notes += _note_lists(listed, files, official, sum(not video.split for video in videos))
    return Listing("ffpp", tuple(videos), tuple(notes))


def _find_folders(directory: Path) -> list[_Folder]:
    places = [("", "original_sequences/youtube")] + [(method, f"manipulated_sequences/{method}") for method in METHODS]
    found = [
        _Folder(directory / place / compression / "videos", method, name)
        for method, place in places
        for compression, name in COMPRESSIONS.items()
    ]
    return [folder for folder in found if folder.path.is_dir()]


def _choose_folders(directory: Path, compression: str) -> list[_Folder]:
    found = _find_folders(directory)
    chosen = [folder for folder in found if compression in ("", folder.compression)]
    if not chosen:
        names = ", ".join(sorted({folder.compression for folder in found})) or "no compression at all"
        raise UsageError(
            f"{directory} holds {names}, but {compression or 'one'} was wanted; expected folders like "
            f"original_sequences/youtube/{compression or 'c23'}/videos/"
        )
    return chosen


def _require_names(files: Mapping[_Folder, Sequence[Path]]) -> None:
    strangers = [
        path
        for folder, paths in files.items()
        for path in paths
        if not re.fullmatch(r"\d{3}_\d{3}" if folder.method else r"\d{3}", path.stem)
    ]
    require_names(strangers, "NNN for an original, AAA_BBB for a fake")


def _describe(
    directory: Path, folder: _Folder, path: Path, groups: Mapping[str, str], split: Split, protocol: str
) -> ManifestVideo:
    target = path.stem.partition("_")[0]
    return ManifestVideo(
        id=path.relative_to(directory).as_posix(),
        path=path,
        label="fake" if folder.method else "real",
        split=split,
        group=groups[target],
        pair=target,
        dataset=f"FF++ {folder.compression}",
        method=folder.method,
        protocol=protocol if split else "",
    )


def _read_splits(directory: Path, required: bool) -> dict[Pair, Split]:
    """The split of each pair, from train.json, val.json and test.json in the dataset's folder or its `splits/`."""
    split_of: dict[Pair, Split] = {}
    place_of: dict[str, Path] = {}
    for split in OFFICIAL_PAIRS:
        places = [directory / f"{split}.json", directory / "splits" / f"{split}.json"]
        path = next((place for place in places if place.is_file()), None)
        if path is None and required:
            raise UsageError(
                f"{directory} has no {split}.json, which lists the pairs of its split; put it there or into "
                f"{directory / 'splits'}, or list the videos without a split with --split none"
            )
        for pair in read_json(path, PAIRS, EXPECTED) if path else ():
            for number in pair:
                if number in place_of:
                    raise FormatError(f"{path} names {number}, which {place_of[number]} has already named")
                place_of[number] = path or directory
            split_of[min(pair), max(pair)] = split
    return split_of


def _find_groups(pairs: Iterable[Pair], files: Iterable[Sequence[Path]]) -> dict[str, str]:
    """For each number, all numbers that it is paired with, as one name such as `953_974`."""
    shown = [path.stem.split("_") for paths in files for path in paths]
    return {number: "_".join(numbers) for number, numbers in join_linked([*pairs, *shown]).items()}


def _note_lists(
    listed: Mapping[Pair, Split], files: Mapping[_Folder, Sequence[Path]], official: bool, unlisted: int
) -> list[str]:
    expected = {(folder, name) for folder in files for pair in listed for name in folder.expect(pair)}
    missing = len(expected - {(folder, path.stem) for folder, paths in files.items() for path in paths})
    notes = []
    if missing:
        notes.append(f"{missing} of the {len(expected)} videos that the split lists name are not on disk")
    if unlisted:
        notes.append(f"{unlisted} videos are named by no split list and have no split")
    if not official:
        notes.append(
            f"the split lists name {len(listed)} pairs, but the official ones 360, 70 and 70: results are not "
            "comparable with published ones"
        )
    return notes


def _note_unsplit(directory: Path) -> list[str]:
    found = {place: len(list_videos(directory / place)) for place in UNSPLIT if (directory / place).is_dir()}
    return [f"{place}: {count} videos left out; they have no official split" for place, count in found.items() if count]
