"""Memory: what a C library keeps for every thread that ever asked it for some."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_ARENA_MAX = -8  # of mallopt(3), glibc
ARENAS = 2


def limit_arenas() -> None:
    """Has all threads share two heaps, where the C library is glibc; before any of them begins.

    By default each gets one of its own, up to eight a processor, and what one has freed no other uses.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
