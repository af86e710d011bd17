"""Where on a face a score comes from: regions are hidden one after the other, and what that takes away is measured.

Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.calibrate import apply_sigmoid

PLACES = 8  # patches along each side
PATCH = 0.25  # of the crop's side: an eye, or a mouth
BLUR = 0.7  # of the distance between patches
BATCH = 16  # crops that are scored together
# Log-odds. Hiding any part of a face moves a score a little; what changes the odds by less than a fifth is no answer.
LEAST_DROP = 0.2
REGION = 0.5  # of the highest drop: what is higher is the region that decides

Score = Callable[[NDArray[np.uint8]], NDArray[np.float64]]  # crops (N, S, S, 3) -> log-odds (N,)


@dataclass(frozen=True, eq=False)
class HeatMap:
    """By how much a face's log-odds of being fake fall where a patch is hidden, in rows from the top."""

    logit: float  # with nothing hidden
    drops: NDArray[np.float64]  # (PLACES, PLACES); below 0 where hiding raises the score

    @property
    def peak(self) -> tuple[int, int]:
        """Row and column of the patch that matters most, its neighbours heard: they share half its pixels and more."""
        row, column = np.unravel_index(int(self._smooth(np.arange(PLACES)).argmax()), self.drops.shape)
        return int(row), int(column)

    @property
    def drop(self) -> float:
        """What hiding that patch takes away."""
        return float(self.drops[self.peak])

    @property
    def decisive(self) -> bool:
        """Whether any region matters enough to be named."""
        return self.drop >= LEAST_DROP

    @property
    def p_whole(self) -> float:
        """P(fake) with nothing hidden."""
        return float(apply_sigmoid(np.array(self.logit)))

    @property
    def p_hidden(self) -> float:
        """P(fake) with that patch hidden."""
        return float(apply_sigmoid(np.array(self.logit - self.drop)))

    @property
    def place(self) -> tuple[float, float]:
        """Where the middle of that patch is: right and down, each from 0 to 1."""
        row, column = self.peak
        centres = PATCH / 2 + (1 - PATCH) * np.arange(PLACES) / (PLACES - 1)
        return float(centres[column]), float(centres[row])

    def spread(self, size_px: int) -> NDArray[np.float64]:
        """A drop for every pixel (S, S) of a crop: the mean of the patches around it, the nearer the heavier."""
        lefts, side = _place_patches(size_px)
        return self._smooth(np.interp(np.arange(size_px) + 0.5, lefts + side / 2, np.arange(PLACES)))

    def _smooth(self, places: NDArray[Any]) -> NDArray[np.float64]:
        """The drops (N, N) at N places along either side, counted in patches."""
        weights = np.exp(-0.5 * np.square((places[:, None] - np.arange(PLACES)) / BLUR))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.asarray(weights @ self.drops @ weights.T)


def hide_regions(crop: NDArray[np.uint8], score: Score) -> HeatMap:
    """Hides each region of a crop (S, S, 3) behind a square of its mean colour, and scores what is left."""
    lefts, side = _place_patches(len(crop))
    colour = crop.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    corners = [(top, left) for top in lefts.tolist() for left in lefts.tolist()]
    found = []
    for start in range(0, len(corners), BATCH):
        batch = corners[start : start + BATCH]
        hidden = np.repeat(crop[None], len(batch), axis=0)
        for picture, (top, left) in zip(hidden, batch, strict=True):
            picture[top : top + side, left : left + side] = colour
        found.append(score(hidden))
    logit = float(score(crop[None])[0])
    return HeatMap(logit, logit - np.concatenate(found).reshape(PLACES, PLACES))


def _place_patches(size_px: int) -> tuple[NDArray[np.int64], int]:
    """Where the patches of a crop begin along either side, and how long theirs is."""
    side = max(1, round(size_px * PATCH))
    return np.linspace(0, size_px - side, PLACES).round().astype(np.int64), side
