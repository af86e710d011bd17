"""A sweep as a whole: an exact number of trials however often it is interrupted, and figures that say what they are."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from click.testing import CliRunner

from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from extract.lock import Lock, is_other_process
from tests.train_data import CacheRecipe, make_cache, write_features
from train.config import SMOOTHED, HeadShape
from train.sweep.document import SweepIdentity, load_document
from train.sweep.report import describe_trial, name_head, summarise_sweep
from train.sweep.run import Refit, Standing, Sweep, SweepConfig, _Lead, rank_trials, run_sweep, value_trial
from train.sweep.space import SearchSpace
from train.sweep.study import Study, Trial
from train.sweep.workers import Crew, Death, Event, Report, TrialEnd, Work, end_server
from train.sweep_cli import sweep_command

ROOT = Path(__file__).parent.parent
SPACE = SearchSpace(projection=(8, 16), hidden=(8, 16), hidden_step=8, layers=(1, 1))
QUICK = SweepConfig(trials=5, space=SPACE, epochs=2, device="cpu", refit=None)
IDENTITY = SweepIdentity(
    cache_sha256="c" * 64, fingerprint_sha256="f" * 64, dim=16, space=SearchSpace(), epochs=3, seed=0
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("cache") / "toy.h5", make_cache(CacheRecipe(groups=14, clips=1)))


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return run_sweep(cache, tmp_path_factory.mktemp("whole") / "sweep", QUICK)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors of a few numbers are not worth a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tell(sweep: Sweep) -> list[tuple[Any, ...]]:
    """What must be equal between sweeps: everything but numbers of trials and times."""
    return [(t.state, t.chosen, t.value, t.epochs, t.best_epoch) for t in sweep.trials]


@dataclass
class ScriptedCrew:
    """Workers that do to each trial what a script says; `has_room` for one at a time."""

    script: Callable[[Work], Event]
    begun: list[Work] = field(default_factory=list)
    pending: list[Event] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        return not self.pending

    def start(self, work: Work) -> None:
        self.begun.append(work)
        self.pending.append(self.script(work))

    def answer(self, trial: int, go_on: bool) -> None:
        self.pending.append(TrialEnd(trial, 1.0, best_epoch=1 if go_on else None))

    def wait(self) -> list[Event]:
        return [self.pending.pop(0)]


def lead(tmp_path: Path, script: Callable[[Work], Event], trials: int = 4) -> tuple[ScriptedCrew, Study]:
    crew, study = ScriptedCrew(script), Study(tmp_path / "journal.log", SearchSpace(), 0, 3)
    _Lead(study, cast(Crew, crew), trials, IDENTITY, lambda _: None).run()
    return crew, study


def wait_for_end(pids: list[int]) -> None:
    """Until none of these processes runs any more, or a test has failed."""
    deadline = time.monotonic() + 10
    while any(is_other_process(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process outlives the sweep"
        time.sleep(0.02)


def test_a_sweep_has_as_many_results_as_were_asked_for_and_says_them_in_files(whole: Sweep) -> None:
    counts = whole.document.counts
    assert (counts["complete"] + counts["pruned"], counts["failed"]) == (5, 0)
    with (whole.path / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [str(trial.number) for trial in whole.trials]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    best = load_document(whole.path).best
    assert best is not None
    assert str(best.trial) == rows[0]["trial"]
    assert float(rows[0]["value"]) == pytest.approx(best.value, abs=1e-6)  # rounded to six places
    assert (whole.path / "history.png").read_bytes().startswith(b"\x89PNG")
    assert not (whole.path / "importance.png").exists()  # too few trials, as the document says
    assert "importances need" in whole.document.importances_note


def test_the_same_seed_gives_the_same_leaderboard(cache: Path, tmp_path: Path, whole: Sweep) -> None:
    assert tell(run_sweep(cache, tmp_path / "again", QUICK)) == tell(whole)


def test_more_trials_continue_a_sweep_as_if_they_had_been_asked_for_at_once(
    cache: Path, tmp_path: Path, whole: Sweep
) -> None:
    run_sweep(cache, tmp_path / "sweep", replace(QUICK, trials=2))
    assert tell(run_sweep(cache, tmp_path / "sweep", QUICK)) == tell(whole)


def test_a_finished_sweep_is_not_run_again(cache: Path, whole: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.sweep.run.Crew", None)  # nothing can be started
    assert tell(run_sweep(cache, whole.path, QUICK)) == tell(whole)


def test_the_kill_of_a_worker_costs_no_trial_and_changes_none(cache: Path, tmp_path: Path, whole: Sweep) -> None:
    killed: list[int] = []

    def kill(standing: Standing) -> None:
        workers = [p.pid or 0 for p in multiprocessing.active_children() if p.name == "sweep_serve"]
        if standing.finished == 2 and standing.running and workers and not killed:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    assert tell(run_sweep(cache, tmp_path / "sweep", QUICK, kill)) == tell(whole)
    assert killed


def test_the_kill_of_the_sweep_itself_leaves_no_process_costs_no_trial_and_changes_none(
    cache: Path, tmp_path: Path, whole: Sweep
) -> None:
    code = f"""
import multiprocessing, os, signal, sys
from pathlib import Path
from train.sweep.space import SearchSpace
from train.sweep.run import SweepConfig, run_sweep
def kill(standing):
    if standing.finished == 2 and any(epoch for epoch, _ in standing.running.values()):
        print("torch" in sys.modules, *[p.pid for p in multiprocessing.active_children()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    run_sweep(Path({str(cache)!r}), Path({str(tmp_path / "sweep")!r}), {QUICK!r}, kill)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    loads_torch, *pids = done.stdout.split()
    assert (loads_torch, len(pids)) == ("False", 2)  # one that holds the features, one that trains
    wait_for_end([int(pid) for pid in pids])
    assert tell(run_sweep(cache, tmp_path / "sweep", QUICK)) == tell(whole)


def test_several_jobs_give_the_number_that_was_asked_for(cache: Path, tmp_path: Path) -> None:
    sweep = run_sweep(cache, tmp_path / "sweep", replace(QUICK, jobs=3))
    assert len({json.dumps(trial.chosen) for trial in sweep.trials}) == len(sweep.trials) == 5


def test_more_jobs_than_processors_are_not_started(
    cache: Path, tmp_path: Path, whole: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.sweep.run.count_processors", lambda: 1)
    assert tell(run_sweep(cache, tmp_path / "sweep", replace(QUICK, jobs=8))) == tell(whole)


def test_ctrl_c_ends_with_a_sentence_and_the_same_command_continues(cache: Path, tmp_path: Path, whole: Sweep) -> None:
    def interrupt(standing: Standing) -> None:
        if standing.finished == 3:
            raise KeyboardInterrupt

    with pytest.raises(UnmaskError, match="stopped with 3 of 5 trials finished; the same command continues"):
        run_sweep(cache, tmp_path / "sweep", QUICK, interrupt)
    assert tell(run_sweep(cache, tmp_path / "sweep", QUICK)) == tell(whole)


def test_another_cache_is_refused_with_the_difference(tmp_path: Path, whole: Sweep) -> None:
    other = write_features(tmp_path / "other.h5", make_cache(CacheRecipe(groups=14, clips=1, seed=1)))
    with pytest.raises(
        MismatchError, match=r"holds a sweep of something else \(cache_sha256: found .*; continue it as it was"
    ):
        run_sweep(other, whole.path, QUICK)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"space": SPACE.model_copy(update={"encoders": ("gru",)})}, r"space\.encoders: found \['gru'\]"),
        ({"epochs": 3}, "epochs: found 3, expected 2"),
        ({"seed": 1}, "seed: found 1, expected 0"),
    ],
)
def test_another_search_is_refused_with_the_difference(
    cache: Path, whole: Sweep, change: dict[str, Any], difference: str
) -> None:
    with pytest.raises(MismatchError, match=difference):
        run_sweep(cache, whole.path, replace(QUICK, **change))


def test_a_second_run_at_a_time_is_refused(cache: Path, whole: Sweep) -> None:
    lock = Lock(whole.path / ".lock", "")
    try:
        with pytest.raises(UnmaskError, match=r"another run .* sweeps into .*; wait for it, or choose another --out"):
            run_sweep(cache, whole.path, QUICK)
    finally:
        lock.release()


def test_a_place_that_holds_something_else_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").touch()
    with pytest.raises(UsageError, match="is not a sweep of unmask; choose another --out"):
        run_sweep(cache, tmp_path / "notes", QUICK)
    with pytest.raises(UsageError, match="is a file; choose another --out"):
        run_sweep(cache, tmp_path / "notes" / "diary.txt", QUICK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: .*; choose another --out"),
        ("[]", "has the format None, expected 'unmask-sweep/1'"),
        ('{"format": "unmask-sweep/9"}', "has the format 'unmask-sweep/9', expected 'unmask-sweep/1'"),
        ('{"format": "unmask-sweep/1"}', "is damaged at cache: Field required; choose another --out"),
    ],
)
def test_a_document_that_is_not_understood_is_refused(cache: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        run_sweep(cache, tmp_path, QUICK)


def test_a_trial_whose_process_dies_three_times_is_given_up(tmp_path: Path) -> None:
    doomed: list[HeadShape] = []

    def script(work: Work) -> Event:
        doomed.append(work.shape) if not doomed else None
        return Death(work.trial, "signal 9, Killed") if work.shape == doomed[0] else Report(work.trial, 1, 0.7)

    crew, study = lead(tmp_path, script)
    assert [work.shape for work in crew.begun].count(doomed[0]) == 3
    assert study.count_finished() == 4  # beside it
    failed = [trial.note for trial in study.list_trials() if trial.state == "failed"]
    assert failed == ["its process ended 3 times, last by signal 9, Killed"]


def test_trials_that_all_fail_end_the_sweep_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"3 trials one after another .* because: MemoryError: .*; take fewer --jobs"):
        lead(tmp_path, lambda work: TrialEnd(work.trial, 1.0, failed="MemoryError: no more"))


def test_a_trial_that_diverged_counts_as_pruned_with_its_reason(tmp_path: Path) -> None:
    _, study = lead(tmp_path, lambda work: TrialEnd(work.trial, 1.0, refused="training diverged in epoch 1"))
    assert [(t.state, t.value, t.note) for t in study.list_trials()] == [
        ("pruned", None, "training diverged in epoch 1")
    ] * 4


def test_a_trial_is_worth_its_best_epoch_smoothed_over_the_epochs_that_a_fit_smooths_over() -> None:
    assert SMOOTHED == 5  # the fits read the same
    lucky = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5]  # one lucky epoch at the start
    assert value_trial(lucky) == pytest.approx(0.6)
    assert value_trial([0.5, 0.6, 0.7, 0.8, 0.9, 0.4, 0.4]) == pytest.approx(0.7)
    assert value_trial([0.9, 0.7]) == pytest.approx(0.8)


def test_complete_trials_rank_before_pruned_ones_and_those_before_failed_ones() -> None:
    trials = [
        Trial(0, "failed", {}),
        Trial(1, "pruned", {}, 0.9, epochs=2),
        Trial(2, "complete", {}, 0.6),
        Trial(3, "pruned", {}, 0.7, epochs=6),
        Trial(4, "complete", {}, 0.8),
        Trial(5, "complete", {}, 0.8),
    ]
    assert [trial.number for trial in rank_trials(trials)] == [4, 5, 2, 3, 1, 0]


def test_a_linear_head_has_no_sizes_in_the_leaderboard() -> None:
    space = SearchSpace(encoders=("linear",))
    chosen = {"dropout": 0.1, "learning_rate": 1e-3, "weight_decay": 1e-3}
    row = describe_trial(1, Trial(0, "failed", chosen), IDENTITY.model_copy(update={"space": space}))
    assert (row["encoder"], row["hidden"], row["layers"], row["projection"], row["value"]) == ("linear", "", "", "", "")
    assert name_head(HeadShape(encoder="linear")) == "linear, mean, layernorm"
    assert name_head(HeadShape(bidirectional=True)) == "lstm 128 > 128 x 1 both ways, mean, layernorm"


def test_the_best_configuration_is_trained_by_folds_once(cache: Path, whole: Sweep, one_thread: None) -> None:
    config = replace(QUICK, refit=Refit(folds=3, seeds=1))
    first = run_sweep(cache, whole.path, config)
    assert first.run is not None
    assert whole.document.best is not None
    assert first.run.document.fit == whole.document.best.fit
    written = (first.run.path / "run.json").stat().st_mtime_ns
    again = run_sweep(cache, whole.path, config)
    assert (whole.path / "best" / "run.json").stat().st_mtime_ns == written
    found = summarise_sweep(again)
    assert found["run"]["out_of_fold"]["auc"]["value"] == summarise_sweep(first)["run"]["out_of_fold"]["auc"]["value"]
    assert "flatters" in found["note"]


def test_the_process_that_trials_are_forked_from_ends_once_nobody_needs_it() -> None:
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        server = pool.apply(os.getppid)
        end_server()
        os.kill(server, 0)  # it is still there
        pool.terminate()
        pool.join()
    end_server()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_the_command_prints_one_document_or_a_table_with_what_the_value_is_worth(cache: Path, tmp_path: Path) -> None:
    arguments = [str(cache), "--out", str(tmp_path / "sweep"), "--trials", "1", "--epochs", "1", "--no-refit"]
    told = CliRunner().invoke(sweep_command, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(told.stdout)
    assert found["counts"] == {"complete": 1, "pruned": 0, "failed": 0}
    assert found["leaderboard"][0]["value"] == pytest.approx(found["best"]["value"], abs=1e-6)
    told = CliRunner().invoke(sweep_command, arguments, catch_exceptions=False)
    assert "the best of 1 was chosen by that very figure, which flatters it" in told.stdout


def test_a_name_that_is_no_head_is_misuse(cache: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(sweep_command, [str(cache), "--out", str(tmp_path / "s"), "--heads", "lstm,mamba"])
    assert told.exit_code == 2
    assert "'mamba' is none of lstm, gru, transformer, linear" in told.stderr
