"""Downloads that give up: a host that does not answer ends in an error instead of a wait without end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limit_waits(seconds: float = 20.0) -> Iterator[None]:
    """Bounds each wait for the network; torch's downloads set no limit of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
