"""One run at a time on an output: a lock file that the kernel frees when its process dies, however it dies."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

from extract.errors import UnmaskError
from extract.files import translate_os_errors

if sys.platform != "win32":
    import fcntl


class Lock:
    """Held from its making until `release`, or until the process ends. Where the system has no such locks: nothing."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        if sys.platform == "win32":
            return
        while self._descriptor is None:
            with translate_os_errors(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 20).decode(errors="replace").strip()
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise UnmaskError(f"another run (process {holder or 'unknown'}) {what}") from error
                return  # a file system without locks
            if self._is_current(descriptor):
                self._descriptor = descriptor
                with suppress(OSError):  # the number is for people; a full disk holds the lock as well
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
            else:
                os.close(descriptor)

    @property
    def is_held(self) -> bool:
        """Whether it was made and not released; on a system without such locks, it never is."""
        return self._descriptor is not None

    def release(self) -> None:
        """Lets others in; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        with suppress(OSError):
            self.release()

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one at the path: its holder may have removed it meanwhile."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False


def is_other_process(pid: int) -> bool:
    """Whether a process of this number runs that is not this one; True where the system does not tell."""
    if sys.platform == "win32":
        return True
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
