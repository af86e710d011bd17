"""Files that are whole or absent: write aside, fsync, rename; and the hash that names their content."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from extract.errors import DiskError


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turns a failed write into one sentence that names the file and what to do."""
    try:
        yield
    except OSError as error:
        # h5py reports a full disk as an OSError without errno, with the number in its text.
        full = error.errno == errno.ENOSPC or f"errno = {errno.ENOSPC}" in str(error)
        if full:
            raise DiskError(
                f"no space left on the disk while writing {path}; free some space and run the same command again"
            ) from error
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it becomes `path`, on failure it is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def write_directory_aside(path: Path) -> Iterator[Path]:
    """The same for a directory: `path` holds the old content or the new one, never a mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    with translate_os_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            if path.exists():
                path.rename(retired)
            temporary.rename(path)
            _sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with write_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_file(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
