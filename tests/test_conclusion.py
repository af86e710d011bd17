"""Faces joined to a verdict: which of them count, which gave the score, and those that only draw attention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import Reason, VideoError
from serve.conclusion import conclude
from serve.ruling import Ruling
from serve.verdict import ClipScore, FrameScore, Outcome
from train.aggregate import aggregate_video
from train.calibrate import Calibration

CALIBRATION = Calibration(
    method="platt", slope=1, intercept=0, source="validation", n_fake=9, n_real=9, nll_before=1, nll_after=1
)
RULING = Ruling("security", 0.5, 0.4, 0.6, CALIBRATION)


def make_clip(logit: float, *, counted: bool = True, start_s: float = 0.0) -> ClipScore:
    frames = tuple(FrameScore(start_s + i, 0.5, (0.0, 0.0, 9.0, 9.0)) for i in range(4))
    return ClipScore(start_s, start_s + 10, logit, 0.5, counted, frames)


def test_the_highest_face_gives_the_score_and_is_named() -> None:
    found = conclude([(0, make_clip(-2.0)), (3, make_clip(2.0)), (5, make_clip(-1.0))], RULING)
    assert (found.outcome, found.face, found.logit) == (Outcome.FAKE, 3, 2.0)
    assert [track.track for track in found.tracks] == [0, 3, 5]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9)), min_size=1, max_size=12))
def test_counted_clips_are_aggregated_as_everywhere(clips: list[tuple[int, float]]) -> None:
    found = conclude([(track, make_clip(logit)) for track, logit in clips], RULING)
    assert found.logit == pytest.approx(aggregate_video([logit for _, logit in clips], [track for track, _ in clips]))
    assert next(track.logit for track in found.tracks if track.track == found.face) == pytest.approx(found.logit)


def test_a_face_that_does_not_count_never_lets_a_video_pass_as_real() -> None:
    found = conclude([(0, make_clip(-3.0)), (1, make_clip(3.0, counted=False, start_s=2.0))], RULING)
    assert (found.outcome, found.logit, found.face) == (Outcome.UNCERTAIN, -3.0, 0)
    assert "face 1 (P(fake) 0.95, from 2.0 s) reached the threshold" in found.remark
    assert "--tracks all" in found.remark


def test_a_face_that_does_not_count_and_looks_real_changes_nothing() -> None:
    found = conclude([(0, make_clip(-3.0)), (1, make_clip(-3.0, counted=False))], RULING)
    assert (found.outcome, found.remark) == (Outcome.REAL, "")
    assert [track.counted for track in found.tracks] == [True, False]


def test_a_fake_stays_fake_beside_another_suspect() -> None:
    assert conclude([(0, make_clip(3.0)), (1, make_clip(4.0, counted=False))], RULING).outcome is Outcome.FAKE


def test_a_track_that_counts_in_some_clips_is_judged_by_these() -> None:
    found = conclude([(0, make_clip(-3.0)), (0, make_clip(5.0, counted=False, start_s=10.0))], RULING)
    assert (found.logit, found.tracks[0].logit) == (-3.0, -3.0)
    assert len(found.tracks[0].clips) == 2


def test_where_no_face_counts_there_is_no_score() -> None:
    with pytest.raises(VideoError, match="main face is seen in too few") as caught:
        conclude([(1, make_clip(3.0, counted=False))], RULING)
    assert caught.value.reason is Reason.TOO_SHORT


def test_a_face_that_counts_once_is_suspected_where_it_does_not() -> None:
    beside = [(0, make_clip(6.0, counted=False, start_s=10.0 * number)) for number in range(1, 10)]
    found = conclude([(0, make_clip(-5.0)), *beside, *((1, make_clip(-5.0)) for _ in range(9))], RULING)
    assert (found.outcome, found.logit) == (Outcome.UNCERTAIN, -5.0)
    assert "face 0 (P(fake) 1.00, from 10.0 s)" in found.remark


def test_many_suspects_are_counted_rather_than_listed() -> None:
    crowd = [(number, make_clip(3.0 + number / 100, counted=False)) for number in range(1, 100)]
    found = conclude([(0, make_clip(-3.0)), *crowd], RULING)
    assert "face 99 " in found.remark
    assert "and 96 more reached" in found.remark
    assert len(found.remark) < 300
