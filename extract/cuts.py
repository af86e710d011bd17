"""Scene cuts: which shot each sampled frame belongs to, told from small pictures of the frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from extract.specs import TrackSpec

SPARSE_PX = 90  # of the shorter side's pixels about so many are looked at: a whole frame costs more than the rest
COLOUR_PX = (64, 36)
SHAPE_PX = (32, 18)
SHIFT_PX = (5, 3)  # how far a camera may pan before its picture is another one
COLOUR_BINS = 48
COLOUR_RANGE = (0.1, 0.6)  # of red and of blue in red + green + blue
GREY_BINS = 32


@dataclass(frozen=True)
class Look:
    """What is kept of a frame to compare it with others."""

    colours: NDArray[np.float32]  # (48, 48) share of the pixels of each colour, whatever their brightness
    greys: NDArray[np.float32]  # (32,) share of the pixels of each brightness
    shape: NDArray[np.float32]  # (18, 32) brightness


@dataclass(frozen=True)
class Likeness:
    """How alike two frames are: 1 for equal ones."""

    overlap: float  # of their histograms, colours or greys, whichever share less
    structure: float  # correlation of their brightness, at the best of all small shifts


class ShotCounter:
    """Gives each frame the number of its shot, frame after frame.

    A cut is seen where the histograms share less than `cut_overlap` and no small shift makes the brightness correlate
    by `cut_structure`. Light that changes moves the histograms and leaves the structure; a head that turns does the
    opposite. A single frame unlike its neighbours, which resemble each other, is a flash: the shot goes on after it.

    The limits were chosen on 61 clips of talking faces and three films, and are judged on the same. Of 39,000 pairs of
    frames of one shot, 0.04 to 8 s apart, none is taken for a cut (least overlap up to 0.35 s apart: 0.68, up to 8 s:
    0.635). Of 5,457 pairs of frames of different persons 98.6 % are. Nearly all others come from one studio with the
    same blue wall behind everybody, where 80 % are.
    """

    def __init__(self, spec: TrackSpec) -> None:
        self._spec = spec
        self._seen: list[tuple[int, Look]] = []  # the last two frames
        self._next = 0

    def count(self, rgb: NDArray[np.uint8]) -> int:
        """The shot of the next frame (H, W, 3)."""
        look = describe_look(rgb)
        # The frame before the last has the last one's shot, or is tried because the last may be a flash.
        shot = next((shot for shot, seen in reversed(self._seen) if self._is_one_shot(seen, look)), self._next)
        self._next = max(self._next, shot + 1)
        self._seen = [*self._seen[-1:], (shot, look)]
        return shot

    def _is_one_shot(self, before: Look, after: Look) -> bool:
        likeness = compare_looks(before, after)
        return likeness.overlap >= self._spec.cut_overlap or likeness.structure >= self._spec.cut_structure


def describe_look(rgb: NDArray[np.uint8]) -> Look:
    """Histograms and a thumbnail of a frame (H, W, 3)."""
    step = max(1, min(rgb.shape[:2]) // SPARSE_PX)
    sparse = np.ascontiguousarray(rgb[::step, ::step])
    small = np.asarray(cv2.resize(sparse, COLOUR_PX, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    shape = cv2.resize(grey, SHAPE_PX, interpolation=cv2.INTER_AREA).astype(np.float32)
    greys = cv2.calcHist([grey], [0], None, [GREY_BINS], [0, 256]).ravel() / grey.size
    return Look(_count_colours(small), greys.astype(np.float32), shape)


def compare_looks(a: Look, b: Look) -> Likeness:
    """How alike two frames are."""
    shared = (np.minimum(x, y).sum() for x, y in ((a.colours, b.colours), (a.greys, b.greys)))
    x, y = SHIFT_PX
    structure = (
        float(cv2.matchTemplate(whole.shape, part.shape[y:-y, x:-x], cv2.TM_CCOEFF_NORMED).max())
        for whole, part in ((a, b), (b, a))
    )
    return Likeness(float(min(shared)), max(structure))


def _count_colours(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histogram of red and blue in units of the pixel's own brightness; dark pixels count as grey."""
    pixels = small.reshape(-1, 3).astype(np.float32) + 8
    low, high = COLOUR_RANGE
    shares = np.clip(pixels[:, ::2] / pixels.sum(axis=1, keepdims=True), low, high - 1e-4)
    counts = cv2.calcHist([shares[:, None]], [0, 1], None, [COLOUR_BINS] * 2, [low, high] * 2)
    # Smoothed: noise must not throw a wall of one colour from bin to bin.
    soft = cv2.GaussianBlur(counts, (3, 3), 0)
    return np.asarray(soft / soft.sum(), dtype=np.float32)
