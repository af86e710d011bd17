"""Jobs and their results in SQLite, the one place that says what became of an upload."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

from extract.errors import DiskError, FormatError
from serve.service.jobs import ENDS, SETTLED, Job, Report, State, summarise

SCHEMA_VERSION = 2
MOST_ATTEMPTS = 3  # of a job, or of its report, during which the whole service died
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, name TEXT NOT NULL,
    state TEXT NOT NULL, size_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, terms TEXT NOT NULL,
    created_at REAL NOT NULL, started_at REAL, ended_at REAL, cached INTEGER NOT NULL DEFAULT 0,
    report TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, reusable INTEGER NOT NULL DEFAULT 0,
    summary TEXT, verdict TEXT, explanation TEXT, problem TEXT
);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE INDEX jobs_by_owner ON jobs (owner, number);
CREATE INDEX jobs_by_content ON jobs (owner, sha256, terms);
CREATE INDEX jobs_by_report ON jobs (report, number) WHERE report IN ('waiting', 'making');
CREATE TABLE pulse (one INTEGER PRIMARY KEY, at REAL NOT NULL);
"""
COLUMNS = (
    "id, owner, name, state, size_bytes, sha256, created_at, started_at, ended_at, cached, report, attempts, summary, "
    "verdict, explanation, problem"
)
LEAN = COLUMNS.replace("verdict, explanation", "NULL AS verdict, NULL AS explanation")
DOCUMENTS = ("summary", "verdict", "explanation", "problem")
ENDED = f"state IN ({', '.join(repr(str(state)) for state in ENDS)})"
IS_SETTLED = f"{ENDED} AND report IN ({', '.join(repr(str(report)) for report in SETTLED)})"
UNDER_WAY = "state = 'running' OR report = 'making'"


class Store:
    """One connection behind a lock: a change is written whole and to the disk before its caller goes on."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the database; raises FormatError for one that is not ours."""
        self._path = path
        self._lock = RLock()
        self.changes = 0  # so far: who follows a job looks again only where this has moved
        self._served: dict[str, int] = {}  # owners, and whose turn was the how-manyeth
        self._turns = count(1)
        with self._translate():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def add(self, job: Job) -> None:
        """Takes in a job whose upload lies safely on the disk; it has no terms before it is claimed."""
        with self._change() as db:
            db.execute(
                "INSERT INTO jobs (id, owner, name, state, size_bytes, sha256, terms, created_at, report) "
                "VALUES (?, ?, ?, ?, ?, ?, '', ?, ?)",
                (job.id, job.owner, job.name, job.state, job.size_bytes, job.sha256, job.created_at, job.report),
            )

    def add_answered(self, job: Job, terms: str) -> None:
        """Takes in a job that is done with another's verdict."""
        with self._change() as db:
            db.execute(
                "INSERT INTO jobs (id, owner, name, state, size_bytes, sha256, terms, created_at, ended_at, cached, "
                "report, reusable, summary, verdict, explanation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, 1, ?, ?, ?)",
                (
                    job.id, job.owner, job.name, State.DONE, job.size_bytes, job.sha256, terms, job.created_at,
                    job.ended_at, job.report, json.dumps(job.summary), json.dumps(job.verdict),
                    json.dumps(job.explanation),
                ),
            )  # fmt: skip

    def claim(self, terms: str) -> Job | None:
        """Makes the job whose turn it is a running one, and no other caller's, which scores it under these terms."""
        return self._claim("state = 'queued'", "state = 'running', started_at = ?, terms = ?", time.time(), terms)

    def claim_report(self) -> Job | None:
        """The same for a job that is done and whose report waits."""
        return self._claim("state = 'done' AND report = 'waiting'", "report = 'making'")

    def finish(
        self, job_id: str, verdict: dict[str, Any], explanation: dict[str, Any], report: Report,
        *, reusable: bool, cached: bool = False,
    ) -> bool:  # fmt: skip
        """Ends a running job with its verdict, `cached` with that of another job; False where it was not running."""
        return self._alter(
            "UPDATE jobs SET state = 'done', ended_at = ?, attempts = 0, cached = ?, summary = ?, verdict = ?, "
            "explanation = ?, report = ?, reusable = ? WHERE id = ? AND state = 'running'",
            (
                time.time(), cached, json.dumps(summarise(verdict)), json.dumps(verdict), json.dumps(explanation),
                report, reusable, job_id,
            ),
        )  # fmt: skip

    def finish_report(self, job_id: str, report: Report) -> bool:
        """Says what became of a report that was being made; False where nobody wants it any more."""
        return self._alter("UPDATE jobs SET report = ? WHERE id = ? AND report = 'making'", (report, job_id))

    def put_back_report(self, job_id: str) -> bool:
        """Lets a report that was being made wait again, because the service stops."""
        return self._alter(
            "UPDATE jobs SET report = 'waiting', attempts = attempts - 1 WHERE id = ? AND report = 'making'", (job_id,)
        )

    def fail(self, job_id: str, problem: dict[str, Any]) -> bool:
        """Ends a running job with the reason why it has no verdict."""
        return self._alter(
            "UPDATE jobs SET state = 'failed', ended_at = ?, problem = ?, report = 'none' "
            "WHERE id = ? AND state = 'running'",
            (time.time(), json.dumps(problem), job_id),
        )

    def cancel(self, job_id: str, state: State) -> bool:
        """Ends a job in this state as cancelled; False where it is in another by now."""
        return self._alter(
            "UPDATE jobs SET state = 'cancelled', ended_at = ?, report = 'none' WHERE id = ? AND state = ?",
            (time.time(), job_id, state),
        )

    def put_back(self, job_id: str) -> bool:
        """Lets a running job wait again, at its old place, because the service stops."""
        return self._alter(
            "UPDATE jobs SET state = 'queued', started_at = NULL, attempts = attempts - 1 "
            "WHERE id = ? AND state = 'running'",
            (job_id,),
        )

    def recover(self, problem: dict[str, Any]) -> int:
        """After a death: what was under way waits again, but for what was so at several deaths; how many jobs wait."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = 'failed', ended_at = ?, problem = ?, report = 'none' "
                "WHERE state = 'running' AND attempts >= ?",
                (time.time(), json.dumps(problem), MOST_ATTEMPTS),
            )
            db.execute("UPDATE jobs SET state = 'queued', started_at = NULL WHERE state = 'running'")
            db.execute("UPDATE jobs SET report = 'none' WHERE report = 'making' AND attempts >= ?", (MOST_ATTEMPTS,))
            db.execute("UPDATE jobs SET report = 'waiting' WHERE report = 'making'")
        return self.count(State.QUEUED)

    def delete(self, job_id: str, owner: str) -> bool:
        """Forgets a job that does not run."""
        return self._alter("DELETE FROM jobs WHERE id = ? AND owner = ? AND state != 'running'", (job_id, owner))

    def forget(self, before: float) -> list[str]:
        """Forgets what ended before a time, and names it."""
        with self._change() as db:
            rows = db.execute(
                f"DELETE FROM jobs WHERE {ENDED} AND ended_at < ? RETURNING id",  # noqa: S608
                (before,),
            )
            return [row[0] for row in rows.fetchall()]

    def find(self, job_id: str, owner: str, *, lean: bool = False) -> Job | None:
        """An owner's job, `lean` without its verdict; None for anybody else's too."""
        found = self._select("WHERE id = ? AND owner = ?", (job_id, owner), lean=lean)
        return found[0] if found else None

    def list_newest(self, owner: str, limit: int, before: str | None = None) -> list[Job]:
        """An owner's jobs without their verdicts, the newest first; `before` is the id of one that is newer than all.

        None of them where there is no such job any more.
        """
        older = "" if before is None else "AND number < (SELECT number FROM jobs WHERE id = ? AND owner = ?) "
        values = (owner, limit) if before is None else (owner, before, owner, limit)
        return self._select(f"WHERE owner = ? {older}ORDER BY number DESC LIMIT ?", values, lean=True)

    def find_answer(self, owner: str, sha256: str, terms: str) -> Job | None:
        """An owner's newest job with a verdict on these bytes under these terms."""
        found = self._select(
            "WHERE owner = ? AND sha256 = ? AND terms = ? AND state = 'done' AND reusable ORDER BY number DESC LIMIT 1",
            (owner, sha256, terms),
        )
        return found[0] if found else None

    def count(self, state: State, owner: str | None = None) -> int:
        """Jobs in a state, of everybody or of one owner."""
        return self._count("state = ?", state, owner)

    def count_reports(self, owner: str | None = None) -> int:
        """Reports that wait for their turn, of everybody or of one owner."""
        return self._count("state = 'done' AND report = ?", Report.WAITING, owner)

    def find_position(self, job: Job) -> int | None:
        """A waiting job's place, from 1, where every other owner's turn comes before its own each time."""
        own = self._ask(
            "SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = ? "
            "AND number <= (SELECT number FROM jobs WHERE id = ? AND state = 'queued')",
            (job.owner, job.id),
        )
        if not own:
            return None
        others = self._ask(
            "SELECT total(min(waiting, ?)) FROM "
            "(SELECT count(*) AS waiting FROM jobs WHERE state = 'queued' AND owner != ? GROUP BY owner)",
            (own, job.owner),
        )
        return int(own + others)

    def list_ids(self, *, report: bool = False) -> set[str]:
        """Ids of all jobs, or of those that have a report."""
        return self._list_ids("WHERE report = 'ready'" if report else "", ())

    def list_settled(self, before: float) -> set[str]:
        """Ids of the jobs that ended before a time and whose video nobody needs any more."""
        return self._list_ids(f"WHERE {IS_SETTLED} AND ended_at < ?", (before,))

    def require_writable(self) -> None:
        """Raises DiskError where nothing can be written."""
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO pulse VALUES (1, ?)", (time.time(),))

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables and not version:
            self._db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
        elif version != SCHEMA_VERSION:
            raise FormatError(
                f"{self._path} has version {version} of the jobs, expected {SCHEMA_VERSION}; name another --data"
            )

    def _claim(self, waiting: str, change: str, *values: object) -> Job | None:
        """Owners take turns: first who has least under way, of these who was served longest ago; each gets the oldest.

        Until a restart: then nobody was served yet.
        """
        with self._change() as db:
            oldest = db.execute(f"SELECT owner, min(number) FROM jobs WHERE {waiting} GROUP BY owner").fetchall()  # noqa: S608
            if not oldest:
                return None
            busy = dict(db.execute(f"SELECT owner, count(*) FROM jobs WHERE {UNDER_WAY} GROUP BY owner").fetchall())  # noqa: S608
            owner, number = min(oldest, key=lambda one: (busy.get(one[0], 0), self._served.get(one[0], 0), one[1]))
            row = db.execute(
                f"UPDATE jobs SET {change}, attempts = attempts + 1 WHERE number = ? RETURNING {COLUMNS}",  # noqa: S608
                (*values, number),
            ).fetchone()
            self._served[owner] = next(self._turns)
        return _read_row(row)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translate():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
                self.changes += 1
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _translate(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DiskError(f"cannot write {self._path}: {error}; free some space, or check who may write") from error
        except sqlite3.DatabaseError as error:
            raise FormatError(f"{self._path} is damaged or no database of jobs ({error}); name another") from error

    def _alter(self, statement: str, values: Sequence[object]) -> bool:
        with self._change() as db:
            return db.execute(statement, values).rowcount == 1

    def _ask(self, statement: str, values: Sequence[object]) -> Any:
        with self._lock, self._translate():
            row = self._db.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def _count(self, where: str, value: str, owner: str | None) -> int:
        whose, values = ("", (value,)) if owner is None else (" AND owner = ?", (value, owner))
        return int(self._ask(f"SELECT count(*) FROM jobs WHERE {where}{whose}", values))  # noqa: S608

    def _list_ids(self, rest: str, values: Sequence[object]) -> set[str]:
        with self._lock, self._translate():
            return {row[0] for row in self._db.execute(f"SELECT id FROM jobs {rest}", values).fetchall()}  # noqa: S608

    def _select(self, rest: str, values: Sequence[object], *, lean: bool = False) -> list[Job]:
        with self._lock, self._translate():
            rows = self._db.execute(f"SELECT {LEAN if lean else COLUMNS} FROM jobs {rest}", values).fetchall()  # noqa: S608
        return [_read_row(row) for row in rows]


def _read_row(row: Sequence[Any]) -> Job:
    cells = dict(zip(COLUMNS.split(", "), row, strict=True))
    for name in DOCUMENTS:
        cells[name] = None if cells[name] is None else json.loads(cells[name])
    cells |= {"state": State(cells["state"]), "report": Report(cells["report"]), "cached": bool(cells["cached"])}
    return Job(**cells)
