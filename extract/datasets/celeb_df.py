"""Celeb-DF v1 and v2 on disk: `Celeb-real/`, `YouTube-real/`, `Celeb-synthesis/` and the list of test videos.

`idA_NNNN` is clip N of person A; `idA_idB_NNNN` is the same clip with the face of person B. The list of test videos is
official for its counts, not for its persons: most people in it are also seen in the other videos.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from extract.datasets.listing import Choice, Listing, read_text, require_names
from extract.errors import FormatError, UsageError
from extract.manifest import Label, ManifestVideo, list_videos
from extract.splits import SWAP_NAME

LABEL_OF: dict[str, Label] = {"Celeb-real": "real", "YouTube-real": "real", "Celeb-synthesis": "fake"}
NAMES = {
    "Celeb-real": re.compile(r"(?P<target>id\d+)_(?P<clip>\d+)"),
    "YouTube-real": re.compile(r"\d+"),
    "Celeb-synthesis": SWAP_NAME,
}
TEST_LIST = "List_of_testing_videos.txt"
LIST_LABELS: dict[str, Label] = {"1": "real", "0": "fake"}
LIST_SIZES = {100: "v1", 518: "v2"}
# Persons and YouTube videos of v1 are numbered up to here; v2 keeps them and adds more.
V1_LAST_PERSON, V1_LAST_YOUTUBE = 17, 249


def is_celeb_df(directory: Path) -> bool:
    return bool({"Celeb-real", "Celeb-synthesis"} & _find_folders(directory).keys())


def scan_celeb_df(directory: Path, choice: Choice) -> Listing:
    """Lists both versions; `test` is what the list names, everything else is `train`."""
    if not is_celeb_df(directory):
        raise UsageError(f"{directory} has neither Celeb-real/ nor Celeb-synthesis/, which the layout celeb-df wants")
    videos = _list_by_name(directory)
    wanted = choice.split == "official"  # the other choices need no list, and none can disturb them
    named = _read_test_list(directory / TEST_LIST) if wanted and (directory / TEST_LIST).is_file() else {}
    if wanted and not named:
        raise UsageError(
            f"{directory} has no {TEST_LIST} with entries, which names the test videos; put it there, beside "
            "Celeb-real/, or list the videos without a split with --split none"
        )
    version = _find_version(directory, len(named), {*videos, *named})
    protocol = f"celeb-df-{version}-official" if version and len(named) in LIST_SIZES else "celeb-df-list"
    listed = [
        replace(video, dataset=f"Celeb-DF {version}".strip(), split="test" if name in named else "train",
                protocol=protocol)
        for name, video in videos.items()
    ]  # fmt: skip
    notes = _note_folders(directory)
    if choice.split == "official":
        notes += _note_list(named, videos)
    return Listing("celeb-df", tuple(listed), tuple(notes))


def _find_folders(directory: Path) -> dict[str, Path]:
    """The dataset's folders by their proper names; copies write them in other cases."""
    proper = {name.lower(): name for name in LABEL_OF}
    return {proper[d.name.lower()]: d for d in sorted(directory.iterdir()) if d.is_dir() and d.name.lower() in proper}


def _list_by_name(directory: Path) -> dict[str, ManifestVideo]:
    """The videos by the names that the list of test videos gives them, such as `Celeb-real/id0_0000.mp4`."""
    videos: dict[str, ManifestVideo] = {}
    strangers: list[Path] = []
    for folder_name, folder in _find_folders(directory).items():
        for path in list_videos(folder):
            match, name = NAMES[folder_name].fullmatch(path.stem), f"{folder_name}/{path.name}"
            if match is None:
                strangers.append(path)
                continue
            if name in videos:
                raise FormatError(f"{path} and {videos[name].path} are both {name}; keep one of them")
            videos[name] = _describe(path, path.relative_to(directory).as_posix(), folder_name, match)
    require_names(strangers, "idA_NNNN, idA_idB_NNNN, or NNNNN below YouTube-real/")
    return videos


def _describe(path: Path, video_id: str, folder_name: str, match: re.Match[str]) -> ManifestVideo:
    if folder_name == "YouTube-real":
        return ManifestVideo(video_id, path, "real", group=f"youtube_{path.stem}")
    label = LABEL_OF[folder_name]
    pair = f"{match['target']}_{match['clip']}"
    return ManifestVideo(
        video_id, path, label, group=match["target"], pair=pair, method="Celeb-synthesis" if label == "fake" else ""
    )


def _read_test_list(path: Path) -> dict[str, Label]:
    """The names on the list, which has no header line and writes 1 for real and 0 for fake."""
    named: dict[str, Label] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([01])\s+([^/\s]+)/([^/\s]+)", line.strip())
        if match is None or match[2] not in LABEL_OF:
            raise FormatError(f"{path} line {number}: found {line!r}, expected a line like `1 Celeb-real/id0_0000.mp4`")
        name, label = f"{match[2]}/{match[3]}", LIST_LABELS[match[1]]
        if label != LABEL_OF[match[2]]:
            raise FormatError(
                f"{path} line {number}: {match[1]} means {label}, but {name} is {LABEL_OF[match[2]]}; in the official "
                "list 1 is real and 0 is fake"
            )
        if name in named:
            raise FormatError(f"{path} line {number} names {name} again; use the list as the dataset ships it")
        named[name] = label
    return named


def _find_version(directory: Path, entries: int, names: Collection[str]) -> str:
    """v1 or v2, by the length of the list and by names that only v2 has; empty where neither tells."""
    only_v2 = next((name for name in sorted(names) if _is_only_in_v2(name)), None)
    version = LIST_SIZES.get(entries, "v2" if only_v2 else "")
    if version == "v1" and only_v2:
        raise FormatError(
            f"{directory / TEST_LIST} has {entries} entries, as that of v1, but {only_v2} is of v2; "
            "put the list of v2 there, which has 518"
        )
    return version


def _is_only_in_v2(name: str) -> bool:
    folder, _, file = name.partition("/")
    if folder == "YouTube-real":
        return int(re.match(r"\d*", file)[0] or 0) > V1_LAST_YOUTUBE  # type: ignore[index]
    return any(int(number) > V1_LAST_PERSON for number in re.findall(r"id(\d+)", file))


def _note_folders(directory: Path) -> list[str]:
    missing = [name for name in LABEL_OF if name not in _find_folders(directory)]
    return [f"{directory} has no {name}/; its videos are not listed" for name in missing]


def _note_list(named: Mapping[str, Label], videos: Collection[str]) -> list[str]:
    notes = []
    missing = sum(name not in videos for name in named)
    if missing:
        notes.append(f"{missing} of the {len(named)} entries of {TEST_LIST} are not on disk")
    if len(named) not in LIST_SIZES:
        notes.append(
            f"{TEST_LIST} has {len(named)} entries, but the official lists have 100 (v1) and 518 (v2): "
            "results are not comparable with published ones"
        )
    return notes
