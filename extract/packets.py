"""Which packets of a stream must be decoded to show it at chosen instants: all, or only some groups of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

# Leaping over packets costs a decoder its threads' head start: it has to spare more than this share of them.
LEAST_SAVING = 0.25


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream in the order of decoding."""

    stamps: NDArray[np.int64]  # (P,) presentation, in ticks of `tick_s`
    keys: NDArray[np.bool_]  # (P,) decoding may begin here
    shown: NDArray[np.bool_]  # (P,) False where an edit list hides the frame
    tick_s: Fraction

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Presentation times (P,), computed in the order of operations in which the decoder does it."""
        return self.stamps.astype(np.float64) * self.tick_s.numerator / self.tick_s.denominator


@dataclass(frozen=True)
class ReadingPlan:
    """What to do with each packet, and what must come of it."""

    feed: NDArray[np.bool_]  # (P,) False: the decoder never sees it
    wanted: NDArray[np.bool_]  # (P,) its frame is on screen at some instant
    on_screen_s: NDArray[np.float64]  # (instants,) time of the frame that each instant shows, from the first frame


def plan_reading(index: PacketIndex, instants: NDArray[np.float64]) -> ReadingPlan | None:
    """The packets to decode for the frames on screen at ascending instants (seconds from the first shown frame).

    A frame needs everything from the keyframe before it; a frame shown before that keyframe (the leading pictures of
    an open group) needs the group before as well. None where stamps do not tell the frames apart.
    """
    visible = np.flatnonzero(index.shown)
    order = visible[np.argsort(index.stamps[visible], kind="stable")]
    if not order.size or (np.diff(index.stamps[order]) == 0).any():
        return None
    times = index.times_s[order]
    times -= times[0]
    on_screen = np.maximum(np.searchsorted(times, instants, side="right") - 1, 0)
    chosen = np.unique(order[on_screen])
    wanted = np.zeros(len(index.stamps), np.bool_)
    wanted[chosen] = True
    feed = _mark_needed(index, chosen)
    if feed.mean() > 1 - LEAST_SAVING:
        feed[:] = True
    return ReadingPlan(feed, wanted, times[on_screen])


def _mark_needed(index: PacketIndex, chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
    keys = np.flatnonzero(index.keys)
    change = np.zeros(len(index.stamps) + 1, np.int64)
    for packet in chosen.tolist():
        at = int(np.searchsorted(keys, packet, side="right")) - 1
        while at >= 0 and index.stamps[keys[at]] > index.stamps[packet]:
            at -= 1
        change[keys[at] if at >= 0 else 0] += 1
        change[packet + 1] -= 1
    return np.cumsum(change[:-1]) > 0


def holds_idr(packet: bytes, extradata: bytes | None) -> bool:
    """True for an H.264 access unit from which decoding is exact.

    Containers also mark recovery points as keyframes, after which the picture is only mended bit by bit (ITU-T
    H.264, D.2.8). NAL unit type 5 is a slice of an IDR picture (table 7-1).
    """
    if not extradata or extradata[0] != 1:  # Annex B: start codes
        return any(part[:1] and part[0] & 31 == 5 for part in packet.split(b"\0\0\1")[1:])
    width = (extradata[4] & 3) + 1 if len(extradata) > 4 else 4
    at = 0
    while at + width < len(packet):
        if packet[at + width] & 31 == 5:
            return True
        at += width + int.from_bytes(packet[at : at + width], "big")
    return False
