"""The store of jobs: one claim each, one end each, and a disk or a file that will not have it."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from extract.errors import DiskError, FormatError
from serve.service.jobs import Job, Report, State, make_id
from serve.service.store import MOST_ATTEMPTS, Store

PROBLEM = {"status": 500}
TOLD = {"says": "so"}
VERDICT: dict[str, Any] = {"outcome": "REAL", "reason": None, "p_fake": 0.25, "file": {"duration_s": 4.0}, "tracks": []}


def make_job(owner: str = "anna", sha256: str = "0" * 64, report: Report = Report.NONE) -> Job:
    return Job(make_id(), owner, "a.mp4", State.QUEUED, 1, sha256, 1.0, report=report)


def test_many_threads_claim_each_job_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    jobs = [make_job() for _ in range(40)]
    for job in jobs:
        store.add(job)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: store.claim(""), range(50)))
    assert sorted(job.id for job in claimed if job) == sorted(job.id for job in jobs)


def test_jobs_are_claimed_in_their_order_and_a_job_put_back_keeps_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    first, second = make_job(), make_job()
    store.add(first)
    store.add(second)
    assert store.find_position(second) == 2
    claimed = store.claim("")
    assert claimed is not None
    assert claimed.id == first.id
    assert store.find_position(second) == 1
    assert store.put_back(first.id)
    again = store.claim("")
    assert again is not None
    assert (again.id, again.attempts) == (first.id, 1)


def test_owners_take_turns_however_many_videos_one_of_them_sends(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    jobs = [make_job(owner) for owner in ("anna", "anna", "anna", "bert", "carl", "bert")]
    for job in jobs:
        store.add(job)
    assert [store.find_position(job) for job in jobs] == [3, 5, 6, 3, 3, 5]
    claimed = [store.claim("") for _ in jobs]
    assert [job.owner for job in claimed if job] == ["anna", "bert", "carl", "anna", "bert", "anna"]
    assert [job.id for job in claimed if job and job.owner == "anna"] == [job.id for job in jobs[:3]]


def test_who_has_nothing_under_way_goes_before_who_has(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    for owner in ("anna", "bert", "anna"):
        store.add(make_job(owner))
    first, second = store.claim(""), store.claim("")
    assert first is not None
    assert second is not None
    store.finish(second.id, VERDICT, TOLD, Report.NONE, reusable=True)
    store.add(make_job("bert"))
    third = store.claim("")
    assert third is not None
    assert third.owner == "bert"


def test_a_report_waits_until_its_job_is_done_and_is_claimed_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = make_job(report=Report.WAITING)
    store.add(job)
    assert store.claim_report() is None
    store.claim("")
    store.finish(job.id, VERDICT, TOLD, Report.WAITING, reusable=True)
    assert store.count_reports() == 1
    assert store.list_settled(1e12) == set()
    claimed = store.claim_report()
    assert claimed is not None
    assert (claimed.verdict, claimed.report, store.claim_report()) == (VERDICT, Report.MAKING, None)
    assert store.finish_report(job.id, Report.READY)
    assert not store.finish_report(job.id, Report.NONE)
    assert store.list_ids(report=True) == store.list_settled(1e12) == {job.id}


def test_a_report_that_a_death_interrupted_waits_again_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = Store(path)
    job = make_job(report=Report.WAITING)
    store.add(job)
    store.claim("")
    store.finish(job.id, VERDICT, TOLD, Report.WAITING, reusable=True)
    for _ in range(MOST_ATTEMPTS):
        assert store.claim_report() is not None
        store.close()
        store = Store(path)
        store.recover(PROBLEM)
    assert store.claim_report() is None
    found = store.find(job.id, "anna")
    assert found is not None
    assert (found.state, found.report) == (State.DONE, Report.NONE)


def test_a_list_has_the_summaries_and_not_the_verdicts(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = make_job()
    store.add(job)
    store.claim("")
    store.finish(job.id, VERDICT, TOLD, Report.NONE, reusable=True)
    (listed,) = store.list_newest("anna", 5)
    assert listed.verdict is listed.explanation is None
    assert listed.summary == {"outcome": "REAL", "reason": None, "p_fake": 0.25, "duration_s": 4.0}


def test_a_job_ends_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = make_job()
    store.add(job)
    assert not store.finish(job.id, VERDICT, TOLD, Report.NONE, reusable=True)
    store.claim("")
    assert store.finish(job.id, VERDICT, TOLD, Report.NONE, reusable=True)
    assert not store.fail(job.id, PROBLEM)
    assert not store.cancel(job.id, State.RUNNING)
    assert not store.put_back(job.id)
    found = store.find(job.id, "anna")
    assert found is not None
    assert (found.state, found.verdict, found.problem) == (State.DONE, VERDICT, None)


def test_running_jobs_wait_again_after_a_death_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    job = make_job()
    store = Store(path)
    store.add(job)
    for _ in range(MOST_ATTEMPTS - 1):
        assert store.claim("") is not None
        store.close()  # as at a death: nothing was put back
        store = Store(path)
        assert store.recover(PROBLEM) == 1
    assert store.claim("") is not None
    assert store.recover(PROBLEM) == 0
    found = store.find(job.id, "anna")
    assert found is not None
    assert (found.state, found.problem) == (State.FAILED, PROBLEM)


def test_only_the_owners_answer_under_the_same_terms_is_given_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job, passing = make_job(), make_job(sha256="1" * 64)
    for one in (job, passing):
        store.add(one)
        store.claim("terms")
        store.finish(one.id, VERDICT, TOLD, Report.NONE, reusable=one is job)
    assert store.find_answer("anna", job.sha256, "terms") is not None
    assert store.find_answer("bert", job.sha256, "terms") is None
    assert store.find_answer("anna", job.sha256, "others") is None
    assert store.find_answer("anna", passing.sha256, "terms") is None


def test_an_answer_is_of_the_terms_it_was_scored_under_and_not_of_those_before_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = make_job()
    store.add(job)
    store.claim("before")
    store.put_back(job.id)
    store.claim("after")
    store.finish(job.id, VERDICT, TOLD, Report.NONE, reusable=True)
    assert store.find_answer("anna", job.sha256, "before") is None
    assert store.find_answer("anna", job.sha256, "after") is not None


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = Store(path)
    job = make_job()
    store.add(job)
    store.claim("")
    large = {**VERDICT, "tracks": "x" * 100_000}
    store._db.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size where that is more
    with pytest.raises(DiskError, match="full"):
        store.finish(job.id, large, TOLD, Report.NONE, reusable=True)
    assert store.count(State.RUNNING) == 1
    store.close()
    again = Store(path)
    assert again.finish(job.id, large, TOLD, Report.NONE, reusable=True)
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
