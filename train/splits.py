"""Which videos train a head, which choose its epoch and threshold, and which only judge it.

A group (a person or source) is never divided by a split made here. A split that the manifest names is kept as it
is, with the groups, persons and source clips it divides on record.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from extract.audit.leaks import name_source
from extract.errors import UnmaskError, UsageError
from extract.manifest import SPLITS
from extract.specs import Spec
from extract.splits import recall_identities

if TYPE_CHECKING:
    from extract.cache import VideoRecord

Protocol = Literal["manifest", "group", "mixed", "group-k-fold"]

SHARE = 7  # validation and test are a seventh each: about 70 : 15 : 15
ATTEMPTS = 20

Names = list[Collection[str]]  # (V,) what each video shows: groups, persons or source clips


class Overlap(Spec):
    """What stands in more than one split, or fold, and how many judged videos that concerns.

    A group is what the manifest calls one; persons come from the names of face swaps too, which show two.
    """

    groups: tuple[str, ...]
    persons: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # clips that fakes were made from
    test_videos: int  # shown in part to training or validation
    fold_videos: int = 0  # shown in part to another fold


@dataclass(frozen=True)
class Assignment:
    """The split of each video: train, val or test; with folds also the fold in which it is held out."""

    protocol: Protocol
    split: NDArray[np.str_]  # (V,)
    fold: NDArray[np.int64] | None = None  # (V,) -1 for a test video

    def select(self, split: str) -> NDArray[np.int64]:
        """The videos of a split, ascending."""
        return np.flatnonzero(self.split == split)


def assign_splits(given: Sequence[str], labels: NDArray[np.int64], groups: NDArray[np.str_], seed: int) -> Assignment:
    """Keeps the splits that are given and makes the ones that are missing, by group, stratified by label.

    `given` holds train, val, test or nothing for each video. Test and validation are drawn from the videos without
    a split and the rest of those trains; where these cannot give validation videos of both classes, whole groups of
    all training videos become it. A test split is never drawn from videos that were given for training.
    """
    split = np.array(given, dtype="U5")
    _follow_group(split, groups)
    missing = [name for name in ("test", "val") if not (split == name).any()]
    pool = np.flatnonzero(split == "")
    if not pool.size or ("test" not in missing and not _has_both(labels[pool])):
        pool = np.flatnonzero((split == "train") | (split == ""))
        missing = [name for name in missing if name == "val"]
    complete = all(given) and not missing
    protocol: Protocol = "manifest" if complete else "mixed" if any(given) else "group"
    if missing:
        for name, videos in zip(missing, _draw(pool, len(missing), labels, groups, seed), strict=True):
            split[videos] = name
    split[split == ""] = "train"
    _require_classes(split, labels)
    return Assignment(protocol, split)


def assign_folds(
    given: Sequence[str], labels: NDArray[np.int64], groups: NDArray[np.str_], folds: int, seed: int
) -> Assignment:
    """Divides all videos but those given as test into folds of whole groups, each with both classes."""
    if folds < 3:
        raise UsageError(f"--folds {folds}: expected at least 3: one to judge, one to validate, the rest to train")
    split = np.where(np.array(given) == "test", "test", "train")
    pool = np.flatnonzero(split == "train")
    for attempt in range(ATTEMPTS):
        within = _divide(labels[pool], groups[pool], folds, seed + attempt)
        if within is not None and all(_has_both(labels[pool][within == k]) for k in range(folds)):
            fold = np.full(len(split), -1, dtype=np.int64)
            fold[pool] = within
            return Assignment("group-k-fold", split, fold)
    raise UnmaskError(
        f"{_describe(labels[pool], groups[pool])} cannot be divided into {folds} folds that each hold real and fake "
        "videos without dividing a group; use fewer folds or add videos of more people"
    )


def find_overlap(assignment: Assignment, records: Sequence[VideoRecord]) -> Overlap:
    """The groups, persons and source clips of V videos that stand in more than one split, or fold."""
    groups: Names = [{record.group} - {""} for record in records]
    persons: Names = [recall_identities(record) for record in records]
    sources: Names = [{name_source(record)} - {""} for record in records]
    home = assignment.split.tolist()
    folds = [""] * len(home) if assignment.fold is None else [str(k) if k >= 0 else "" for k in assignment.fold]
    # In folds, train and validation take turns: there a home is a fold.
    homes = [fold or split for fold, split in zip(folds, home, strict=True)]
    kinds = (groups, persons, sources)
    return Overlap(
        groups=_find_divided(homes, groups),
        persons=_find_divided(homes, persons),
        sources=_find_divided(homes, sources),
        test_videos=_count_concerned("test", homes, kinds),
        fold_videos=sum(_count_concerned(fold, folds, kinds) for fold in sorted(set(folds) - {""})),
    )


def _find_divided(homes: Sequence[str], names: Names) -> tuple[str, ...]:
    """The names that videos of several homes bear; the home "" is none."""
    seen: dict[str, set[str]] = {}
    for home, of_video in zip(homes, names, strict=True):
        for name in of_video if home else ():
            seen.setdefault(name, set()).add(home)
    return tuple(sorted(name for name, places in seen.items() if len(places) > 1))


def _count_concerned(judged: str, homes: Sequence[str], kinds: Sequence[Names]) -> int:
    """The videos of a home of which another home shows the group, a person or the source clip."""
    divided = [set(_find_divided(homes, names)) for names in kinds]
    return sum(
        home == judged and any(not found.isdisjoint(names[video]) for found, names in zip(divided, kinds, strict=True))
        for video, home in enumerate(homes)
    )


def _follow_group(split: NDArray[np.str_], groups: NDArray[np.str_]) -> None:
    """A video without a split joins its group where that is given for training or validation alone.

    It never joins a test split, whose counts may be official.
    """
    given: dict[str, set[str]] = {}
    for name, group in zip(split.tolist(), groups.tolist(), strict=True):
        given.setdefault(group, set()).update({name} - {""})
    for video in np.flatnonzero(split == ""):
        splits = given[str(groups[video])]
        if splits in ({"train"}, {"val"}):
            split[video] = next(iter(splits))


def _draw(
    pool: NDArray[np.int64], parts: int, labels: NDArray[np.int64], groups: NDArray[np.str_], seed: int
) -> list[NDArray[np.int64]]:
    """Takes `parts` sets of whole groups, about a seventh of the pool each; they and the rest have both classes."""
    for count in range(SHARE, parts, -1):
        for attempt in range(ATTEMPTS):
            fold = _divide(labels[pool], groups[pool], count, seed + attempt)
            if fold is None:
                break
            held = [np.flatnonzero(fold == k) for k in range(count)]
            held = [h for h in held if _has_both(labels[pool][h])]
            held.sort(key=lambda h: abs(len(h) - len(pool) / SHARE))
            rest = np.setdiff1d(np.arange(len(pool)), np.concatenate([*held[:parts], np.zeros(0, np.int64)]))
            if len(held) >= parts and _has_both(labels[pool][rest]):
                return [pool[h] for h in held[:parts]]
    raise UnmaskError(
        f"{_describe(labels[pool], groups[pool])} cannot be divided into {parts + 1} splits that each hold real and "
        "fake videos without dividing a group; add videos of more people or name the splits in the manifest"
    )


def _divide(labels: NDArray[np.int64], groups: NDArray[np.str_], count: int, seed: int) -> NDArray[np.int64] | None:
    """The part of each video, 0 .. count-1; None where there are fewer groups or videos of a class than parts."""
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(np.bincount(labels, minlength=2).min(), len(np.unique(groups)))
    if fewest < count:
        return None
    part = np.full(len(labels), -1, dtype=np.int64)
    splitter: Any = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes too small: checked above and by the callers
        for index, (_, held) in enumerate(splitter.split(labels, labels, groups)):
            part[held] = index
    return part


def _require_classes(split: NDArray[np.str_], labels: NDArray[np.int64]) -> None:
    for name in SPLITS:
        inside = labels[split == name]
        if (len(inside) or name != "test") and not _has_both(inside):
            fakes = int(inside.sum())
            raise UnmaskError(
                f"the {name} split holds {len(inside) - fakes} real and {fakes} fake videos, but needs both; "
                "correct the column `split` of the manifest, or leave it empty to have it made"
            )


def _has_both(labels: NDArray[np.int64]) -> bool:
    return bool(len(labels)) and labels.min() != labels.max()


def _describe(labels: NDArray[np.int64], groups: NDArray[np.str_]) -> str:
    fakes = int(labels.sum())
    return f"{len(labels) - fakes} real and {fakes} fake videos in {len(np.unique(groups))} groups"
