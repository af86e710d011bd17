"""The decoder process with faults built in: it dies on files named crash*, sleeps on hang*, and spins on spin*.

It wants too much memory for eat*. On those of NONSENSE it answers nonsense, as one that a file has taken over might.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extract import decoder
from extract.video import Frame, Video


def main() -> None:
    """Serves like the real one, whose decoding is replaced."""
    read_at = Video.read_at
    wire = os.dup(sys.stdout.fileno())

    def read_badly(video: Video, instants: Any) -> Iterator[tuple[slice, Frame]]:
        for number, found in enumerate(read_at(video, instants)):
            if number == 2:
                fail(video.path, wire)
            yield found

    Video.read_at = read_badly  # type: ignore[method-assign,assignment]
    decoder.main()


def fail(path: Path, wire: int) -> None:
    """Does what a decoder does on a file that it cannot stand."""
    if path.name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.name.startswith("hang"):
        time.sleep(1000)
    while path.name.startswith("spin"):
        pass
    if path.name.startswith("eat"):
        raise MemoryError
    if path.stem in NONSENSE:
        nonsense = NONSENSE[path.stem]
        os.write(wire, nonsense if isinstance(nonsense, bytes) else json.dumps(nonsense).encode() + b"\n")
        time.sleep(1000)


def describe_frame(**changes: object) -> dict[str, Any]:
    """The third frame, some of it untrue."""
    return {"frame": {"offset": 0, "shape": [48, 64, 3], "time_s": 0.1, "first": 2, "stop": 3, **changes}}


NONSENSE: dict[str, Any] = {
    "babble-words": b"no JSON\n",
    "babble-flood": b"x" * (2 << 20),
    "babble-number": 5,
    "babble-nothing": {},
    "babble-reason": {"refused": ["NO_SUCH_REASON", ""]},
    "babble-offset": describe_frame(offset=1 << 40),
    "babble-shape": describe_frame(shape=[-1, 64, 3]),
    "babble-order": describe_frame(first=0),
    "babble-end": describe_frame(stop=1 << 40),
    "babble-time": describe_frame(time_s="now"),
    "babble-never": describe_frame(time_s=float("inf")),
}


if __name__ == "__main__":
    main()
