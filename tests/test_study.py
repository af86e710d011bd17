"""The record of a sweep's trials: what is proposed, given up early, interrupted and found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from extract.errors import FormatError
from train.sweep.space import Chosen, SearchSpace
from train.sweep.study import LEAST_TRIALS, Proposal, Study, Trial, list_rungs

SPACE = SearchSpace(encoders=("lstm", "linear"), poolings=("mean", "last", "max"))
EPOCHS = 6
RUNG = list_rungs(15)[0]


class KilledError(Exception):
    """Stands for a kill -9 in the middle of something."""


def open_study(journal: Path, seed: int = 0) -> Study:
    study = Study(journal, SPACE, seed, EPOCHS)
    study.recover()
    return study


def judge(chosen: Chosen, epoch: int) -> float:
    """A made-up AUC that likes dropout and time."""
    return float(0.5 + chosen["dropout"] / 2 + epoch / 100)


def run_trial(study: Study, proposal: Proposal) -> None:
    for epoch in range(1, EPOCHS + 1):
        if not study.report(proposal.number, epoch, judge(proposal.chosen, epoch)):
            study.prune(proposal.number, 1.0, "")
            return
    study.complete(proposal.number, judge(proposal.chosen, EPOCHS), EPOCHS, 1.0)


def finish(study: Study, trials: int) -> list[Trial]:
    while study.count_finished() < trials:
        run_trial(study, study.propose())
    return study.list_trials()


def tell(trials: list[Trial]) -> list[tuple[Any, ...]]:
    """What must be equal between a sweep that was interrupted and one that was not."""
    return [(t.state, t.chosen, t.value, t.epochs) for t in trials]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    return tell(finish(open_study(tmp_path_factory.mktemp("study") / "journal.log"), 25))


def test_the_same_seed_gives_the_same_trials_and_another_others(
    tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    assert tell(finish(open_study(tmp_path / "a.log"), 25)) == undisturbed
    assert tell(finish(open_study(tmp_path / "b.log", seed=1), 3)) != undisturbed[:3]


def test_interrupted_trials_come_again_and_later_ones_are_what_they_would_have_been(
    tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    for done in (0, 7, 8, 15):
        study = open_study(tmp_path / "journal.log")
        finish(study, done)
        proposal = study.propose()
        study.report(proposal.number, 1, judge(proposal.chosen, 1))  # and no more: its process is gone
    assert tell(finish(open_study(tmp_path / "journal.log"), 25)) == undisturbed


def test_several_interrupted_trials_are_finished_each_once(tmp_path: Path) -> None:
    study = open_study(tmp_path / "journal.log")
    begun = [study.propose().chosen for _ in range(4)]
    done = [trial.chosen for trial in finish(open_study(tmp_path / "journal.log"), 4)]
    assert sorted(map(json.dumps, done)) == sorted(map(json.dumps, begun))


def test_a_kill_between_queueing_again_and_putting_away_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = open_study(tmp_path / "journal.log").propose().chosen

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", kill)
        with pytest.raises(KilledError):
            open_study(tmp_path / "journal.log")
    trials = finish(open_study(tmp_path / "journal.log"), 3)
    assert [trial.chosen for trial in trials].count(begun) == 1


def test_a_kill_while_choices_are_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: list[tuple[Any, ...]]
) -> None:
    def kill(*_: object) -> None:
        raise KilledError

    study = open_study(tmp_path / "journal.log")
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", kill)
        with pytest.raises(KilledError):
            study.propose()
    assert tell(finish(open_study(tmp_path / "journal.log"), 10)) == undisturbed[:10]


def test_a_trial_whose_process_died_comes_again_and_says_how_often(tmp_path: Path) -> None:
    study = open_study(tmp_path / "journal.log")
    first = study.propose()
    study.queue_again(first.number)
    again = study.propose()
    assert (again.chosen, first.deaths, again.deaths) == (first.chosen, 0, 1)


def test_a_trial_that_is_given_up_is_recorded_with_its_reason_and_has_no_result(tmp_path: Path) -> None:
    study = open_study(tmp_path / "journal.log")
    study.give_up(study.propose().number, "its process ended 3 times")
    assert study.count_finished() == 0
    assert [(t.state, t.value, t.note) for t in study.list_trials()] == [("failed", None, "its process ended 3 times")]


def test_half_a_line_at_the_end_of_the_journal_is_mended(tmp_path: Path, undisturbed: list[tuple[Any, ...]]) -> None:
    finish(open_study(tmp_path / "journal.log"), 5)
    with (tmp_path / "journal.log").open("a") as file:
        file.write('{"op_code":6,"worker_id"')
    assert tell(finish(open_study(tmp_path / "journal.log"), 10)) == undisturbed[:10]


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    finish(open_study(tmp_path / "journal.log"), 2)
    text = (tmp_path / "journal.log").read_text()
    (tmp_path / "journal.log").write_text("?" + text)
    with pytest.raises(FormatError, match=r"journal\.log is damaged: .*; start the sweep again in another --out"):
        open_study(tmp_path / "journal.log")


def test_the_best_third_goes_on_from_a_rung(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal.log", SPACE, 0, 15)
    values = [0.6, 0.7, 0.5, 0.8, 0.75, 0.65]
    numbers = [study.propose().number for _ in values]
    assert all(study.report(number, RUNG - 1, 0.1) for number in numbers)  # not yet a rung: everyone goes on
    went_on = [study.report(number, RUNG, value) for number, value in zip(numbers, values, strict=True)]
    # Each is compared with those that came before it: one of the best ceil(n / 3).
    assert went_on == [True, True, False, True, True, False]


def test_an_interrupted_trial_has_no_say_in_who_goes_on(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal.log", SPACE, 0, 15)
    study.report(study.propose().number, RUNG, 0.9)
    study = Study(tmp_path / "journal.log", SPACE, 0, 15)
    study.recover()
    again, other = study.propose(), study.propose()
    assert study.report(other.number, RUNG, 0.6)
    assert study.report(again.number, RUNG, 0.9)


@pytest.mark.parametrize(("epochs", "rungs"), [(15, (2, 6)), (60, (8, 24)), (2, (1,)), (1, ())])
def test_rungs_are_a_seventh_of_all_epochs_and_three_times_that(epochs: int, rungs: tuple[int, ...]) -> None:
    assert list_rungs(epochs) == rungs


def test_the_choice_that_decides_has_the_largest_importance(tmp_path: Path) -> None:
    study = open_study(tmp_path / "journal.log")
    finish(study, 40)
    found = study.measure_importances()
    assert next(iter(found.shares)) == "dropout"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert "linear_pooling" not in found.shares  # it is the same choice as pooling, of another head


def test_few_trials_have_no_importances_and_say_why(tmp_path: Path) -> None:
    study = open_study(tmp_path / "journal.log")
    finish(study, 3)
    found = study.measure_importances()
    assert found.shares == {}
    assert found.note == f"only 3 trials have a value; importances need {LEAST_TRIALS}"
