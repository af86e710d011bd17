"""The store of jobs: one claim each, one end each, and a disk or a file that will not have it."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from extract.errors import DiskError, FormatError
from serve.service.jobs import Job, State, make_id
from serve.service.store import MOST_ATTEMPTS, Store

PROBLEM = {"status": 500}


def make_job(owner: str = "anna", sha256: str = "0" * 64) -> Job:
    return Job(make_id(), owner, "a.mp4", State.QUEUED, 1, sha256, 1.0)


def test_many_threads_claim_each_job_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    jobs = [make_job() for _ in range(40)]
    for job in jobs:
        store.add(job, "")
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: store.claim(), range(50)))
    assert sorted(job.id for job in claimed if job) == sorted(job.id for job in jobs)


def test_jobs_are_claimed_in_their_order_and_a_job_put_back_keeps_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    first, second = make_job(), make_job()
    store.add(first, "")
    store.add(second, "")
    assert store.find_position(second.id) == 2
    claimed = store.claim()
    assert claimed is not None
    assert claimed.id == first.id
    assert store.find_position(second.id) == 1
    assert store.put_back(first.id)
    again = store.claim()
    assert again is not None
    assert (again.id, again.attempts) == (first.id, 1)


def test_a_job_ends_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = make_job()
    store.add(job, "")
    assert not store.finish(job.id, {}, report=False, reusable=True)
    store.claim()
    assert store.finish(job.id, {"outcome": "REAL"}, report=False, reusable=True)
    assert not store.fail(job.id, PROBLEM)
    assert not store.cancel(job.id, State.RUNNING)
    assert not store.put_back(job.id)
    found = store.find(job.id, "anna")
    assert found is not None
    assert (found.state, found.verdict, found.problem) == (State.DONE, {"outcome": "REAL"}, None)


def test_running_jobs_wait_again_after_a_death_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    job = make_job()
    store = Store(path)
    store.add(job, "")
    for _ in range(MOST_ATTEMPTS - 1):
        assert store.claim() is not None
        store.close()  # as at a death: nothing was put back
        store = Store(path)
        assert store.recover(PROBLEM) == 1
    assert store.claim() is not None
    assert store.recover(PROBLEM) == 0
    found = store.find(job.id, "anna")
    assert found is not None
    assert (found.state, found.problem) == (State.FAILED, PROBLEM)


def test_only_the_owners_answer_under_the_same_terms_is_given_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job, passing = make_job(), make_job(sha256="1" * 64)
    for one in (job, passing):
        store.add(one, "terms")
        store.claim()
        store.finish(one.id, {}, report=False, reusable=one is job)
    assert store.find_answer("anna", job.sha256, "terms") is not None
    assert store.find_answer("bert", job.sha256, "terms") is None
    assert store.find_answer("anna", job.sha256, "others") is None
    assert store.find_answer("anna", passing.sha256, "terms") is None


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = Store(path)
    job = make_job()
    store.add(job, "")
    store.claim()
    store._db.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size where that is more
    with pytest.raises(DiskError, match="full"):
        store.finish(job.id, {"tracks": "x" * 100_000}, report=False, reusable=True)
    assert store.count(State.RUNNING) == 1
    store.close()
    again = Store(path)
    assert again.finish(job.id, {"tracks": "x" * 100_000}, report=False, reusable=True)
    assert again._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_of_another_version_or_of_nobody_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(FormatError, match="version 99"):
        Store(path)
    path.write_bytes(b"something else altogether" * 100)
    with pytest.raises(FormatError, match="damaged"):
        Store(path)
