"""What is learned from order alone, and what is not learned from nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from extract.cache import FeatureCache
from tests.train_data import CacheRecipe, build_cache, make_cache, make_record
from train.config import FitConfig, HeadShape
from train.measures.metrics import Metrics
from train.run import train_on_cache
from train.schemes import TrainConfig

FRAMES, DIM, VIDEOS = 12, 16, 120


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_ordered() -> FeatureCache:
    """The same frames in every video, shown from first to last in a real one and from last to first in a fake."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=DIM)
    ramp = np.linspace(-1, 1, FRAMES)
    records = [make_record(i, i % 2 == 1, f"person{i // 4}") for i in range(VIDEOS)]
    blocks = [
        np.outer(ramp[:: -1 if i % 2 else 1], direction) + 0.5 * rng.normal(size=(FRAMES, DIM)) for i in range(VIDEOS)
    ]
    clip_rows = [(i, 0, 0, FRAMES * i, FRAMES, 0.0, 10.0) for i in range(VIDEOS)]
    return build_cache(records, clip_rows, np.concatenate(blocks))


def judge(cache: FeatureCache, out: Path, shape: HeadShape) -> Metrics:
    """Three folds by person."""
    config = TrainConfig(FitConfig(epochs=25, batch_size=16, learning_rate=3e-3), shape, folds=3)
    metrics = train_on_cache(cache, out, config).document.out_of_fold
    assert metrics is not None
    return metrics


@pytest.mark.parametrize("encoder", ["lstm", "gru", "transformer"])
def test_a_label_that_is_in_the_order_alone_is_learned_by_heads_that_see_order(tmp_path: Path, encoder: str) -> None:
    found = judge(make_ordered(), tmp_path / "run", HeadShape(encoder=encoder))  # type: ignore[arg-type]
    assert found.auc.value is not None
    assert found.auc.value >= 0.95


def test_the_baseline_that_ignores_order_learns_nothing_from_it(tmp_path: Path) -> None:
    found = judge(make_ordered(), tmp_path / "run", HeadShape(encoder="linear"))
    assert found.auc.value == pytest.approx(0.5, abs=0.16)  # 120 videos: three deviations


@pytest.mark.parametrize("encoder", ["lstm", "linear"])
def test_nothing_is_learned_from_shuffled_labels(tmp_path: Path, encoder: str) -> None:
    cache = make_cache(CacheRecipe(groups=30, clips=1, shuffle_labels=True))
    auc = judge(cache, tmp_path / "run", HeadShape(encoder=encoder)).auc  # type: ignore[arg-type]
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low <= 0.5 <= auc.high
