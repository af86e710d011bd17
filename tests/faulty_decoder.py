"""The decoder process with faults built in: it dies on files named crash*, sleeps on hang*, and spins on spin*.

It wants too much memory for eat*. On those of NONSENSE it answers nonsense, as one that a file has taken over might;
on those of FALSE_FACTS it does so as soon as they are opened.
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
from extract.decoder import DecoderServer
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

    open_file = DecoderServer._open

    def open_badly(server: DecoderServer, path: Path, threads: int) -> Video:
        if path.stem in FALSE_FACTS:
            send(FALSE_FACTS[path.stem], wire)
            time.sleep(1000)
        return open_file(server, path, threads)

    DecoderServer._open = open_badly  # type: ignore[method-assign,assignment]
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
        send(NONSENSE[path.stem], wire)
        time.sleep(1000)


def send(nonsense: object, wire: int) -> None:
    """Answers as if it were a message."""
    rest = nonsense if isinstance(nonsense, bytes) else json.dumps(nonsense).encode() + b"\n"
    while rest:
        rest = rest[os.write(wire, rest) :]


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
    "babble-before": describe_frame(time_s=-1.0),
    "babble-nested": b"[" * 100_000 + b"\n",
    "babble-list": ["end"],
    "babble-frame": {"frame": None},
    "babble-far": describe_frame(offset=1 << 80),
    "babble-empty": describe_frame(shape=[0, 5, 3]),
    "babble-channels": describe_frame(shape=[5, 5, 7]),
    "babble-grey": describe_frame(shape=[5, 5]),
    "babble-wide": describe_frame(shape=[1, 60_000_000, 3]),
    "babble-large": describe_frame(shape=[60_000, 60_000, 3]),
    "babble-half": describe_frame(stop=3.0),
    "babble-true": describe_frame(offset=True),
    "babble-end-empty": {"end": {}},
    "babble-end-number": {"end": 5},
    "babble-note": {"end": {"note": 7, "busy_s": 0.0}},
    "babble-busy": {"end": {"note": "", "busy_s": float("nan")}},
    "babble-idle": {"end": {"note": "", "busy_s": -1.0}},
    "babble-detail": {"refused": ["NO_FACE", {"a": 1}]},
    "babble-why": {"refused": 5},
}


def describe_facts(**changes: object) -> dict[str, Any]:
    """What the packets say, some of it untrue."""
    facts = {"width": 64, "height": 48, "codec": "h264", "container": "mov", "frames": 20, "duration_s": 0.8}
    return {"facts": {**facts, **changes}}


FALSE_FACTS: dict[str, Any] = {
    "claim-text": describe_facts(duration_s="x"),
    "claim-nan": describe_facts(duration_s=float("nan")),
    "claim-ever": describe_facts(duration_s=float("inf")),
    "claim-long": describe_facts(duration_s=1e9),
    "claim-negative": describe_facts(duration_s=-5.0),
    "claim-null": describe_facts(frames=None),
    "claim-none": describe_facts(frames=0),
    "claim-many": describe_facts(frames=10**9),
    "claim-wide": describe_facts(width=1 << 30),
    "claim-codec": describe_facts(codec=["h264"]),
    "claim-list": {"facts": [1]},
    "claim-end": {"end": {"note": "", "busy_s": 0.0}},
}


if __name__ == "__main__":
    main()
