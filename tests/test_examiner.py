"""Exhibits: the highest frames, apart from each other, from the very file that was scored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.bundle import SCORER, open_model_folder
from export.fused import FusedModel
from extract.crops import cut_crop
from extract.errors import MismatchError
from extract.isolation import DecoderProcess
from extract.video import Frame, VideoFacts, open_video
from serve.examiner import LEAST_GAP_S, Examiner, choose_moments
from serve.scorer import Scorer
from serve.verdict import TrackScore, Verdict
from tests.conftest import FACE, Pipeline
from tests.fakes import FixedDetector
from tests.media import carphone_frames, write_video
from tests.verdicts import make_clip, make_track, make_unscorable

OTHER = (8.0, 8.0, 40.0, 44.0)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", carphone_frames(48), rate=12)


@pytest.fixture(scope="module")
def verdict(pipeline: Pipeline, film: Path) -> Verdict:
    """On two faces."""
    folder, model = open_model_folder(pipeline.model), FusedModel(pipeline.model / SCORER, "cpu")
    with Scorer(folder, model, FixedDetector(FACE, OTHER)) as scorer:
        return scorer.score(film)


@pytest.fixture(scope="module")
def examiner(pipeline: Pipeline) -> Examiner:
    return Examiner(open_model_folder(pipeline.model), FusedModel(pipeline.model / SCORER, "cpu").contract, "cpu")


class CountedVideo:
    """A video that notes what is asked of it."""

    def __init__(self, path: Path) -> None:
        self._video = open_video(path)
        self.facts: VideoFacts = self._video.facts
        self.note = ""
        self.asked: list[list[float]] = []

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        self.asked.append(instants.tolist())
        yield from self._video.read_at(instants)


def test_exhibits_are_frames_of_the_verdict_with_the_crops_that_were_scored(
    pipeline: Pipeline, examiner: Examiner, verdict: Verdict, film: Path
) -> None:
    exhibits = examiner.examine(film, verdict, open_video(film))
    assert len(exhibits) == 3
    assert [one.time_s for one in exhibits] == sorted(one.time_s for one in exhibits)
    spec = FusedModel(pipeline.model / SCORER, "cpu").contract.fingerprint.crop
    for exhibit in exhibits:
        (frame,) = (
            f for t in verdict.tracks if t.track == exhibit.track for f in t.frames if f.time_s == exhibit.time_s
        )
        ((_, shown),) = open_video(film).read_at(np.array([exhibit.time_s]))
        assert exhibit.p_fake == frame.p_fake
        assert np.array_equal(exhibit.crop, cut_crop(shown.rgb, np.array(frame.box, np.float32), spec))
        assert (exhibit.picture.width, exhibit.picture.height) == (176, 144)
        assert np.isfinite(exhibit.heat.drops).all()


def test_the_highest_frame_is_always_shown(examiner: Examiner, verdict: Verdict, film: Path) -> None:
    (exhibit,) = examiner.examine(film, verdict, open_video(film), most=1)
    assert exhibit.p_fake == max(frame.p_fake for track in verdict.tracks for frame in track.frames)


def test_a_decoder_process_reads_the_same(examiner: Examiner, verdict: Verdict, film: Path) -> None:
    decoder = DecoderProcess(threads=1)
    try:
        found = examiner.examine(film, verdict, decoder.open(film))
    finally:
        decoder.close()
    expected = examiner.examine(film, verdict, open_video(film))
    assert [(one.time_s, one.track, one.picture) for one in found] == [
        (one.time_s, one.track, one.picture) for one in expected
    ]


def test_each_clip_is_read_once_and_nothing_else(examiner: Examiner, verdict: Verdict, film: Path) -> None:
    video = CountedVideo(film)
    exhibits = examiner.examine(film, verdict, video)
    faces = [track for track in verdict.tracks if track.track in {exhibit.track for exhibit in exhibits}]
    clips = [[frame.time_s for frame in clip.frames] for track in faces for clip in track.clips]
    assert sorted(video.asked) == sorted(clips)


def test_a_file_with_another_sha256_is_refused(
    examiner: Examiner, verdict: Verdict, film: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "film.mp4"
    changed.write_bytes(film.read_bytes() + b"\0")
    with pytest.raises(MismatchError, match="not the file that was scored: its sha256 is another"):
        examiner.examine(changed, verdict, open_video(changed))


def test_a_file_whose_pictures_changed_is_refused_by_its_score(
    examiner: Examiner, verdict: Verdict, tmp_path: Path
) -> None:
    changed = write_video(tmp_path / "film.mp4", [255 - frame for frame in carphone_frames(48)], rate=12)
    with pytest.raises(MismatchError, match=r"not the file that was scored: its clip from 0\.0 s has the logit"):
        examiner.examine(changed, replace(verdict, sha256=None), open_video(changed))


def test_a_file_with_frames_at_other_times_is_refused(examiner: Examiner, verdict: Verdict, tmp_path: Path) -> None:
    changed = write_video(tmp_path / "film.mp4", carphone_frames(48), rate=10)
    with pytest.raises(MismatchError, match="it shows another frame than then"):
        examiner.examine(changed, replace(verdict, sha256=None), open_video(changed))


def test_a_verdict_of_another_model_is_refused(examiner: Examiner, verdict: Verdict, film: Path) -> None:
    foreign = replace(verdict, model=replace(verdict.model, id="0" * 64))
    with pytest.raises(MismatchError, match=r"by the model 000000000000\.\.\., .* score the file again"):
        examiner.examine(film, foreign, open_video(film))


def test_a_model_that_scores_otherwise_is_refused(examiner: Examiner, verdict: Verdict, film: Path) -> None:
    moved = tuple(
        replace(track, clips=tuple(replace(clip, logit=clip.logit + 0.01) for clip in track.clips))
        for track in verdict.tracks
    )
    with pytest.raises(MismatchError, match="has the logit"):
        examiner.examine(film, replace(verdict, tracks=moved), open_video(film))


def test_a_file_without_a_score_has_no_exhibits(examiner: Examiner, film: Path) -> None:
    video = CountedVideo(film)
    assert examiner.examine(film, make_unscorable("NO_FACE"), video) == ()
    assert video.asked == []


def test_a_model_is_loaded_only_where_something_is_shown(pipeline: Pipeline, film: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline.model, tmp_path / "model")
    folder = open_model_folder(tmp_path / "model")
    (tmp_path / "model" / "features.onnx").unlink()
    contract = FusedModel(pipeline.model / SCORER, "cpu").contract
    assert Examiner(folder, contract, "cpu").examine(film, make_unscorable("NO_FACE"), open_video(film)) == ()


# which frames are chosen

TRACKS = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=30), min_size=1, max_size=4).map(
    lambda faces: tuple(make_track(number, make_clip(probs)) for number, probs in enumerate(faces))
)


@given(TRACKS, st.integers(1, 6), st.floats(0.01, 1))
def test_frames_of_a_face_are_apart_and_the_highest_is_among_them(
    tracks: tuple[TrackScore, ...], most: int, threshold: float
) -> None:
    chosen = choose_moments(tracks, threshold, most)
    assert 1 <= len(chosen) <= most
    assert chosen[0].frame.p_fake == max(frame.p_fake for track in tracks for frame in track.frames)
    for track in tracks:
        times = sorted(moment.frame.time_s for moment in chosen if moment.track is track)
        assert all(b - a >= LEAST_GAP_S for a, b in pairwise(times))


def test_each_suspicious_face_has_its_turn_and_no_other() -> None:
    tracks = (
        make_track(0, make_clip([0.9, 0.9, 0.9, 0.9])),
        make_track(1, make_clip([0.6] * 4)),
        make_track(2, make_clip([0.4] * 4)),
    )
    assert [moment.track.track for moment in choose_moments(tracks, 0.5, 3)] == [0, 1, 0]


def test_where_no_face_is_suspicious_the_highest_frames_are_shown() -> None:
    tracks = (make_track(0, make_clip([0.3, 0.1, 0.2, 0.25])), make_track(1, make_clip([0.05] * 4)))
    assert [moment.frame.p_fake for moment in choose_moments(tracks, 0.5, 3)] == [0.3, 0.25, 0.2]


def test_neighbours_in_a_long_film_are_one_exhibit() -> None:
    probs = [0.9] * 10 + [0.1] * 80 + [0.8] * 10
    chosen = choose_moments((make_track(0, make_clip(probs)),), 0.5, 2)
    assert [moment.frame.p_fake for moment in chosen] == [0.9, 0.8]
