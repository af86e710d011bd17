"""What a process gives up before it reads a stranger's file: memory, writing to files, processor time, new rights."""

from __future__ import annotations

import ctypes
import math
import resource
import sys
from contextlib import suppress

from extract.limits import MediaLimits

MOST_DESCRIPTORS = 64  # a video takes one, and its container's reader another
NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS of linux/prctl.h


def confine_process(limits: MediaLimits) -> None:
    """Lowers the limits of this process for good.

    macOS keeps no count of address space: there only the checks before decoding bound the memory.
    """
    _lower(resource.RLIMIT_AS, limits.memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)  # pipes and shared memory of a fixed size are no files to it
    _lower(resource.RLIMIT_NOFILE, MOST_DESCRIPTORS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def grant_processor(seconds: float) -> None:
    """Lets this process use so much more processor time; SIGXCPU ends it when that is gone."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(until, hard), hard))


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = _at_most(value, hard)
    with suppress(ValueError, OSError):  # a system that knows no such limit
        resource.setrlimit(kind, (value, value))


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
