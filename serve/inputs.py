"""The files that a command line names: files, folders as the videos below them, patterns, and lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from extract.errors import UsageError
from extract.manifest import list_videos

LIST = "-"  # in place of a path: read paths from a list


def list_inputs(texts: Iterable[str], listed: Iterable[str] = ()) -> list[Path]:
    """Every file to score, once, in order; `listed` are the paths that stand for `-`.

    What is named on the command line must be there: a path that is missing, a pattern that nothing matches, or a
    folder without videos is a UsageError. What a list names is somebody else's word: a file that is missing stays in,
    and is NOT_SCORABLE when its turn comes.
    """
    files: list[Path] = []
    for text in texts:
        files += _expand_list(listed) if text == LIST else _expand(text)
    return list(dict.fromkeys(files))


def split_list(content: bytes, *, null: bool = False) -> list[str]:
    """The paths of a list, one a line, or ended by NUL; file names may hold any bytes."""
    text = content.decode(errors="surrogateescape")
    if null:
        return [name for name in text.split("\0") if name]
    # Not splitlines: a name may hold the other signs that end a line in Unicode.
    return [line for line in (line.removesuffix("\r") for line in text.split("\n")) if line.strip()]


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if os.path.isdir(text):  # unlike Path's, it bears with names that are too long for the system
        found = list_videos(path)
        if not found:
            raise UsageError(f"{path} holds no video; name a folder with video files in it, or the files")
        return found
    if os.path.exists(text):
        return [path]
    if not glob.has_magic(text):
        raise UsageError(f"no such file or folder: {path}")
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
    if not matches:
        raise UsageError(f"nothing matches {text}; name files or folders, or another pattern")
    # A folder that a pattern happens to match need not hold videos.
    return [file for match in matches for file in (list_videos(match) if match.is_dir() else [match])]


def _expand_list(listed: Iterable[str]) -> list[Path]:
    # A folder without a video stays in, as what it is: NOT_SCORABLE.
    return [
        file
        for path in map(Path, listed)
        for file in ((list_videos(path) or [path]) if os.path.isdir(path) else [path])
    ]
