"""The processes of a sweep, seen from the one that leads them: started, fed with trials, listened to, and ended.

They are forked from a server that has loaded torch and computed nothing, so that they share its memory; one of them
holds the features that all train on. This side loads no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import UnmaskError
from extract.session import Device, count_processors
from extract.specs import Spec
from train.config import FitConfig, HeadShape

SERVED = "train.sweep.trial"  # what the server loads before it forks
JOIN_S = 5.0
KEPT_BYTES = 4 << 20  # an allocation up to which a worker may keep what it frees; with 1 MB, steps take longer
AGAIN = "the same command continues"


@dataclass(frozen=True)
class Plan:
    """How the processes work: `memory` is what all may take, in bytes, `seed` that of the split.

    `folds` are those that the videos must later be divided into, if any.
    """

    jobs: int = 1
    device: Device = "auto"
    seed: int = 0
    memory: int | None = None
    folds: int | None = None

    @property
    def threads(self) -> int:
        """Of each worker."""
        return max(1, count_processors() // self.jobs)


class SplitFacts(Spec):
    """How the videos are divided: trials train on one part and are valued on another, and never see the test videos."""

    protocol: str
    sha256: str  # of each video's part
    real: dict[str, int]
    fake: dict[str, int]


@dataclass(frozen=True)
class Division:
    """The videos (n,) that trials train on, and those that value them."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    facts: SplitFacts


@dataclass(frozen=True)
class Work:
    """A trial to be run."""

    trial: int
    shape: HeadShape
    fit: FitConfig


@dataclass(frozen=True)
class Report:
    """An epoch is done; the worker waits for an answer."""

    trial: int
    epoch: int
    val_auc: float | None


@dataclass(frozen=True)
class TrialEnd:
    """A trial is over: with a best epoch, or pruned, or without a result for a reason.

    `refused` blames the choices (training diverged), `failed` says what went wrong around them.
    """

    trial: int
    seconds: float
    best_epoch: int | None = None
    refused: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Death:
    """The process of a trial ended before the trial did."""

    trial: int
    how: str


Event = Report | TrialEnd | Death


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    trial: int | None = None


class Crew:
    """A process that holds the features and up to `plan.jobs` that train; a dead one is replaced when it is needed."""

    def __init__(self, cache: Path, plan: Plan) -> None:
        self._plan = plan
        self._workers: list[_Worker] = []
        self._keeper = _start(_keep, cache, plan)
        try:
            self.division = _divide_apart(cache, plan)  # while the keeper reads
            self._handle: bytes = _hear_first(self._keeper)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_room(self) -> bool:
        """Whether another trial can be started."""
        return sum(worker.trial is not None for worker in self._workers) < self._plan.jobs

    def start(self, work: Work) -> None:
        """Gives a trial to a worker that has none."""
        idle = [worker for worker in self._workers if worker.trial is None and worker.process.is_alive()]
        worker = idle[0] if idle else _start(_serve, self._handle, self.division, self._plan)
        if not idle:
            self._workers.append(worker)
        worker.trial = work.trial
        _say(worker.connection, work)

    def answer(self, trial: int, go_on: bool) -> None:
        """Answers a report."""
        _say(next(worker.connection for worker in self._workers if worker.trial == trial), go_on)

    def wait(self) -> list[Event]:
        """Whatever comes next from the workers; raises UnmaskError where the features are gone."""
        talking = {worker.connection: worker for worker in self._workers}
        ready = wait([*talking, self._keeper.connection])
        if self._keeper.connection in ready:
            how = _bury(self._keeper)
            raise UnmaskError(f"the process that holds the features ended ({how}); {AGAIN}")
        heard = [self._hear(worker) for connection, worker in talking.items() if connection in ready]
        return [event for event in heard if event is not None]

    def close(self) -> None:
        """Ends all processes, whatever they do."""
        for worker in self._workers:
            worker.process.kill()
            _bury(worker)
        self._workers = []
        self._keeper.connection.close()  # which it takes as its end, and leaves nothing behind
        self._keeper.process.join(JOIN_S)
        if self._keeper.process.exitcode is None:
            self._keeper.process.kill()
            self._keeper.process.join()

    def _hear(self, worker: _Worker) -> Event | None:
        try:
            event: Event = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._workers.remove(worker)
            how = _bury(worker)
            return None if worker.trial is None else Death(worker.trial, how)
        if isinstance(event, TrialEnd):
            worker.trial = None
        return event


def end_server() -> None:
    """Ends the process that workers are forked from, and with it its memory; the next crew starts another."""
    if not multiprocessing.active_children():  # it would wait for them
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # nothing public does


def _keep(connection: Connection, cache: Path, plan: Plan) -> None:
    from train.sweep.trial import keep_features

    keep_features(connection, cache, plan)


def _divide(connection: Connection, cache: Path, plan: Plan) -> None:
    from train.sweep.trial import divide_videos

    divide_videos(connection, cache, plan)


def _serve(connection: Connection, handle: bytes, division: Division, plan: Plan) -> None:
    from train.sweep.trial import serve_trials

    serve_trials(connection, handle, division, plan)


def _divide_apart(cache: Path, plan: Plan) -> Division:
    divider = _start(_divide, cache, plan)
    try:
        division: Division = _hear_first(divider)
        return division
    finally:
        _bury(divider)


def _hear_first(process: _Worker) -> Any:
    """What a process says when it is ready; its refusal is raised."""
    try:
        answer = process.connection.recv()
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise UnmaskError(f"the process that reads the features ended ({_bury(process)}); {AGAIN}") from error
    if isinstance(answer, UnmaskError):
        raise answer
    return answer


def _start(target: Callable[..., None], *arguments: Any) -> _Worker:
    if sys.platform == "win32":
        raise UnmaskError("the trials of a sweep run in processes that need Linux or macOS; on Windows, use WSL")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([SERVED])
    ours, theirs = context.Pipe()
    process = context.Process(target=target, name=f"sweep{target.__name__}", args=(theirs, *arguments), daemon=True)
    try:
        with _set_environment():
            process.start()
    except (OSError, EOFError) as error:
        ours.close()
        raise UnmaskError(f"no process can be started: {error}; free some memory, or take fewer --jobs") from error
    finally:
        theirs.close()
    return _Worker(process, ours)


@contextmanager
def _set_environment() -> Iterator[None]:
    """What the server is to find when it starts.

    It imports what this process imports, and nothing that lies in the folder it is started in. Threads of torch that
    wait for one another sleep: on a processor that others use too, those that spin make a small head 8 times slower.
    What is larger than a few weights goes back to the system when it is freed; the C library would learn to keep it.
    """
    told = {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(place or os.getcwd() for place in sys.path),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", str(KEPT_BYTES)),
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _say(connection: Connection, message: object) -> None:
    try:
        connection.send(message)
    except OSError:
        return  # its death is heard when its turn comes


def _bury(worker: _Worker) -> str:
    """Waits for the end of a process that ends, and says how it came."""
    worker.connection.close()
    worker.process.join(JOIN_S)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join()
    code = worker.process.exitcode or 0
    return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
