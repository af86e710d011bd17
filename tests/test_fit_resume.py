"""A fit that was killed goes on where it was and ends with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extract.errors import UnmaskError
from tests.train_data import CacheRecipe, make_cache
from train import fit_store
from train.config import AugmentConfig, FitConfig, HeadShape
from train.dataset import select_usable
from train.fit import Epoch, FitPlan, FittedHead, fit_head
from train.fit_store import FitStore, StageStore
from train.run import train_on_cache
from train.schemes import Progress, TrainConfig

CONFIG = FitConfig(epochs=8, batch_size=16, augment=AugmentConfig(drop=0.3, reverse=0.5))


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(fit_store, "SAVE_S", 0.0)


def fit(store: StageStore | None, killed_after: int = 99, shape: HeadShape | None = None) -> FittedHead:
    data = select_usable(make_cache(CacheRecipe(groups=8, signal=0.5)))
    everyone = np.arange(len(data.records))

    def watch(epoch: Epoch) -> None:
        if epoch.number == killed_after:
            raise Killed

    plan = FitPlan(CONFIG, shape or HeadShape(), store=store, on_epoch=watch)
    return fit_head(data, everyone[:20], everyone[20:], plan)


@pytest.mark.parametrize("shape", [HeadShape(), HeadShape(encoder="gru", conditioning="pca", components=4)])
@pytest.mark.parametrize("epoch", [1, 6, 8])
def test_a_killed_fit_ends_with_the_weights_of_one_that_was_not(tmp_path: Path, epoch: int, shape: HeadShape) -> None:
    whole = fit(None, shape=shape)
    store = FitStore(tmp_path / "run", "key")
    with pytest.raises(Killed):
        fit(store.stage("fit"), epoch, shape)
    again = fit(store.stage("fit"), shape=shape)
    assert again.curve == whole.curve
    assert again.best_epoch == whole.best_epoch
    expected = whole.head.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.head.state_dict().items())


def test_a_fitted_head_holds_no_gradients() -> None:
    assert all(weight.grad is None for weight in fit(None).head.parameters())


def test_a_state_of_another_run_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    store = FitStore(tmp_path / "run", "key")
    with pytest.raises(Killed):
        fit(store.stage("fit"), 3)
    file = tmp_path / ".run.fit" / "fit.safetensors"
    assert store.stage("fit").load() is not None
    assert StageStore(file, "another").load() is None
    file.write_bytes(file.read_bytes()[:-10])
    assert store.stage("fit").load() is None


def make_run(tmp_path: Path, config: TrainConfig, killed_at: str, seen: list[str] | None = None) -> Any:
    def watch(progress: Progress) -> None:
        if seen is not None:
            seen.append(f"{progress.stage} {progress.epoch.number}")
        if f"{progress.stage} {progress.epoch.number}" == killed_at:
            raise Killed

    return train_on_cache(make_cache(CacheRecipe(groups=9)), tmp_path / "run", config, watch=watch)


def test_a_killed_cross_validation_repeats_no_finished_fold(tmp_path: Path) -> None:
    config = TrainConfig(FitConfig(epochs=3, batch_size=16), folds=3, seeds=2)
    with pytest.raises(Killed):
        make_run(tmp_path, config, "seed 0, fold 2/3 2")
    seen: list[str] = []
    done = make_run(tmp_path, config, "", seen)
    assert seen[0] == "seed 0, fold 2/3 3"
    assert not any(stage.startswith("seed 0, fold 1/3") for stage in seen)
    whole = make_run(tmp_path / "whole", config, "")
    assert done.document.weights_sha256 == whole.document.weights_sha256
    assert done.document.out_of_fold == whole.document.out_of_fold
    assert not list(tmp_path.glob(".run.fit"))


def test_a_run_that_is_asked_for_something_else_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make_run(tmp_path, TrainConfig(FitConfig(epochs=4)), "fit 3")
    seen: list[str] = []
    make_run(tmp_path, TrainConfig(FitConfig(epochs=4, seed=1)), "", seen)
    assert seen == ["fit 1", "fit 2", "fit 3", "fit 4"]


def test_two_runs_do_not_train_the_same_thing_at_once(tmp_path: Path) -> None:
    store = FitStore(tmp_path / "run", "key")
    with pytest.raises(UnmaskError, match="is training"):
        FitStore(tmp_path / "run", "key")
    store.close()
    FitStore(tmp_path / "run", "key").close()
    assert not list(tmp_path.iterdir())
