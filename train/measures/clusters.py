"""Which videos stand or fall together: the clusters that intervals resample, within each dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.audit.report import count_noun
from extract.splits import Named, recall_identities
from train.measures.metrics import ClusterKind

FEWEST = 20  # with fewer, intervals were seen to hold the truth less often than they promise


@dataclass(frozen=True)
class Clusters:
    """The cluster of each video, what a cluster is, and what a reader has to know of them, if anything."""

    names: NDArray[np.str_]  # (V,)
    kind: ClusterKind
    note: str


def choose_clusters(videos: Sequence[Named]) -> Clusters:
    """The groups of the videos; where they are few, the persons that the videos are named after, if these are more.

    A swap named `id3_id7_0001` counts for its target, id3. Two datasets that both name an id0 mean two persons, and a
    video without a name is a cluster of its own.
    """
    groups = _name_clusters(videos, [video.group for video in videos])
    targets = _name_clusters(videos, [_find_target(video) for video in videos])
    n_groups, n_targets = len(np.unique(groups)), len(np.unique(targets))
    if n_groups >= FEWEST:
        return Clusters(groups, "group", "")
    if n_targets <= n_groups:
        return Clusters(groups, "group", _doubt(f"{count_noun(n_groups, 'group')} are resampled"))
    note = f"{count_noun(n_targets, 'target id')} are resampled in place of {count_noun(n_groups, 'group')}"
    return Clusters(targets, "target id", note if n_targets >= FEWEST else _doubt(note))


def _name_clusters(videos: Sequence[Named], names: Sequence[str]) -> NDArray[np.str_]:
    """Names (V,) that are one for two videos only where dataset and name are."""
    # A line feed cannot stand in a name of a manifest, so what is made here is none.
    named = [
        f"{v.dataset}\n{name}" if name else f"{v.dataset}\n\n{v.id}" for v, name in zip(videos, names, strict=True)
    ]
    return np.array(named, dtype=np.str_)


def _find_target(video: Named) -> str:
    """The person into whose video a face was put, or who is seen; nothing where no name tells."""
    return next(iter(recall_identities(video)), "")


def _doubt(note: str) -> str:
    return f"{note}; with fewer than {FEWEST} the intervals are rough"
