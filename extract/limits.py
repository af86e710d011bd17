"""What one video may cost: limits that no honest footage reaches and that a hostile file cannot pass."""

from __future__ import annotations

from dataclasses import dataclass, fields

from extract.errors import UsageError

SLOWEST_BYTES_PER_S = 10e6  # of a disk or a network, while a file's packets are counted
LEAST_MEMORY = 512 << 20  # Python, numpy and FFmpeg take 300 MB of address space before they read anything


@dataclass(frozen=True)
class MediaLimits:
    """Checked against what the header and the packets say, before a frame is decoded; the first two while it runs.

    The defaults let pass 8K, phones at 240 frames a second, a day of CCTV, and a film with a track for every language.
    For a file that you trust, give `Scorer.open` or `DecoderProcess` others.
    """

    # Of address space, for the decoder process. 8K HEVC in ten bits takes 1.6 GiB, 1080p at most 0.8.
    memory_bytes: int = 2 << 30
    # Processor time for every second of footage, and for any file beyond that. 8K HEVC at 25 frames a second takes 5.
    cpu_s_per_s: float = 30.0
    cpu_base_s: float = 120.0
    # Of a frame, before and after its pixels are made square; twice 8K.
    most_pixels: int = 8192 * 8192
    # From the first frame to the last, by their time stamps: a week. Broadcast clocks that wrap jump by 27 hours.
    most_duration_s: float = 7 * 24 * 3600.0
    # On average. Phones record slow motion at up to 960.
    most_fps: float = 1000.0
    # A week at 33 a second, a day at 231. Their index takes 10 bytes each.
    most_frames: int = 20_000_000
    # Without attachments, of which a film may bring a font for every sign. A broadcast multiplex has up to 60.
    most_streams: int = 96

    def __post_init__(self) -> None:
        """Raises UsageError for limits under which nothing can be read."""
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UsageError(f"the limit {field.name} is {getattr(self, field.name)}; expected more than 0")
        if self.memory_bytes < LEAST_MEMORY:
            raise UsageError(
                f"the limit memory_bytes is {self.memory_bytes >> 20} MiB; a decoder process that is to do anything "
                f"needs {LEAST_MEMORY >> 20} MiB"
            )


DEFAULT_LIMITS = MediaLimits()
