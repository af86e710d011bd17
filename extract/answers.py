"""What a decoder process may answer: its words are checked one by one, for a file may have taken it over.

Whatever makes no sense is a ValueError. No other error leaves this module, and nothing passes that it did not check.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from extract.errors import Reason, VideoError
from extract.limits import MediaLimits
from extract.video import VideoFacts

MOST_TEXT = 500  # characters of a sentence, beyond the path that it names
MOST_NAME = 100  # of a codec or a container
MOST_SIDE = 1 << 16  # of a frame; no codec has larger ones

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a frame lies in the shared memory, and when it is shown."""

    offset: int
    shape: tuple[int, int, int]
    time_s: float


def read_message(line: bytes) -> dict[str, Any]:
    """One line of the decoder's."""
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("no message")
    return message


def read_refusal(document: object, path: Path) -> VideoError:
    """Why a file is refused."""
    if not isinstance(document, list) or [type(part) for part in document] != [str, str]:
        raise ValueError("no refusal")
    reason, detail = document
    return VideoError(Reason(reason), detail[: MOST_TEXT + len(str(path))])


def read_facts(document: object, limits: MediaLimits) -> VideoFacts:
    """What the packets say; the limits are those under which the decoder should have read them."""
    facts = VideoFacts(
        width=take_count(document, "width"),
        height=take_count(document, "height"),
        codec=_take(document, "codec", str)[:MOST_NAME],
        container=_take(document, "container", str)[:MOST_NAME],
        frames=take_count(document, "frames"),
        duration_s=take_seconds(document, "duration_s"),
    )
    if facts.width * facts.height > limits.most_pixels or facts.duration_s > limits.most_duration_s:
        raise ValueError("beyond the limits")
    if not 1 <= facts.frames <= limits.most_frames:
        raise ValueError("beyond the limits")
    return facts


def read_place(document: object, limits: MediaLimits) -> Place:
    """Where a frame is."""
    shape = _take(document, "shape", list)
    if [type(side) for side in shape] != [int, int, int] or shape[2] != 3:
        raise ValueError("no frame has this shape")
    height, width, _ = shape
    if not (0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE and height * width <= limits.most_pixels):
        raise ValueError("no frame is of this size")
    return Place(take_count(document, "offset"), (height, width, 3), take_seconds(document, "time_s"))


def read_end(document: object, path: Path) -> dict[str, Any]:
    """How reading ended."""
    note = _take(document, "note", str)[: MOST_TEXT + len(str(path))]
    return {"note": note, "busy_s": take_seconds(document, "busy_s")}


def take_count(document: object, name: str) -> int:
    """A whole number that is not negative."""
    count = _take(document, name, int)
    if count < 0:
        raise ValueError(name)
    return count


def take_seconds(document: object, name: str) -> float:
    """A finite time that is not negative."""
    seconds = _take(document, name, float)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(name)
    return seconds


def _take(document: object, name: str, kind: type[T]) -> T:
    """A value of exactly this type: to Python, True is a number too."""
    value = document.get(name) if isinstance(document, dict) else None
    if type(value) is not kind:
        raise ValueError(name)
    return value
