"""The processes of a sweep: what they say, how they end, and what their deaths do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from extract.errors import DeviceError, UnmaskError
from tests.train_data import CacheRecipe, make_cache, write_features
from train.config import FitConfig, HeadShape
from train.sweep.workers import Crew, Death, Event, Plan, Report, TrialEnd, Work

SMALL = HeadShape(projection=8, hidden=8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("cache") / "toy.h5", make_cache(CacheRecipe(groups=14, clips=1)))


@pytest.fixture(scope="module")
def crew(cache: Path) -> Iterator[Crew]:
    with Crew(cache, Plan(jobs=2, device="cpu")) as crew:
        yield crew


def work(trial: int, epochs: int = 2, learning_rate: float = 1e-3) -> Work:
    return Work(trial, SMALL, FitConfig(epochs=epochs, learning_rate=learning_rate))


def list_processes(name: str) -> list[BaseProcess]:
    return [process for process in multiprocessing.active_children() if process.name == name]


def kill_processes(name: str) -> None:
    """Ends them, and waits until they have ended: an idle one that is dying still counts as alive for a moment."""
    for process in list_processes(name):
        process.kill()
        process.join()


def hear(crew: Crew, go_on: bool = True) -> list[Event]:
    """Everything until a trial ends."""
    heard: list[Event] = []
    while not any(isinstance(event, TrialEnd | Death) for event in heard):
        for event in crew.wait():
            heard.append(event)
            if isinstance(event, Report):
                crew.answer(event.trial, go_on)
    return heard


def test_a_trial_reports_each_epoch_and_its_best(crew: Crew) -> None:
    crew.start(work(1, epochs=3))
    *reports, end = hear(crew)
    assert [(r.trial, r.epoch) for r in reports if isinstance(r, Report)] == [(1, 1), (1, 2), (1, 3)]
    assert isinstance(end, TrialEnd)
    assert end.best_epoch in (1, 2, 3)


def test_a_trial_that_is_not_worth_it_ends_at_once(crew: Crew) -> None:
    crew.start(work(2, epochs=50))
    report, end = hear(crew, go_on=False)
    assert isinstance(report, Report)
    assert isinstance(end, TrialEnd)
    assert (report.epoch, end.best_epoch, end.refused, end.failed) == (1, None, "", "")


def test_a_trial_that_diverges_says_so_and_its_worker_goes_on(crew: Crew) -> None:
    crew.start(work(3, learning_rate=1e30))
    end = hear(crew)[-1]
    assert isinstance(end, TrialEnd)
    assert "diverged" in end.refused
    crew.start(work(4))
    assert isinstance(hear(crew)[-1], TrialEnd)


def test_trials_of_the_same_choices_have_the_same_figures_in_any_worker(crew: Crew) -> None:
    crew.start(work(5))
    crew.start(work(6))
    assert not crew.has_room
    reports = [e for _ in range(2) for e in hear(crew) if isinstance(e, Report)]
    aucs = [[r.val_auc for r in reports if r.trial == trial] for trial in (5, 6)]
    assert len(list_processes("sweep_serve")) == 2
    assert aucs[0] == aucs[1]


def test_the_death_of_a_worker_is_told_with_its_signal_and_another_takes_over(crew: Crew) -> None:
    crew.start(work(7, epochs=100_000))
    crew.wait()
    kill_processes("sweep_serve")
    assert hear(crew)[-1] == Death(7, "signal 9, Killed")
    crew.start(work(8))
    assert isinstance(hear(crew)[-1], TrialEnd)


def test_a_sweep_without_its_features_ends_with_a_sentence(cache: Path) -> None:
    others = list_processes("sweep_keep")
    with Crew(cache, Plan(device="cpu")) as crew:
        (keeper,) = set(list_processes("sweep_keep")) - set(others)
        keeper.kill()
        with pytest.raises(UnmaskError, match=r"features ended \(signal 9, Killed\); the same command continues"):
            crew.wait()


def test_folds_that_cannot_be_made_are_refused_before_the_trials(cache: Path) -> None:
    with pytest.raises(UnmaskError, match="cannot be divided into 20 folds"):
        Crew(cache, Plan(device="cpu", folds=20))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_cannot_run_is_refused_before_the_trials(cache: Path) -> None:
    with pytest.raises(DeviceError, match="--device cuda cannot run here"):
        Crew(cache, Plan(device="cuda"))


def test_cores_are_shared_between_workers_and_each_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.sweep.workers.count_processors", lambda: 6)
    assert [Plan(jobs=jobs).threads for jobs in (1, 2, 4, 8)] == [6, 3, 1, 1]
