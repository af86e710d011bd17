"""The one logit of a video, against a slow reference, and what serving may import to compute it."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.aggregate import aggregate_video, aggregate_videos

LOGITS = st.floats(-20, 20, width=32)
CLIPS = st.lists(st.tuples(LOGITS, st.integers(-2, 3)), min_size=1, max_size=20)


@settings(deadline=None)
@given(CLIPS)
def test_a_videos_logit_is_the_max_over_tracks_of_the_mean_over_clips(clips: list[tuple[float, int]]) -> None:
    by_track: dict[int, list[float]] = {}
    for logit, track in clips:
        by_track.setdefault(track, []).append(logit)
    expected = max(math.fsum(values) / len(values) for values in by_track.values())
    assert aggregate_video([c[0] for c in clips], [c[1] for c in clips]) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(LOGITS, st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40))
def test_videos_at_once_are_the_videos_one_by_one(clips: list[tuple[float, int, int]]) -> None:
    logits, tracks, videos = (np.array(column) for column in zip(*clips, strict=True))
    single = [aggregate_video(logits[videos == video], tracks[videos == video]) for video in np.unique(videos)]
    assert aggregate_videos(logits, tracks, videos) == pytest.approx(np.array(single), abs=1e-9)


@settings(deadline=None)
@given(CLIPS, st.floats(0.05, 20), st.floats(-5, 5))
def test_calibration_commutes_with_aggregation(clips: list[tuple[float, int]], slope: float, shift: float) -> None:
    logits, tracks = np.array([c[0] for c in clips]), [c[1] for c in clips]
    before = aggregate_video(slope * logits + shift, tracks)
    assert before == pytest.approx(slope * aggregate_video(logits, tracks) + shift, abs=1e-9)


def test_a_video_without_clips_has_no_logit() -> None:
    with pytest.raises(ValueError, match="C >= 1"):
        aggregate_video([], [])


def test_clips_without_a_video_each_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        aggregate_videos([0.1, 0.2], [0, 0], [0])


def test_what_serving_imports_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, train.aggregate, train.calibrate, train.config, train.thresholds, train.measures.metrics; "
        "assert not {'torch', 'sklearn', 'scipy', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
