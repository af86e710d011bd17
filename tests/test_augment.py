"""Changes of a clip in time: what is left of its frames, in which order, and how often."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.errors import UsageError
from train.augment import list_frames, pick_frames
from train.config import AugmentConfig
from train.options import parse_augment

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)
CONFIGS = st.builds(
    AugmentConfig,
    window=st.floats(0.1, 1),
    drop=st.floats(0, 0.9),
    rate=st.floats(1, 3),
    reverse=st.floats(0, 1),
)
LEAST = 4


def pick(lengths: list[int], config: AugmentConfig, seed: int = 0) -> list[list[int]]:
    """The frames of each clip that count."""
    generator = torch.Generator().manual_seed(seed)
    index, count = pick_frames(torch.tensor(lengths), config, LEAST, generator)
    return [row[:n].tolist() for row, n in zip(index, count.tolist(), strict=True)]


@settings(deadline=None)
@given(LENGTHS, CONFIGS, st.integers(0, 99))
def test_frames_stay_inside_their_clip_and_enough_of_them_are_left(
    lengths: list[int], config: AugmentConfig, seed: int
) -> None:
    index, count = pick_frames(torch.tensor(lengths), config, LEAST, torch.Generator().manual_seed(seed))
    assert index.shape == (len(lengths), int(count.max()))
    assert (index >= 0).all()
    assert (index < torch.tensor(lengths).unsqueeze(1)).all(), "padding too repeats a frame of the clip"
    assert (count >= torch.tensor(lengths).clamp(max=LEAST)).all()
    assert (count <= torch.tensor(lengths)).all()


@given(LENGTHS)
def test_without_changes_every_frame_comes_once_and_in_order(lengths: list[int]) -> None:
    assert pick(lengths, AugmentConfig()) == [list(range(n)) for n in lengths]
    padded = list_frames(torch.tensor(lengths))
    assert all(row[n - 1 :].unique().tolist() == [n - 1] for row, n in zip(padded, lengths, strict=True))


def test_a_window_is_a_stretch_of_at_least_its_share_anywhere_in_the_clip() -> None:
    windows = [pick([20], AugmentConfig(window=0.5), seed)[0] for seed in range(200)]
    assert all(frames == list(range(frames[0], frames[-1] + 1)) for frames in windows)
    assert {len(frames) for frames in windows} == set(range(10, 21))
    assert {frames[0] for frames in windows} >= set(range(8))
    assert max(frames[-1] for frames in windows) == 19


def test_dropped_frames_are_missing_anywhere_and_the_rest_keeps_its_order() -> None:
    kept = [pick([20], AugmentConfig(drop=0.5), seed)[0] for seed in range(200)]
    assert all(frames == sorted(set(frames)) for frames in kept)
    assert {len(frames) for frames in kept} == set(range(10, 21))
    missing = [frame for frames in kept for frame in range(20) if frame not in frames]
    assert min(map(missing.count, range(20))) > 0.5 * max(map(missing.count, range(20)))


def test_another_speed_skips_frames_evenly_or_repeats_them() -> None:
    runs = [pick([30], AugmentConfig(rate=2), seed)[0] for seed in range(100)]
    steps = [{b - a for a, b in pairwise(frames)} for frames in runs]
    assert all(max(s) - min(s) <= 1 for s in steps), "one speed a clip"
    assert any(0 in s for s in steps)
    assert any(2 in s for s in steps)
    assert min(len(frames) for frames in runs) < 18
    assert max(len(frames) for frames in runs) == 30


def test_a_clip_is_turned_round_as_often_as_is_told() -> None:
    assert pick([5, 3], AugmentConfig(reverse=1)) == [[4, 3, 2, 1, 0], [2, 1, 0]]
    turned = pick([6] * 1000, AugmentConfig(reverse=0.3))
    assert sum(frames[0] == 5 for frames in turned) == pytest.approx(300, abs=60)  # four deviations
    assert all(frames in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]) for frames in turned)


def test_the_same_generator_gives_the_same_changes() -> None:
    config = AugmentConfig(window=0.5, drop=0.3, rate=1.5, reverse=0.5)
    assert pick([20, 9], config, 3) == pick([20, 9], config, 3) != pick([20, 9], config, 4)


def test_augmentation_is_read_from_the_command_line() -> None:
    assert parse_augment("") == AugmentConfig()
    assert parse_augment("window=0.7, drop=0.2") == AugmentConfig(window=0.7, drop=0.2)


@pytest.mark.parametrize("text", ["window", "window=x", "blur=1", "window=2", "rate=0.5", "reverse=-1"])
def test_augmentation_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--augment .*window=0\.7"):
        parse_augment(text)
