"""The pictures of a report: a frame with its faces marked, and a heat map on a crop; both read without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from extract.sheet_picture import choose_colour
from serve.occlusion import REGION, HeatMap

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB

FRAME_PX, CROP_PX = 960, 400
FRAME_QUALITY, CROP_QUALITY = 80, 88
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# The crop under a heat map is light grey, so that it shows where nothing matters, spares ink, and leaves darkness to
# the heat: from white to the purple of "magma", whose lightness falls evenly.
LIGHTEST, DARKEST = 255, 90
SHADE = 0.55  # of the crop's brightness, the rest is white
# Log-odds at which a heat map is darkest, unless it holds more: half the odds. A weak one is to look weak.
FULL_DROP = math.log(2)


@dataclass(frozen=True)
class Picture:
    """A JPEG and its size."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Mark:
    """A face to mark in a frame; the box is in pixels of it, the `own` one is drawn thick."""

    track: int
    box: tuple[float, float, float, float]
    own: bool


def draw_frame(rgb: Pixels, marks: Sequence[Mark]) -> Picture:
    """A frame, made smaller where it is large, with the boxes and the numbers of its faces."""
    zoom = min(1.0, FRAME_PX / max(rgb.shape[:2]))
    picture = _resize(rgb, max(1, round(rgb.shape[1] * zoom)), max(1, round(rgb.shape[0] * zoom)))
    unit = max(1, round(max(picture.shape[:2]) / 480))  # the width of a thin line
    for mark in marks:
        x0, y0, x1, y1 = (round(v * zoom) for v in mark.box)
        colour, width = choose_colour(mark.track), unit * (3 if mark.own else 1)
        cv2.rectangle(picture, (x0, y0), (x1, y1), WHITE, width + 2 * unit, cv2.LINE_AA)
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, width, cv2.LINE_AA)
        _draw_tag(picture, f"face {mark.track}", x0, y0, unit, BLACK if mark.own else colour)
    return encode(picture, FRAME_QUALITY)


def draw_crop(crop: Pixels) -> Picture:
    """A crop at the size of its heat map."""
    return encode(_resize(crop, CROP_PX, CROP_PX), CROP_QUALITY)


def draw_heat(crop: Pixels, heat: HeatMap) -> Picture:
    """The drops over a grey crop, the darker the larger, with a line around the region that matters most."""
    drops = heat.spread(CROP_PX)
    grey = cv2.cvtColor(_resize(crop, CROP_PX, CROP_PX), cv2.COLOR_RGB2GRAY).astype(np.float64)
    light = 1 - SHADE + SHADE * grey / 255  # (S, S)
    picture = np.ascontiguousarray(colour_heat(drops / find_scale(heat)) * light[:, :, None], dtype=np.uint8)
    region = (drops >= REGION * drops.max()).astype(np.uint8)
    outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for colour, width in ((WHITE, 6), (BLACK, 2)):
        cv2.drawContours(picture, outlines, -1, colour, width, cv2.LINE_AA)
    return encode(picture, CROP_QUALITY)


def find_scale(heat: HeatMap) -> float:
    """The drop in log-odds that is drawn darkest."""
    return max(FULL_DROP, float(heat.spread(CROP_PX).max()))


def colour_heat(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (..., 3) from 0 to 255 for shares (...,) of the scale; darker is more, to colour-blind eyes too."""
    palette = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_MAGMA)[:, 0, ::-1]
    whitened = (
        palette.astype(np.float64) + (255 - palette[-1].astype(np.float64)) * np.linspace(0, 1, 256)[:, None] ** 4
    )
    places = LIGHTEST + (DARKEST - LIGHTEST) * np.asarray(shares, np.float64).clip(0, 1)
    return np.asarray(whitened[places.round().astype(np.int64)])


def encode(picture: Pixels, quality: int) -> Picture:
    """A picture as JPEG."""
    ok, encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok  # an 8-bit picture can always be encoded
    return Picture(encoded.tobytes(), picture.shape[1], picture.shape[0])


def _resize(picture: Pixels, width: int, height: int) -> Pixels:
    method = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_CUBIC
    return np.array(cv2.resize(picture, (width, height), interpolation=method), dtype=np.uint8)


def _draw_tag(picture: Pixels, text: str, left: int, base: int, unit: int, colour: tuple[int, int, int]) -> None:
    """A filled label above a box, or inside the picture where that would leave it."""
    size = 0.45 * unit
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, unit)
    pad = 4 * unit
    left = max(0, min(left - unit, picture.shape[1] - width - 2 * pad))
    top = max(0, min(base - height - 2 * pad, picture.shape[0] - height - 2 * pad))
    cv2.rectangle(picture, (left, top), (left + width + 2 * pad, top + height + 2 * pad), colour, -1)
    cv2.putText(
        picture, text, (left + pad, top + pad + height), cv2.FONT_HERSHEY_SIMPLEX, size, WHITE, unit, cv2.LINE_AA
    )
