"""Contact sheets as pictures: rows of frames with boxes, and under each frame its crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from extract.files import write_aside

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Colour = tuple[int, int, int]

CELL_PX = 150
GAP_PX = 10
MARGIN_PX = 24
COLUMNS = 10
WIDTH_PX = 2 * MARGIN_PX + COLUMNS * (CELL_PX + GAP_PX) - GAP_PX
HEAD_PX, CAPTION_PX, SPACE_PX = 30, 22, 22
PAPER, INK, GREY = (255, 255, 255), (31, 41, 51), (110, 121, 135)
# Told apart by people who see few colours, too (Okabe and Ito); the number stands beside each.
TRACKS: tuple[Colour, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (170, 68, 136), (148, 120, 0), (86, 130, 200), (90, 90, 90),
)  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """A box to draw into a frame; the own one of a row is drawn thick."""

    track: int
    box: NDArray[np.float32]  # (4,) pixels of the frame
    own: bool


@dataclass(frozen=True)
class Cell:
    """A frame, already small, and the crop taken from it."""

    time_s: float
    score: float
    thumbnail: Picture
    crop: Picture


@dataclass(frozen=True)
class Row:
    """One track in one clip."""

    track: int
    text: str
    cells: list[Cell]


def choose_colour(track: int) -> Colour:
    """The colour of a track, wherever it is drawn."""
    return TRACKS[track % len(TRACKS)]


def draw_thumbnail(rgb: Picture, marks: Sequence[Mark]) -> Picture:
    """A frame fitted into a cell, with boxes and the numbers of their tracks."""
    zoom = CELL_PX / max(rgb.shape[:2])
    small = _resize(rgb, round(rgb.shape[1] * zoom), round(rgb.shape[0] * zoom))
    for mark in marks:
        x0, y0, x1, y1 = (round(float(v) * zoom) for v in mark.box)
        colour = choose_colour(mark.track)
        cv2.rectangle(small, (x0, y0), (x1, y1), PAPER, 4 if mark.own else 2)
        cv2.rectangle(small, (x0, y0), (x1, y1), colour, 2 if mark.own else 1)
        _draw_tag(small, str(mark.track), x0, max(0, y0 - 15), colour)
    return small


def write_picture(path: Path, head: Sequence[str], rows: Sequence[Row]) -> None:
    """Draws a sheet and writes it as PNG."""
    heights = [_measure_row(row) for row in rows]
    top = MARGIN_PX + 34 + 24 * (len(head) - 1) + SPACE_PX
    sheet = np.full((top + sum(heights) + MARGIN_PX, WIDTH_PX, 3), PAPER, np.uint8)
    _write(sheet, head[0], MARGIN_PX, MARGIN_PX + 20, 0.8, INK, 2)
    for i, line in enumerate(head[1:]):
        _write(sheet, line, MARGIN_PX, MARGIN_PX + 48 + 24 * i, 0.5, INK)
    for row, height in zip(rows, heights, strict=True):
        _draw_row(sheet, row, top)
        top += height
    ok, encoded = cv2.imencode(".png", sheet[:, :, ::-1])
    assert ok  # an 8-bit picture can always be encoded
    with write_aside(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _measure_row(row: Row) -> int:
    frames_px: int = max(cell.thumbnail.shape[0] for cell in row.cells)
    return HEAD_PX + frames_px + 6 + CELL_PX + CAPTION_PX + SPACE_PX


def _draw_row(sheet: Picture, row: Row, top: int) -> None:
    colour = choose_colour(row.track)
    cv2.line(sheet, (MARGIN_PX, top), (WIDTH_PX - MARGIN_PX, top), (222, 226, 231), 1)
    right = _draw_tag(sheet, f"track {row.track}", MARGIN_PX, top + 7, colour)
    _write(sheet, row.text, right + 12, top + 19, 0.45, INK)
    frames_px = max(cell.thumbnail.shape[0] for cell in row.cells)
    for column, cell in enumerate(row.cells):
        left = MARGIN_PX + column * (CELL_PX + GAP_PX)
        y = top + HEAD_PX
        height, width = cell.thumbnail.shape[:2]
        _paste(sheet, cell.thumbnail, left + (CELL_PX - width) // 2, y + frames_px - height)
        y += frames_px + 6
        _paste(sheet, _resize(cell.crop, CELL_PX, CELL_PX), left, y)
        cv2.rectangle(sheet, (left, y), (left + CELL_PX - 1, y + CELL_PX - 1), colour, 2)
        _write(sheet, f"{cell.time_s:.2f} s", left + 1, y + CELL_PX + 15, 0.42, INK)
        score = f"{cell.score:.3f}"
        _write(sheet, score, left + CELL_PX - 1 - _measure_text(score, 0.42, 1), y + CELL_PX + 15, 0.42, GREY)


def _resize(picture: Picture, width: int, height: int) -> Picture:
    size = max(1, width), max(1, height)
    method = cv2.INTER_AREA if size[0] < picture.shape[1] else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(picture, size, interpolation=method), dtype=np.uint8)


def _paste(sheet: Picture, picture: Picture, left: int, top: int) -> None:
    sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _draw_tag(picture: Picture, text: str, left: int, top: int, colour: Colour) -> int:
    """A filled label with white text; returns where it ends."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    left = max(0, min(left, picture.shape[1] - width - 8))
    cv2.rectangle(picture, (left, top), (left + width + 7, top + 15), colour, -1)
    _write(picture, text, left + 4, top + 12, 0.42, PAPER)
    return int(left + width + 7)


def _write(picture: Picture, text: str, left: int, base: int, scale: float, colour: Colour, weight: int = 1) -> None:
    """Text that is cut short where the picture ends."""
    fits = text
    while fits not in ("", "...") and left + _measure_text(fits, scale, weight) > picture.shape[1] - 4:
        fits = fits[: -1 if fits is text else -4] + "..."
    cv2.putText(picture, fits, (left, base), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA)


def _measure_text(text: str, scale: float, weight: int) -> int:
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    return int(width)
