"""Hostile variants of video files: damaged at random, or with a header that lies, each from its seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.media import Frames, write_video

FAST: dict[str, str] = {"movflags": "faststart"}
PLAIN: dict[str, str] = {}
KINDS = (
    ("mp4", "libx264", FAST), ("mov", "mjpeg", PLAIN), ("mkv", "libx264", PLAIN), ("webm", "libvpx-vp9", PLAIN),
    ("avi", "mpeg4", PLAIN), ("ts", "libx264", PLAIN), ("mpg", "mpeg2video", PLAIN), ("flv", "flv", PLAIN),
    ("wmv", "wmv2", PLAIN),
)  # fmt: skip
EXTENSIONS = tuple(f".{kind}" for kind, _, _ in KINDS)
BOXES = (b"stsz", b"stco", b"stsc", b"stts", b"ctts", b"stss", b"elst", b"mdhd", b"mvhd", b"tkhd", b"avcC", b"hdlr")
NUMBERS = (0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def write_originals(folder: Path, frames: Frames) -> list[Path]:
    """The same footage in every container and codec that is mutated."""
    folder.mkdir(exist_ok=True)
    return [
        write_video(
            folder / f"{codec}.{kind}",
            frames,
            codec=codec,
            pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p",
            container_options=options,
        )
        for kind, codec, options in KINDS
    ]


def write_mutants(folder: Path, originals: Sequence[Path], count: int, seed: int = 0) -> list[Path]:
    """So many hostile files, each original and each kind of damage in turn."""
    folder.mkdir(exist_ok=True)
    contents = [(path.suffix, path.read_bytes()) for path in originals]
    damages = tuple(DAMAGES)
    paths = []
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        suffix, content = contents[number % len(contents)]
        damage = damages[number // len(contents) % len(damages)]
        if damage == "other name":
            suffix = rng.choice([other for other in EXTENSIONS if other != suffix])
        donor = rng.choice(contents)[1]
        path = folder / f"{number:04}-{damage.replace(' ', '-')}{suffix}"
        path.write_bytes(DAMAGES[damage](content, donor, rng))
        paths.append(path)
    return paths


def cut(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """Ends too early."""
    return content[: rng.randrange(len(content))]


def flip(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """Some bits are others, anywhere."""
    copy = bytearray(content)
    for _ in range(rng.choice((1, 20, 400))):
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
    return bytes(copy)


def flip_header(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """Some bits of the first bytes are others, where most formats keep their tables."""
    copy = bytearray(content)
    for _ in range(rng.choice((1, 4, 16))):
        copy[rng.randrange(min(1200, len(copy)))] ^= 1 << rng.randrange(8)
    return bytes(copy)


def overwrite(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """A stretch is zero, or noise."""
    at = rng.randrange(len(content))
    size = min(rng.choice((8, 200, 3000)), len(content) - at)
    return content[:at] + rng.choice((bytes(size), rng.randbytes(size))) + content[at + size :]


def leave_out(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """A stretch is missing."""
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice((1, 8, 200, 3000)) :]


def repeat(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """A stretch comes many times."""
    at = rng.randrange(len(content))
    return content[:at] + content[at : at + rng.choice((8, 200, 3000))] * rng.choice((2, 50)) + content[at:]


def swap_header(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """Begins like another file."""
    size = rng.choice((16, 64, 400, 1200))
    return donor[:size] + content[size:]


def keep(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """Nothing but a name that says something else."""
    return content


def lie_in_numbers(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """Numbers of a table are as large as they go, or zero: sizes, counts, offsets, rates, durations."""
    copy = bytearray(content)
    for box in rng.sample(BOXES, rng.choice((1, 3))):
        at = content.find(box)
        if at >= 0:
            place = at + 4 + 4 * rng.randrange(8)
            copy[place : place + 4] = rng.choice(NUMBERS).to_bytes(4, "big")
    if bytes(copy) == content:  # no mp4: anywhere in the header
        for _ in range(rng.choice((1, 3))):
            place = rng.randrange(min(600, len(copy)))
            copy[place : place + 4] = rng.choice(NUMBERS).to_bytes(4, rng.choice(("big", "little")))
    return bytes(copy)


def append(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    """Another file follows."""
    return content + donor


DAMAGES: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "cut": cut,
    "flip": flip,
    "flip header": flip_header,
    "overwrite": overwrite,
    "leave out": leave_out,
    "repeat": repeat,
    "swap header": swap_header,
    "other name": keep,
    "lie in numbers": lie_in_numbers,
    "append": append,
}
