"""What the processes of a sweep do: one holds the features, the others train on them, a trial at a time."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from extract.cache import open_cache
from extract.errors import UnmaskError
from extract.manifest import SPLITS
from train.dataset import ClipData, read_clip_data
from train.fit import Epoch, FitPlan, choose_device, fit_head
from train.rows import StreamedRows
from train.shared import attach, share_features
from train.splits import Assignment, assign_folds, assign_splits
from train.sweep.workers import Division, Plan, Report, SplitFacts, TrialEnd, Work


class _Pruned(Exception):  # noqa: N818 - no error
    """The trial is not worth its remaining epochs."""


def keep_features(connection: Connection, path: Path, plan: Plan) -> None:
    """Reads a cache into memory that others attach to, and lasts until nobody listens."""
    _leave_interrupts_to_parent()
    gc.freeze()  # as in `serve_trials`
    try:
        choose_device(plan.device)
        with share_features(path, plan.memory, plan.jobs) as (_, handle):
            # As bytes: whoever passes it on need not load torch to do so.
            connection.send(pickle.dumps(handle))
            _give_back_memory()
            with suppress(EOFError, OSError):
                connection.recv()  # nothing comes, but the end
    except UnmaskError as error:
        _say_last(connection, error)


def divide_videos(connection: Connection, path: Path, plan: Plan) -> None:
    """Divides the videos of a cache; a process of its own, because what it loads for that is not needed again."""
    _leave_interrupts_to_parent()
    try:
        with open_cache(path) as cache:
            data = read_clip_data(cache, StreamedRows(path, cache.fingerprint.backbone.dim, 0))
        given = [record.split for record in data.records]
        if plan.folds is not None:  # what cannot be done is said before the work
            assign_folds(given, data.labels, data.groups, plan.folds, plan.seed)
        assignment = assign_splits(given, data.labels, data.groups, plan.seed)
        facts = _describe_split(data, assignment)
        _say_last(connection, Division(assignment.select("train"), assignment.select("val"), facts))
    except UnmaskError as error:
        _say_last(connection, error)


def serve_trials(connection: Connection, handle: bytes, division: Division, plan: Plan) -> None:
    """Trains what it is sent, until nobody sends any more."""
    _leave_interrupts_to_parent()
    _end_with_parent()
    gc.freeze()  # a collection would write to, and so copy, every page that is shared with the other workers
    torch.set_num_threads(plan.threads)
    data = attach(pickle.loads(handle))  # noqa: S301 - from a process of ours
    while True:
        try:
            work: Work = connection.recv()
        except EOFError:
            return
        end = _run_trial(connection, work, data, division, plan)
        _give_back_memory()
        connection.send(end)


def _run_trial(connection: Connection, work: Work, data: ClipData, division: Division, plan: Plan) -> TrialEnd:
    begun = time.perf_counter()

    def ask(epoch: Epoch) -> None:
        try:
            connection.send(Report(work.trial, epoch.number, epoch.val_auc))
            worth_it = connection.recv()
        except (EOFError, ConnectionError):
            sys.exit(1)  # nobody wants the trial any more
        if not worth_it:
            raise _Pruned

    try:
        how = FitPlan(work.fit, work.shape, choose_device(plan.device), on_epoch=ask)
        fitted = fit_head(data, division.train, division.val, how)
    except _Pruned:
        return TrialEnd(work.trial, time.perf_counter() - begun)
    except UnmaskError as error:
        return TrialEnd(work.trial, time.perf_counter() - begun, refused=str(error))
    except (RuntimeError, ValueError, MemoryError) as error:
        return TrialEnd(work.trial, time.perf_counter() - begun, failed=f"{type(error).__name__}: {error}")
    return TrialEnd(work.trial, time.perf_counter() - begun, best_epoch=fitted.best_epoch)


def _describe_split(data: ClipData, assignment: Assignment) -> SplitFacts:
    digest = hashlib.sha256()
    for record, split in zip(data.records, assignment.split.tolist(), strict=True):
        digest.update(f"{record.id}\n{split}\n".encode())
    fakes: dict[str, int] = {name: int(data.labels[assignment.select(name)].sum()) for name in SPLITS}
    reals: dict[str, int] = {name: len(assignment.select(name)) - fakes[name] for name in SPLITS}
    return SplitFacts(protocol=assignment.protocol, sha256=digest.hexdigest(), real=reals, fake=fakes)


def _say_last(connection: Connection, message: object) -> None:
    with suppress(OSError):  # nobody may want it any more
        connection.send(message)


def _give_back_memory() -> None:
    """What a trial has freed, which the C library would keep for the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches every process of a terminal; the parent ends the others itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    """However the parent dies, this process does not go on training for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
