"""Suspicious stretches of a face's frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.intervals import find_intervals
from serve.verdict import FrameScore, Interval


def make_frames(probs: list[float]) -> list[FrameScore]:
    return [FrameScore(i / 2, prob, (0.0, 0.0, 1.0, 1.0)) for i, prob in enumerate(probs)]


def test_a_stretch_above_the_threshold_is_found_with_its_highest_frame() -> None:
    assert find_intervals(make_frames([0.1, 0.1, 0.8, 0.9, 0.7, 0.1, 0.1]), 0.5) == (Interval(1.0, 2.0, 0.9),)


def test_a_single_frame_is_no_stretch_and_a_single_gap_does_not_end_one() -> None:
    assert find_intervals(make_frames([0.1, 0.1, 0.9, 0.1, 0.1]), 0.5) == ()
    assert find_intervals(make_frames([0.9, 0.9, 0.1, 0.9, 0.9]), 0.5) == (Interval(0.0, 2.0, 0.9),)


def test_stretches_at_both_ends_are_whole() -> None:
    found = find_intervals(make_frames([0.9, 0.8, 0.1, 0.1, 0.1, 0.6, 0.7]), 0.5)
    assert found == (Interval(0.0, 0.5, 0.9), Interval(2.5, 3.0, 0.7))


def test_one_frame_alone_or_none_has_no_stretch() -> None:
    assert find_intervals([], 0.5) == find_intervals(make_frames([0.9]), 0.5) == ()


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0.01, 1))
def test_stretches_are_ordered_apart_and_hold_a_frame_above_the_threshold(probs: list[float], threshold: float) -> None:
    frames = make_frames(probs)
    found = find_intervals(frames, threshold)
    edges = [edge for interval in found for edge in (interval.start_s, interval.end_s)]
    assert edges == sorted(set(edges))
    for interval in found:
        inside = [f.p_fake for f in frames if interval.start_s <= f.time_s <= interval.end_s]
        assert interval.p_fake == max(inside) >= threshold


def test_no_stretch_goes_on_over_a_time_without_the_face() -> None:
    times = [0.0, 0.2, 0.4, 0.6, 30.0, 30.2, 30.4]
    frames = [FrameScore(time_s, 0.9, (0.0, 0.0, 1.0, 1.0)) for time_s in times]
    assert find_intervals(frames, 0.5) == (Interval(0.0, 0.6, 0.9), Interval(30.0, 30.4, 0.9))
