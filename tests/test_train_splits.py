"""Splits and folds: a group is never divided, what is given is kept, and a leak is on record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.cache import VideoRecord
from extract.errors import UnmaskError, UsageError
from tests.train_data import make_record
from train.operating_points import name_groups
from train.splits import Assignment, Overlap, assign_folds, assign_splits, find_overlap

Labels = NDArray[np.int64]
Groups = NDArray[np.str_]


def make_people(people: int = 20, each: int = 4) -> tuple[Labels, Groups]:
    """Every person has as many real videos as fakes."""
    video = np.arange(people * each)
    return (video % 2).astype(np.int64), np.array([f"p{v // each}" for v in video])


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Labels, Groups]:
    members = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 11)), min_size=2, max_size=50))
    return np.array([m[0] for m in members], dtype=np.int64), np.array([f"p{m[1]}" for m in members])


def make_records(labels: Labels, groups: Groups) -> list[VideoRecord]:
    return [make_record(i, bool(fake), str(groups[i])) for i, fake in enumerate(labels)]


def make_swap(name: str, split: str, fake: bool = True) -> tuple[VideoRecord, str]:
    """A clip as Celeb-DF names it: `id1_0000` shows person 1, `id1_id2_0000` the same clip with the face of 2."""
    target, *_, clip = name.split("_")
    record = replace(make_record(0, fake, target), id=f"{name}.mp4", pair=f"{target}_{clip}")
    return record, split


def overlap_of(*clips: tuple[VideoRecord, str]) -> Overlap:
    records, splits = zip(*clips, strict=True)
    return find_overlap(Assignment("manifest", np.array(splits)), records)


def count_homes(split: NDArray[np.str_] | NDArray[np.int64], groups: Groups) -> int:
    return max(len(set(split[groups == g].tolist())) for g in set(groups.tolist()))


@settings(max_examples=40, deadline=None)
@given(crowds(), st.integers(0, 3))
def test_a_group_is_never_in_two_splits(crowd: tuple[Labels, Groups], seed: int) -> None:
    labels, groups = crowd
    try:
        made = assign_splits([""] * len(labels), labels, groups, seed)
    except UnmaskError:
        return  # too few people: said in a sentence
    assert count_homes(made.split, groups) == 1
    for name in ("train", "val", "test"):
        assert set(labels[made.select(name)].tolist()) == {0, 1}
    overlap = find_overlap(made, make_records(labels, groups))
    assert overlap == Overlap(groups=(), test_videos=0)


@settings(max_examples=40, deadline=None)
@given(crowds(), st.integers(3, 5))
def test_folds_hold_each_video_once_and_never_divide_a_group(crowd: tuple[Labels, Groups], folds: int) -> None:
    labels, groups = crowd
    try:
        made = assign_folds([""] * len(labels), labels, groups, folds, 0)
    except UnmaskError:
        return
    assert made.fold is not None
    assert set(made.fold.tolist()) == set(range(folds))
    assert count_homes(made.fold, groups) == 1
    assert all(set(labels[made.fold == k].tolist()) == {0, 1} for k in range(folds))


def test_a_made_split_is_about_70_15_15_and_depends_on_the_seed_alone() -> None:
    labels, groups = make_people(40)
    first, again, other = (assign_splits([""] * 160, labels, groups, seed) for seed in (1, 1, 2))
    assert 0.10 <= len(first.select("test")) / 160 <= 0.20
    assert 0.10 <= len(first.select("val")) / 160 <= 0.20
    assert first.protocol == "group"
    np.testing.assert_array_equal(first.split, again.split)
    assert (first.split != other.split).any()


def test_a_split_of_the_manifest_is_kept_with_its_overlap_on_record() -> None:
    labels, groups = make_people(3)
    official = ["train", "train", "val", "val"] * 2 + ["test", "test", "train", "train"]
    made = assign_splits(official, labels, groups, 0)
    overlap = find_overlap(made, make_records(labels, groups))
    assert made.protocol == "manifest"
    assert made.split.tolist() == official
    assert overlap.groups == ("p0", "p1", "p2")
    assert overlap.test_videos == 2


def test_the_person_whose_face_a_swap_wears_is_seen_too() -> None:
    overlap = overlap_of(make_swap("id1_id2_0000", "train"), make_swap("id2_0003", "test", fake=False))
    assert overlap == Overlap(groups=(), persons=("id2",), sources=(), test_videos=1)


def test_a_source_clip_in_one_split_and_its_fake_in_another_are_on_record() -> None:
    original = replace(make_record(1, False), id="clip.mp4")
    fake = replace(make_record(2, True), id="other/fake.mp4", pair="clip.mp4")
    overlap = overlap_of((original, "train"), (fake, "test"), (replace(fake, id="f2.mp4"), "test"))
    assert overlap == Overlap(groups=(), sources=("clip.mp4",), test_videos=2)


def test_persons_that_folds_divide_are_on_record_and_test_videos_are_not_counted_as_fold_videos() -> None:
    clips = [make_swap("id1_id2_0000", "train"), make_swap("id2_0001", "train", fake=False),
             make_swap("id3_0002", "train", fake=False), make_swap("id3_0004", "test", fake=False)]  # fmt: skip
    assignment = Assignment("group-k-fold", np.array([split for _, split in clips]), np.array([0, 1, 2, -1]))
    overlap = find_overlap(assignment, [record for record, _ in clips])
    assert overlap.persons == ("id2", "id3")
    assert (overlap.test_videos, overlap.fold_videos) == (1, 2)


def test_with_test_given_the_rest_becomes_train_and_validation() -> None:
    labels, groups = make_people()
    official = ["test"] * 16 + [""] * 64
    made = assign_splits(official, labels, groups, 0)
    assert made.protocol == "mixed"
    assert made.select("test").tolist() == list(range(16))
    assert count_homes(made.split, groups) == 1
    assert len(made.select("val")) < len(made.select("train"))


def test_with_train_and_test_given_whole_groups_of_train_become_validation() -> None:
    labels, groups = make_people()
    made = assign_splits(["test"] * 16 + ["train"] * 64, labels, groups, 0)
    assert made.protocol == "mixed"
    assert made.select("test").tolist() == list(range(16))
    assert count_homes(made.split, groups) == 1
    assert len(made.select("val"))


def test_a_test_split_is_not_drawn_from_videos_given_for_training() -> None:
    labels, groups = make_people()
    made = assign_splits(["train"] * 60 + ["val"] * 20, labels, groups, 0)
    assert made.protocol == "manifest"
    assert not len(made.select("test"))


def test_a_video_without_split_follows_its_group_into_train_but_never_into_test() -> None:
    labels, groups = make_people()
    official = ["train", "", "", ""] + ["test", "test", "", ""] + [""] * 72
    made = assign_splits(official, labels, groups, 0)
    assert set(made.split[:4].tolist()) == {"train"}
    assert made.select("test").tolist() == [4, 5]
    assert find_overlap(made, make_records(labels, groups)).groups == ("p1",)


def test_with_folds_the_test_split_stays_out() -> None:
    labels, groups = make_people()
    made = assign_folds(["test"] * 8 + ["train"] * 72, labels, groups, 5, 0)
    assert made.fold is not None
    assert (made.fold[:8] == -1).all()
    assert (made.fold[8:] >= 0).all()
    assert made.select("test").tolist() == list(range(8))


def test_a_video_without_a_group_is_a_group_of_its_own() -> None:
    names = name_groups([make_record(0, True), make_record(1, False), make_record(2, True, "x")])
    assert len(set(names.tolist())) == 3


def test_too_few_people_are_refused_with_their_number() -> None:
    labels, groups = make_people(2)
    with pytest.raises(UnmaskError, match="4 real and 4 fake videos in 2 groups"):
        assign_splits([""] * 8, labels, groups, 0)
    with pytest.raises(UnmaskError, match="fewer folds"):
        assign_folds([""] * 8, labels, groups, 5, 0)


def test_a_given_split_with_one_class_is_refused() -> None:
    labels, groups = make_people()
    with pytest.raises(UnmaskError, match="the test split holds 1 real and 0 fake"):
        assign_splits(["test"] + ["val"] * 15 + ["train"] * 64, labels, groups, 0)


def test_two_folds_are_refused() -> None:
    labels, groups = make_people()
    with pytest.raises(UsageError, match="at least 3"):
        assign_folds([""] * 80, labels, groups, 2, 0)
