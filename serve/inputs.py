"""The files that a command line names: files as they are, folders as the videos below them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from extract.errors import UsageError
from extract.manifest import list_videos


def list_inputs(paths: Iterable[Path]) -> list[Path]:
    """Every file to score, in order; a path that is missing, or a folder without videos, is a UsageError."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = list_videos(path)
            if not found:
                raise UsageError(f"{path} holds no video; name a folder with video files in it, or the files")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UsageError(f"no such file or folder: {path}")
    return list(dict.fromkeys(files))
