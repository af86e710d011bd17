"""A sweep: many heads tried on one split of a cache, the best of them trained again by folds, and all of it resumable.

OUT/sweep.json       SweepDocument: what the sweep is, and what it found
OUT/journal.log      every trial, by Optuna
OUT/leaderboard.csv  a line a trial, best first
OUT/*.png            history and importance
OUT/best/            the run of the best trial's configuration
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from extract.errors import UnmaskError
from extract.files import translate_os_errors
from extract.lock import Lock
from extract.session import Device, count_processors
from train.config import SMOOTHED, HeadConfig, Purpose
from train.sweep.document import (
    LOCK,
    Leader,
    SweepDocument,
    SweepIdentity,
    open_document,
    record_split,
    require_ours,
    write_document,
)
from train.sweep.space import SearchSpace
from train.sweep.study import Importances, Study, Trial
from train.sweep.workers import AGAIN, Crew, Death, Event, Plan, Report, TrialEnd, Work, end_server

if TYPE_CHECKING:
    from train.checkpoint import Run
    from train.schemes import TrainConfig
    from train.schemes import Watcher as RunWatcher

JOURNAL, BEST = "journal.log", "best"
MOST_DEATHS = 3  # of one trial's process
MOST_FAILURES = 3  # trials one after another that cannot be run


@dataclass(frozen=True)
class Refit:
    """How the best configuration is trained again."""

    folds: int = 5
    seeds: int = 3


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep is asked for. `trials` counts those with a result; `memory` is what all processes may take."""

    trials: int = 100
    space: SearchSpace = field(default_factory=SearchSpace)
    epochs: int = 15
    seed: int = 0
    jobs: int = 1
    device: Device = "auto"
    purpose: Purpose = "research"
    memory: int | None = None
    refit: Refit | None = field(default_factory=Refit)


@dataclass(frozen=True)
class Standing:
    """How far a sweep is, for whoever watches: running trials with their last epoch and its value."""

    finished: int
    trials: int
    best: tuple[int, float] | None
    running: dict[int, tuple[int, float]]


Watcher = Callable[[Standing], None]


@dataclass(frozen=True)
class Sweep:
    """A sweep that is finished; `run` is that of the best configuration, where one was asked for."""

    path: Path
    document: SweepDocument
    trials: tuple[Trial, ...]  # best first
    importances: Importances
    seconds: float  # of the trials, this time
    run: Run | None = None
    run_seconds: float = 0.0


def run_sweep(
    cache: Path,
    out: Path,
    config: SweepConfig | None = None,
    watch: Watcher = lambda _: None,
    watch_run: RunWatcher = lambda _: None,
) -> Sweep:
    """Runs a sweep, or what is left of it; a death of any process at any moment loses no trial and repeats none."""
    config = config or SweepConfig()
    config.space.require_sense()
    require_ours(out)
    with translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out / LOCK, f"sweeps into {out}; wait for it, or choose another --out")
    try:
        begun = time.monotonic()
        document = open_document(cache, out, config.space, config.epochs, config.seed)
        study = Study(out / JOURNAL, config.space, config.seed, config.epochs)
        study.recover()
        document = _run_trials(cache, out, document, study, config, watch)
        seconds = time.monotonic() - begun
        sweep = _conclude(out, document, study, seconds)
        return sweep if config.refit is None else _refit(cache, sweep, config, config.refit, watch_run)
    finally:
        lock.release()


def smooth(aucs: Sequence[float]) -> float:
    """What an epoch is worth: the mean validation AUC of the last SMOOTHED epochs up to it."""
    recent = aucs[-SMOOTHED:]
    return sum(recent) / len(recent)


def value_trial(aucs: Sequence[float]) -> float:
    """What a trial is worth: its best epoch, of those that SMOOTHED epochs lead up to; the last of fewer."""
    ends = range(min(SMOOTHED, len(aucs)), len(aucs) + 1)
    return max(smooth(aucs[:end]) for end in ends)


def rank_trials(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Complete ones by value, then pruned ones by how far they came and their value, then the others."""
    states = ("complete", "pruned", "failed", "running", "queued")

    def rank(trial: Trial) -> tuple[int, int, float, int]:
        epochs = trial.epochs if trial.state == "pruned" else 0
        return states.index(trial.state), -epochs, -(trial.value or 0.0), trial.number

    return tuple(sorted(trials, key=rank))


class _Lead:
    """Leads the workers through the trials that are left."""

    def __init__(self, study: Study, crew: Crew, trials: int, identity: SweepIdentity, watch: Watcher) -> None:
        self._study, self._crew, self._trials, self._identity, self._watch = study, crew, trials, identity, watch
        self._finished = study.count_finished()
        self._aucs: dict[int, list[float]] = {}  # of each running trial
        self._deaths: dict[int, int] = {}
        self._failures: list[str] = []  # since the last result
        complete = [t for t in study.list_trials() if t.state == "complete" and t.value is not None]
        best = rank_trials(complete)[:1]
        self._best = next(((t.number, t.value) for t in best if t.value is not None), None)

    def run(self) -> None:
        """Until all trials have a result."""
        while self._finished < self._trials:
            while self._crew.has_room and self._finished + len(self._aucs) < self._trials:
                self._start()
            self._tell()
            for event in self._crew.wait():
                self._take(event)
        self._tell()

    def _start(self) -> None:
        proposal = self._study.propose()
        shape, fit = self._identity.configure(proposal.chosen)
        self._aucs[proposal.number], self._deaths[proposal.number] = [], proposal.deaths
        self._crew.start(Work(proposal.number, shape, fit))

    def _take(self, event: Event) -> None:
        if isinstance(event, Report):
            self._take_report(event)
            return
        aucs, deaths = self._aucs.pop(event.trial), self._deaths.pop(event.trial)
        if isinstance(event, Death):
            self._take_death(event, deaths + 1)
        elif event.failed:
            self._give_up(event.trial, event.failed)
        else:
            self._take_end(event, aucs)

    def _take_report(self, report: Report) -> None:
        aucs = self._aucs[report.trial]
        aucs.append(0.5 if report.val_auc is None else report.val_auc)
        self._crew.answer(report.trial, self._study.report(report.trial, report.epoch, smooth(aucs)))

    def _take_end(self, end: TrialEnd, aucs: list[float]) -> None:
        self._failures.clear()
        self._finished += 1
        if end.refused:
            self._study.prune(end.trial, end.seconds, end.refused)
        elif end.best_epoch is None:
            self._study.prune(end.trial, end.seconds, "")
        else:
            value = value_trial(aucs)
            self._study.complete(end.trial, value, end.best_epoch, end.seconds)
            if self._best is None or value > self._best[1]:
                self._best = end.trial, value

    def _take_death(self, death: Death, deaths: int) -> None:
        if deaths < MOST_DEATHS:
            self._study.queue_again(death.trial)
        else:
            self._give_up(death.trial, f"its process ended {deaths} times, last by {death.how}")

    def _give_up(self, trial: int, reason: str) -> None:
        self._study.give_up(trial, reason)
        self._failures.append(reason)
        if len(self._failures) >= MOST_FAILURES:
            raise UnmaskError(
                f"{MOST_FAILURES} trials one after another could not be run, the last of them because: {reason}; take "
                f"fewer --jobs if memory is short; {AGAIN}"
            )

    def _tell(self) -> None:
        running = {trial: (len(aucs), smooth(aucs) if aucs else 0.0) for trial, aucs in self._aucs.items()}
        self._watch(Standing(self._finished, self._trials, self._best, running))


def _run_trials(
    cache: Path, out: Path, document: SweepDocument, study: Study, config: SweepConfig, watch: Watcher
) -> SweepDocument:
    if study.count_finished() >= config.trials:
        return document
    folds = None if config.refit is None else config.refit.folds
    # More than the machine has processors would take turns on them, and each its memory.
    plan = Plan(min(config.jobs, count_processors()), config.device, config.seed, config.memory, folds)
    try:
        with Crew(cache, plan) as crew:
            document = record_split(out, document, crew.division.facts)
            _Lead(study, crew, config.trials, document.identity, watch).run()
    except KeyboardInterrupt:
        raise UnmaskError(
            f"stopped with {study.count_finished()} of {config.trials} trials finished; {AGAIN}"
        ) from None
    return document


def _conclude(out: Path, document: SweepDocument, study: Study, seconds: float) -> Sweep:
    """What was found, in files."""
    from train.sweep.report import write_report

    trials = rank_trials(study.list_trials())
    importances = study.measure_importances()
    document = document.model_copy(
        update={
            "counts": {state: sum(t.state == state for t in trials) for state in ("complete", "pruned", "failed")},
            "best": _name_leader(trials, document.identity),
            "importances": importances.shares,
            "importances_note": importances.note,
        }
    )
    write_document(out, document)
    sweep = Sweep(out, document, trials, importances, seconds)
    write_report(sweep)
    return sweep


def _name_leader(trials: Sequence[Trial], identity: SweepIdentity) -> Leader | None:
    best = trials[0] if trials else None
    if best is None or best.state != "complete" or best.value is None or best.best_epoch is None:
        return None
    shape, fit = identity.configure(best.chosen)
    return Leader(trial=best.number, value=best.value, best_epoch=best.best_epoch, head=shape, fit=fit)


def _refit(cache: Path, sweep: Sweep, config: SweepConfig, refit: Refit, watch: RunWatcher) -> Sweep:
    """Trains the best configuration by folds, unless that was done."""
    from train.run import train_run
    from train.schemes import TrainConfig

    leader = sweep.document.best
    if leader is None:
        raise UnmaskError(f"no trial of {sweep.path} is complete: there is nothing to train again; run more --trials")
    asked = TrainConfig(
        fit=leader.fit,
        head=leader.head,
        folds=refit.folds,
        seeds=refit.seeds,
        device=config.device,
        purpose=config.purpose,
        memory=config.memory,
    )
    begun = time.monotonic()
    run = _find_run(sweep.path / BEST, asked, sweep.document.identity.dim)
    if run is None:
        end_server()  # this process loads torch itself now
        try:
            run = train_run(cache, sweep.path / BEST, asked, overwrite=True, watch=watch)
        except KeyboardInterrupt:
            raise UnmaskError(f"stopped while the best configuration was trained by folds; {AGAIN}") from None
    return replace(sweep, run=run, run_seconds=time.monotonic() - begun)


def _find_run(path: Path, asked: TrainConfig, dim: int) -> Run | None:
    """The run of a configuration, where it is there already."""
    from train.checkpoint import load_run

    try:
        run = load_run(path)
    except UnmaskError:
        return None
    found = run.document
    same = (found.head, found.fit, found.seeds, found.split.folds, found.purpose)
    wanted = (HeadConfig.of(asked.head, dim), asked.fit, asked.seed_numbers, asked.folds, asked.purpose)
    return run if same == wanted else None
