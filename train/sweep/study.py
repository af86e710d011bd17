"""The record of a sweep's trials, which Optuna keeps in a journal: what to try next, what to give up, what was found.

One process writes the journal. It may die at any moment: what it had in hand is found running and is queued again,
with just the same choices, as a trial that says which one it repeats.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from extract.errors import FormatError
from extract.files import translate_os_errors
from train.sweep.space import LINEAR_POOLING, Chosen, SearchSpace

State = Literal["complete", "pruned", "failed", "running", "queued"]
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "queued",
}
# What is noted of a trial beside what Optuna notes.
CHOSEN, REPEATS, DEATHS, NOTE, BEST_EPOCH, SECONDS = "chosen", "repeats", "deaths", "note", "best_epoch", "seconds"

STARTUP = 10  # trials at random, before the choices follow what was found
KEPT = 3  # one of so many goes on from a rung
FIRST_RUNG = 7  # after this part of all epochs; each rung is KEPT times as far as the one before
LEAST_TRIALS = 20  # before importances say anything


@dataclass(frozen=True)
class Trial:
    """A set of choices and what became of it; interrupted trials that were queued again are not among these.

    `value` is the best smoothed validation AUC of a complete trial, and the last of one that was pruned.
    """

    number: int
    state: State
    chosen: Chosen
    value: float | None = None
    epochs: int = 0
    best_epoch: int | None = None
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Proposal:
    """A trial to be run, and how often it has ended its process already."""

    number: int
    chosen: Chosen
    deaths: int


@dataclass(frozen=True)
class Importances:
    """How much each choice decided which trials were among the best tenth (they add up to 1), or why nobody knows."""

    shares: dict[str, float] = field(default_factory=dict)
    note: str = ""


class Study:
    """The trials of one sweep.

    Each proposal has a random state of its own, from the seed and the number of proposals before it: a sweep that was
    interrupted goes on as it would have without.
    """

    def __init__(self, journal: Path, space: SearchSpace, seed: int, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._seed = seed
        self._rungs = list_rungs(epochs)
        with translate_os_errors(journal):
            _mend_journal(journal)
            self._journal = _Journal(str(journal))
            self._study = _open_study(self._journal, journal)
        self._running: dict[int, optuna.Trial] = {}

    def recover(self) -> int:
        """Queues again whatever a process left running when it died; says how many."""
        trials = self._study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
        left = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in left:
            # First into the queue, then out of the way: a death between the two leaves both, which `repeated` tells.
            if CHOSEN in trial.user_attrs and trial.number not in repeated:
                self._queue(trial, trial.user_attrs.get(DEATHS, 0))
            self._study.tell(trial.number, state=TrialState.FAIL)
        return len(left)

    def propose(self) -> Proposal:
        """The next trial: one that is queued, or new choices."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(seed=self._derive_seed(), n_startup_trials=STARTUP)
        trial = self._study.ask()
        chosen = self._space.choose(trial)
        if CHOSEN not in trial.user_attrs:
            trial.set_user_attr(CHOSEN, chosen)
        self._running[trial.number] = trial
        return Proposal(trial.number, chosen, trial.user_attrs.get(DEATHS, 0))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Takes the value of an epoch; says whether the trial is worth going on with."""
        self._running[number].report(value, epoch)
        return epoch not in self._rungs or self._is_promising(epoch, value)

    def complete(self, number: int, value: float, best_epoch: int, seconds: float) -> None:
        """A trial ran to its end."""
        self._note(number, {BEST_EPOCH: best_epoch, SECONDS: seconds})
        self._study.tell(self._running.pop(number), value)
        self._journal.sync()

    def prune(self, number: int, seconds: float, note: str) -> None:
        """A trial was not worth its remaining epochs, or has no figure at all."""
        self._note(number, {SECONDS: seconds, NOTE: note})
        self._study.tell(self._running.pop(number), state=TrialState.PRUNED)
        self._journal.sync()

    def queue_again(self, number: int) -> None:
        """The process of a trial died: the same choices will be tried once more."""
        self._running.pop(number)
        trial = self._study.get_trials(deepcopy=False)[number]
        self._queue(trial, trial.user_attrs.get(DEATHS, 0) + 1)
        self._study.tell(number, state=TrialState.FAIL)

    def give_up(self, number: int, note: str) -> None:
        """A trial cannot be run."""
        self._note(number, {NOTE: note})
        self._study.tell(self._running.pop(number), state=TrialState.FAIL)

    def count_finished(self) -> int:
        """Trials that have a result: complete or pruned."""
        return sum(t.state.is_finished() and t.state != TrialState.FAIL for t in self._study.get_trials(deepcopy=False))

    def list_trials(self) -> list[Trial]:
        """All trials in order, each set of choices once."""
        trials = self._study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
        return [_describe(t) for t in trials if CHOSEN in t.user_attrs and t.number not in repeated]

    def measure_importances(self) -> Importances:
        """By PED-ANOVA over all trials with a value; a pruned one enters with the value at which it was pruned."""
        valued = [t for t in self._study.get_trials(deepcopy=False) if _is_valued(t)]
        if len(valued) < LEAST_TRIALS:
            return Importances(note=f"only {len(valued)} trials have a value; importances need {LEAST_TRIALS}")
        study = optuna.create_study(direction="maximize")
        study.add_trials([_revalue(trial) for trial in valued])
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        if not math.isfinite(sum(found.values())) or not sum(found.values()):
            return Importances(note="no choice made a difference that could be measured")
        return Importances(_share_out(found))

    def _is_promising(self, epoch: int, value: float) -> bool:
        """Asynchronous successive halving (Li et al., 2020): among the best KEPT-th of all that came this far.

        Optuna's own pruner also counts interrupted trials, so that a continued sweep would prune otherwise.
        """
        trials = self._study.get_trials(deepcopy=False)
        rivals = [t.intermediate_values[epoch] for t in trials if t.state != TrialState.FAIL and _reached(t, epoch)]
        return value >= sorted(rivals, reverse=True)[math.ceil(len(rivals) / KEPT) - 1]

    def _derive_seed(self) -> int:
        trials = self._study.get_trials(deepcopy=False)
        proposed = sum(CHOSEN in trial.user_attrs and REPEATS not in trial.user_attrs for trial in trials)
        return int(np.random.SeedSequence([self._seed, proposed]).generate_state(1)[0])

    def _queue(self, trial: FrozenTrial, deaths: int) -> None:
        chosen = trial.user_attrs[CHOSEN]
        self._study.enqueue_trial(chosen, {CHOSEN: chosen, REPEATS: trial.number, DEATHS: deaths})

    def _note(self, number: int, notes: dict[str, Any]) -> None:
        for name, note in notes.items():
            self._running[number].set_user_attr(name, note)


class _Journal(JournalFileBackend):
    """Optuna's journal for one writer: without a lock, and safe from a power failure where `sync` was called.

    Optuna waits for the disk at each of a trial's thirty lines, and a worker with it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = Path(path)
        self._file = self._path.open("ab")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes a line each."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with translate_os_errors(self._path):
            self._file.write(text.encode())
            self._file.flush()

    def sync(self) -> None:
        """Waits until all lines are on the disk."""
        with translate_os_errors(self._path):
            os.fsync(self._file.fileno())


def list_rungs(epochs: int) -> tuple[int, ...]:
    """The epochs after which a trial must be among the best to go on: 2 and 6 of 15."""
    rungs = []
    rung = max(1, epochs // FIRST_RUNG)
    while rung < epochs:
        rungs.append(rung)
        rung *= KEPT
    return tuple(rungs)


def _mend_journal(path: Path) -> None:
    """Removes half a line that a full disk or a power failure may have left at the end."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _open_study(backend: _Journal, journal: Path) -> optuna.Study:
    try:
        storage = JournalStorage(backend)
        return optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
    except (ValueError, KeyError, AssertionError) as error:
        raise FormatError(f"{journal} is damaged: {error}; start the sweep again in another --out") from error


def _describe(trial: FrozenTrial) -> Trial:
    values = trial.intermediate_values
    value = trial.value if trial.state == TrialState.COMPLETE else None
    if trial.state == TrialState.PRUNED and values:
        value = values[max(values)]
    notes = trial.user_attrs
    return Trial(
        number=trial.number,
        state=STATES[trial.state],
        chosen=notes[CHOSEN],
        value=value,
        epochs=max(values, default=0),
        best_epoch=notes.get(BEST_EPOCH),
        seconds=notes.get(SECONDS),
        note=notes.get(NOTE, ""),
    )


def _reached(trial: FrozenTrial, epoch: int) -> bool:
    return epoch in trial.intermediate_values


def _is_valued(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and bool(trial.intermediate_values))


def _revalue(trial: FrozenTrial) -> FrozenTrial:
    value = _describe(trial).value
    return optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value)


def _share_out(found: dict[str, float]) -> dict[str, float]:
    """Adds up what concerns the same choice; largest first."""
    shares: dict[str, float] = {}
    for name, share in found.items():
        choice = "pooling" if name == LINEAR_POOLING else name
        shares[choice] = shares.get(choice, 0.0) + share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
