"""Clips stacked into runs: equal scores however they are stacked, bounded runs, one clip's failure its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle import FEATURES, SCORER, open_model_folder
from export.fused import ClipScores, FusedModel
from extract.errors import MismatchError, Reason, UnmaskError, VideoError
from extract.synthetic import make_crops
from serve.batcher import ClipBatcher
from serve.clip_model import ClipModel, Crops
from tests.conftest import Pipeline
from tests.fakes import make_tiny_backbone

CROPS = make_crops(40, 32, seed=5)
SAME = 1e-6  # of logits: a matrix product of several rows rounds otherwise than one of a single row


@pytest.fixture(scope="module")
def fused(pipeline: Pipeline) -> FusedModel:
    return FusedModel(pipeline.model / SCORER, "cpu")


@pytest.fixture(scope="module")
def model(pipeline: Pipeline, fused: FusedModel) -> ClipModel:
    return ClipModel(open_model_folder(pipeline.model), fused)


def score_alone(fused: FusedModel, crops: Crops) -> ClipScores:
    return fused.run(crops[None], np.array([len(crops)], np.int64))


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 32), min_size=1, max_size=8))
def test_a_stacked_clip_has_the_scores_it_has_alone(fused: FusedModel, model: ClipModel, lengths: list[int]) -> None:
    clips = [CROPS[:length] for length in lengths]
    for crops, found in zip(clips, model.score(clips), strict=True):
        alone = score_alone(fused, crops)
        assert found.logit == pytest.approx(alone.logit, abs=SAME)
        assert found.frame_prob.shape == (1, len(crops))
        assert found.frame_prob == pytest.approx(alone.frame_prob, abs=SAME)


def test_a_clip_too_long_for_a_run_is_scored_in_parts_and_the_same(pipeline: Pipeline, fused: FusedModel) -> None:
    short = ClipModel(open_model_folder(pipeline.model), fused, most_crops=8)
    (found,) = short.score([CROPS])
    assert found.logit == pytest.approx(score_alone(fused, CROPS).logit, abs=SAME)
    assert found.frame_prob.shape == (1, 40)


def test_a_run_is_bounded_in_crops_and_in_padding(model: ClipModel) -> None:
    assert model.fits([16, 16])
    assert not model.fits([16, 17])  # 34 crops with padding
    assert model.fits([8, 8, 8, 8])
    assert not model.fits([16, 4])  # three quarters of the second would be padding


class SlowModel:
    """Holds its first run until it is told to go on, and remembers what was stacked."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.begun = Event()
        self.stacks: list[list[int]] = []

    def fits(self, lengths: Sequence[int]) -> bool:
        return len(lengths) <= 3

    def score(self, clips: Sequence[Crops]) -> list[ClipScores]:
        self.begun.set()
        self.go_on.wait(10)
        self.stacks.append([len(crops) for crops in clips])
        if any(len(crops) == 13 for crops in clips):
            raise UnmaskError("out of memory")
        logits = [np.array([np.nan if len(crops) == 7 else float(len(crops))], np.float32) for crops in clips]
        return [ClipScores(logit, np.zeros(1, np.float32), np.zeros((1, 1), np.float32)) for logit in logits]


@pytest.fixture
def slow() -> SlowModel:
    return SlowModel()


@pytest.fixture
def batcher(slow: SlowModel) -> Iterator[ClipBatcher]:
    batcher = ClipBatcher(slow)  # type: ignore[arg-type]
    yield batcher
    slow.go_on.set()
    batcher.close()


def test_what_waits_is_stacked_in_order_up_to_the_bound(slow: SlowModel, batcher: ClipBatcher) -> None:
    first = batcher.submit(CROPS[:1])
    slow.begun.wait(10)
    rest = [batcher.submit(CROPS[:length]) for length in (2, 3, 4, 5)]
    slow.go_on.set()
    assert [float(future.result(10).logit[0]) for future in (first, *rest)] == [1, 2, 3, 4, 5]
    assert slow.stacks == [[1], [2, 3, 4], [5]]


def test_a_clip_whose_score_is_not_finite_spoils_no_other(slow: SlowModel, batcher: ClipBatcher) -> None:
    slow.go_on.set()
    futures = [batcher.submit(CROPS[:length]) for length in (6, 7, 8)]
    with pytest.raises(VideoError, match="not finite") as caught:
        futures[1].result(10)
    assert caught.value.reason is Reason.NOT_FINITE
    assert [float(futures[i].result(10).logit[0]) for i in (0, 2)] == [6, 8]


def test_a_run_that_fails_is_told_to_those_who_wait_and_the_next_goes_on(slow: SlowModel, batcher: ClipBatcher) -> None:
    slow.go_on.set()
    with pytest.raises(UnmaskError, match="out of memory"):
        batcher.submit(CROPS[:13]).result(10)
    assert float(batcher.submit(CROPS[:2]).result(10).logit[0]) == 2


def test_a_closed_batcher_has_scored_what_it_took_and_takes_no_more(slow: SlowModel) -> None:
    slow.go_on.set()
    batcher = ClipBatcher(slow)  # type: ignore[arg-type]
    futures = [batcher.submit(CROPS[:2]) for _ in range(7)]
    batcher.close()
    assert all(future.done() for future in futures)
    with pytest.raises(UnmaskError, match="closed"):
        batcher.submit(CROPS[:2])


def test_parts_that_nobody_proved_score_nothing(pipeline: Pipeline, fused: FusedModel, tmp_path: Path) -> None:
    shutil.copytree(pipeline.model, tmp_path / "model")
    other = make_tiny_backbone(tmp_path, seed=9)
    shutil.copyfile(other, tmp_path / "model" / FEATURES)
    model = ClipModel(open_model_folder(tmp_path / "model"), fused, most_crops=8)
    with pytest.raises(MismatchError, match=r"features\.onnx is not the file of its certificate"):
        model.score([CROPS])
