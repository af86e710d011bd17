"""Files that lie or refer to others, built by hand from real ones."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from tests.media import numbered_frames, write_video

HUGE_PX = 20_000


def find_box(content: bytes, *names: bytes) -> int:
    """Where the payload of an mp4's box begins; of several, each is looked for after the one before."""
    at = 0
    for name in names:
        at = content.index(name, at) + 4
    return at


def patch(path: Path, at: int, new: bytes) -> Path:
    """Overwrites some bytes."""
    content = bytearray(path.read_bytes())
    content[at : at + len(new)] = new
    path.write_bytes(content)
    return path


def write_lied_size(folder: Path) -> Path:
    """An MJPEG film whose header and pictures say 20,000 x 20,000 pixels."""
    path = write_video(folder / "huge.mov", numbered_frames(10), codec="mjpeg", pixel_format="yuvj420p")
    content = path.read_bytes()
    patch(path, find_box(content, b"stsd", b"jpeg") + 24, struct.pack(">HH", HUGE_PX, HUGE_PX))
    at = content.find(b"\xff\xc0")
    while at >= 0:
        patch(path, at + 5, struct.pack(">HH", HUGE_PX, HUGE_PX))
        at = content.find(b"\xff\xc0", at + 1)
    return path


def write_no_rate(folder: Path) -> Path:
    """All frames at once: every one lasts for nothing."""
    path = write_video(folder / "norate.mp4", numbered_frames(20))
    return patch(path, find_box(path.read_bytes(), b"stts") + 12, bytes(4))


def write_no_clock(folder: Path) -> Path:
    """A time scale of 0 ticks a second."""
    path = write_video(folder / "noclock.mp4", numbered_frames(20))
    return patch(path, find_box(path.read_bytes(), b"mdhd") + 12, bytes(4))


def write_no_avi_rate(folder: Path) -> Path:
    """An AVI of 0 frames a second, of 0 ticks each."""
    path = write_video(folder / "norate.avi", numbered_frames(20), codec="mpeg4")
    patch(path, path.read_bytes().index(b"avih") + 8, bytes(4))
    return patch(path, path.read_bytes().index(b"strh") + 28, bytes(8))


def write_declared_ages(folder: Path) -> Path:
    """A header that promises years, before half a second of film."""
    path = write_video(folder / "ages.mp4", numbered_frames(20))
    for box in (b"mdhd", b"mvhd"):
        patch(path, find_box(path.read_bytes(), box) + 16, b"\x7f\xff\xff\xff")
    return path


def write_giant_table(folder: Path) -> Path:
    """Two thousand million samples of one byte, in a file of a few kilobytes."""
    path = write_video(folder / "table.mp4", numbered_frames(20))
    content = path.read_bytes()
    patch(path, find_box(content, b"stsz") + 4, struct.pack(">II", 1, 0x7FFFFFFF))
    patch(path, find_box(content, b"stsc") + 12, struct.pack(">I", 0x7FFFFFFF))
    return patch(path, find_box(content, b"stts") + 8, struct.pack(">II", 0x7FFFFFFF, 1))


def write_odd_matrix(folder: Path) -> Path:
    """A display matrix of noise."""
    path = write_video(folder / "matrix.mp4", numbered_frames(20))
    return patch(path, find_box(path.read_bytes(), b"tkhd") + 40, bytes.fromhex("7fffffff80000001") * 4 + b"\xff" * 4)


def write_no_stamps(folder: Path) -> Path:
    """A transport stream whose packets say nothing of time."""
    path = write_video(folder / "nostamps.ts", numbered_frames(20))
    content = bytearray(path.read_bytes())
    at = content.find(b"\x00\x00\x01\xe0")
    while at >= 0:
        content[at + 7] &= 0x3F  # PTS_DTS_flags of the PES header, ISO/IEC 13818-1, 2.4.3.6
        at = content.find(b"\x00\x00\x01\xe0", at + 1)
    path.write_bytes(content)
    return path


def write_changing_size(folder: Path) -> Path:
    """A transport stream whose pictures become larger in the middle."""
    small = write_video(folder / "small.ts", numbered_frames(10))
    large = write_video(folder / "large.ts", numbered_frames(10, 128, 96), times_ms=range(400, 800, 40))
    path = folder / "changing.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    return path


def write_many_streams(folder: Path, count: int, attachments: int = 0) -> Path:
    """The same film so many times in one file, and small attachments."""
    source = write_video(folder / "one.mkv", numbered_frames(6))
    path = folder / f"{count}-{attachments}.mkv"
    with av.open(str(source)) as reader, av.open(str(path), "w") as writer:
        streams: list[Any] = [writer.add_stream_from_template(reader.streams.video[0]) for _ in range(count)]
        for number in range(attachments):
            writer.add_attachment(f"{number}.ttf", "application/x-truetype-font", b"font")
        for packet in reader.demux(video=0):
            if not packet.size:
                continue
            for stream in streams:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                writer.mux(copy)
    return path


def write_data_reference(path: Path, secret: Path, kind: bytes) -> Path:
    """An mp4 without media of its own, whose samples are said to lie in `secret`, an mp4.

    ISO/IEC 14496-12, 8.7.2: a `url ` entry without flag 1 names the file. QuickTime's `alis` holds an alias record,
    in whose extensions of type 2 and 18 FFmpeg finds a path.
    """
    content = secret.read_bytes()
    moov = content[content.index(b"moov") - 4 :]
    moov = moov[: int.from_bytes(moov[:4], "big")]
    old = moov[find_box(moov, b"dref") + 8 :][:12]
    assert old == struct.pack(">I4sI", 12, b"url ", 1)
    entry = _make_alias(secret) if kind == b"alis" else bytes(4) + os.fsencode(secret.resolve().as_uri()) + b"\0"
    new = struct.pack(">I4s", 8 + len(entry), kind) + entry
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):  # each of them grows
        at = moov.index(parent) - 4
        size = int.from_bytes(moov[at : at + 4], "big") + len(new) - len(old)
        moov = moov[:at] + struct.pack(">I", size) + moov[at + 4 :]
    path.write_bytes(content[: content.index(b"ftyp") - 4 + 32] + moov.replace(old, new))
    return path


def _make_alias(secret: Path) -> bytes:
    name = secret.name.encode()
    target = os.fsencode(secret.resolve())
    record = bytes(10)
    record += bytes((min(len(name), 27),)) + name[:27].ljust(27, b"\0")  # volume
    record += bytes(12) + bytes((min(len(name), 63),)) + name[:63].ljust(63, b"\0")  # file name
    record += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)  # nlvl_from, nlvl_to
    for kind in (2, 18):
        padded = target + b"\0" * (len(target) % 2)
        record += struct.pack(">HH", kind, len(target)) + padded
    record += struct.pack(">HH", 0xFFFF, 0)
    return bytes(4) + record


LIES: dict[str, Callable[[Path], Path]] = {
    "size": write_lied_size,
    "no rate": write_no_rate,
    "no clock": write_no_clock,
    "no rate in an AVI": write_no_avi_rate,
    "ages": write_declared_ages,
    "giant table": write_giant_table,
    "odd matrix": write_odd_matrix,
    "no stamps": write_no_stamps,
    "changing size": write_changing_size,
    "100 streams": lambda folder: write_many_streams(folder, 100),
}
