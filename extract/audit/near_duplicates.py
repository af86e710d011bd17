"""Videos whose features are so alike that they show one recording: encoded again, mirrored, shortened.

Two clips are compared by the cosine of their mean features, after the mean of all clips is taken away: without that,
all faces are alike to a network that ends in ReLU. A video is as close to another as the closest of its clips, so a cut
from a long video is found. Of two clips in all nothing can be told: the mean lies between them.

The threshold was chosen on 61 clips of 31 persons and on 132 altered copies of 22 of them (EfficientNet-Lite0 with
ImageNet weights, `even:32`). 1,765 pairs of videos of different persons reach 0.70 at most, those in one studio; in
smaller mixtures of these sources they reach 0.61. From 0.85 on are found: all 88 copies that were encoded again (CRF
23), mirrored, shortened by a tenth or by half (they reach 0.92 and more); 18 of 44 that were encoded hard (CRF 35) or
halved in size; 18 of 20 fakes beside their original; and 6 of 42 pairs of one person in other clips, which are cuts of
one recording. So a finding is evidence, and none is no proof: 1,765 pairs tell little of a billion.

Random weights see colours above all: different persons reach 0.94, and mirrored copies fall to 0.28. Features of an
untrained backbone are therefore compared only when a threshold is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from extract.cache import OK, CacheFile
from extract.manifest import SPLITS
from extract.results import ORIGINAL_VIEW

LEAST_SIMILARITY = 0.85
BLOCK = 4096  # clips; a block of products is 64 MiB


@dataclass(frozen=True)
class NearDuplicate:
    """A video of a later split and what is closest to it in an earlier one, by id."""

    earlier: str
    later: str
    splits: tuple[str, str]
    similarity: float


@dataclass(frozen=True)
class ClipMeans:
    """The mean feature of every clip that is compared, of length one, and the video it belongs to."""

    ids: tuple[str, ...]
    vectors: NDArray[np.float32]  # (C, D)

    def select(self, clips: NDArray[np.int64]) -> ClipMeans:
        """Some of the clips."""
        return ClipMeans(tuple(self.ids[clip] for clip in clips), self.vectors[clips])


def find_near_duplicates(
    cache: CacheFile, split_of: Mapping[str, str], least: float = LEAST_SIMILARITY
) -> list[NearDuplicate]:
    """For each video the closest one of every earlier split, where that is close enough.

    `split_of` gives the split of each id. Needs twice 4 * D bytes a clip and a dot product for every two clips of
    different splits: for 100,000 clips of 2048 numbers, divided 70 : 15 : 15, 1.6 GB and five minutes on two cores.
    """
    means = read_clip_means(cache, split_of)
    split = np.array([split_of[name] for name in means.ids])
    found = []
    for earlier, later in combinations(SPLITS, 2):
        before, after = (means.select(np.flatnonzero(split == name)) for name in (earlier, later))
        found += _match(before, after, (earlier, later), least)
    return sorted(found, key=lambda pair: -pair.similarity)


def read_clip_means(cache: CacheFile, ids: Mapping[str, str]) -> ClipMeans:
    """The clips of some videos as unit vectors around the mean of all of them."""
    chosen = [i for i, record in enumerate(cache.videos) if record.status == OK and record.id in ids]
    names: list[str] = []
    rows: list[NDArray[np.float32]] = []
    for result in cache.read_results(chosen, priority_up_to=-1):
        for clip in result.clips:
            if clip.view == ORIGINAL_VIEW:
                names.append(result.record.id)
                rows.append(_normalise(clip.features.mean(axis=0, dtype=np.float32)))
    if not rows:
        return ClipMeans((), np.zeros((0, 1), np.float32))
    vectors = np.stack(rows)
    del rows
    vectors -= vectors.mean(axis=0)
    for start in range(0, len(vectors), BLOCK):  # in place: there may be a gigabyte of them
        vectors[start : start + BLOCK] = _normalise(vectors[start : start + BLOCK])
    return ClipMeans(tuple(names), vectors)


def _normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (..., D) of length one; zero stays zero and is like nothing."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(length, np.finfo(np.float32).tiny)
    return scaled


def _match(earlier: ClipMeans, later: ClipMeans, splits: tuple[str, str], least: float) -> list[NearDuplicate]:
    best: dict[str, NearDuplicate] = {}
    for first in range(0, len(later.ids), BLOCK):
        similarity, closest = find_closest(later.vectors[first : first + BLOCK], earlier.vectors)
        for place in np.flatnonzero(similarity >= least).tolist():
            pair = NearDuplicate(
                earlier.ids[closest[place]], later.ids[first + place], splits, float(similarity[place])
            )
            if pair.later not in best or pair.similarity > best[pair.later].similarity:
                best[pair.later] = pair
    return list(best.values())


def find_closest(
    vectors: NDArray[np.float32], others: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each of the vectors (n, D) the highest cosine with any of the others (m, D), and which one it is."""
    similarity = np.full(len(vectors), -np.inf, np.float32)
    closest = np.zeros(len(vectors), np.int64)
    for first in range(0, len(others), BLOCK):
        products = vectors @ others[first : first + BLOCK].T  # (n, block)
        place = products.argmax(axis=1)
        value = products[np.arange(len(vectors)), place]
        better = value > similarity
        similarity[better], closest[better] = value[better], first + place[better]
    return similarity, closest
