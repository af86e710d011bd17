"""The decoder process with faults built in: it dies on files named crash*, sleeps on hang*, and stops after slow*."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extract import decoder
from extract.video import Frame, Video


def main() -> None:
    """Serves like the real one, whose decoding is replaced."""
    read_at = Video.read_at

    def read_badly(video: Video, instants: Any) -> Iterator[tuple[slice, Frame]]:
        for number, found in enumerate(read_at(video, instants)):
            if number == 2:
                fail(video.path)
            yield found

    Video.read_at = read_badly  # type: ignore[method-assign,assignment]
    decoder.main()


def fail(path: Path) -> None:
    """Does what a decoder does on a file that it cannot stand."""
    if path.name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.name.startswith("hang"):
        time.sleep(1000)


if __name__ == "__main__":
    main()
