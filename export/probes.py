"""Seeded synthetic clips that a model is proved on, at export and again wherever it runs: taken from nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from export.certificate import Recorded
from export.fused import ClipScores
from extract.specs import Precision
from extract.synthetic import make_crops

QUICK_SHAPE = (2, 3)  # (B, T) of the batch that scoring begins with: clips of different length, and nobody waits long
SHAPES = ((1, 1), QUICK_SHAPE, (2, 8), (1, 32))
# How far another machine's probabilities may be from those at export. 8 bits are rounded differently by processors
# with other integer instructions.
MOST_REPLAY_ERROR: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "int8": 2e-2}

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def make_batches(size_px: int) -> list[Batch]:
    """Crops (B, T, S, S, 3) and lengths (B,), one batch for each of SHAPES."""
    return [make_batch(clips, frames, size_px) for clips, frames in SHAPES]


def make_batch(clips: int, frames: int, size_px: int) -> Batch:
    """Clips of synthetic crops, each three frames shorter than the one before."""
    crops = make_crops(clips * frames, size_px, seed=clips * 1000 + frames)
    lengths = np.array([max(1, frames - 3 * i) for i in range(clips)], np.int64)
    return crops.reshape(clips, frames, size_px, size_px, 3), lengths


def record(
    run: Callable[[NDArray[np.uint8], NDArray[np.int64]], ClipScores], batches: Sequence[Batch]
) -> tuple[Recorded, ...]:
    """What a model gives for batches."""
    return tuple(
        Recorded(clips=len(lengths), frames=crops.shape[1], logits=tuple(run(crops, lengths).logit.tolist()))
        for crops, lengths in batches
    )


def measure_replay(found: Sequence[Recorded], expected: Sequence[Recorded]) -> float:
    """Bound on the difference of two recordings' probabilities; infinite where they are of other batches.

    It comes from the logits, since a sigmoid's slope is at most 1/4: saturated probabilities would always agree.
    """
    shapes = [(one.clips, one.frames, len(one.logits)) for one in found]
    if shapes != [(one.clips, one.frames, len(one.logits)) for one in expected]:
        return float("inf")
    ours, theirs = (np.concatenate([np.array(one.logits) for one in side]) for side in (found, expected))
    return float(np.abs(ours - theirs).max() / 4)
