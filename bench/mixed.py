"""Clients that do at random all that clients of the service do, well and badly; what they are answered is counted."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import httpx2

from bench.service import ENDS, VIDEO, Client, label

PAGES = ("/", "/static/app.js", "/static/app.css", "/openapi.json", "/healthz", "/readyz", "/v1/model", "/metrics")
PATIENCE_S = 300.0  # for the last jobs
KNOWN = 30  # jobs that a client may come back to


@dataclass
class Ledger:
    """What all clients together were answered."""

    statuses: Counter[str] = field(default_factory=Counter)  # of requests
    acts: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    broken: int = 0  # requests without an answer
    lock: Lock = field(default_factory=Lock)

    def note(self, status: int) -> None:
        """One answer."""
        with self.lock:
            self.statuses[str(status)] += 1


class Wanderer:
    """One client; `films` are the contents of good videos."""

    def __init__(self, client: Client, films: Sequence[bytes], ledger: Ledger, seed: int) -> None:
        self._client = client
        self._films = films
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._sent: list[bytes] = []
        self._jobs: list[str] = []
        self._acts: dict[Callable[[], None], int] = {
            self.send_new: 6,
            self.send_with_report: 2,
            self.send_again: 2,
            self.send_damaged: 3,
            self.send_and_cancel: 2,
            self.send_and_leave: 2,
            self.score_at_once: 2,
            self.look_at_pages: 3,
            self.look_at_jobs: 3,
            self.delete_job: 2,
        }

    def act(self) -> None:
        """Does one thing."""
        (act,) = self._rng.choices(list(self._acts), list(self._acts.values()))
        with self._ledger.lock:
            self._ledger.acts[act.__name__] += 1
        try:
            act()
        except httpx2.TransportError:
            with self._ledger.lock:
                self._ledger.broken += 1

    def send_new(self) -> None:
        """A video nobody sent before, waited for by events or by asking."""
        job = self._upload(self._draw())
        self._follow(job) if self._rng.random() < 0.5 else self._poll(job)

    def send_with_report(self) -> None:
        """The same, with a report, which this client looks for later."""
        self._poll(self._upload(self._draw(), report=True))

    def send_again(self) -> None:
        """Bytes that were sent before."""
        self._poll(self._upload(self._rng.choice(self._sent or [self._draw()]), report=self._rng.random() < 0.3))

    def send_damaged(self) -> None:
        """A file that is cut, altered, or no video at all."""
        self._poll(self._upload(damage(self._draw(), self._rng)))

    def send_and_cancel(self) -> None:
        """A video given up at once or a little later."""
        job = self._upload(self._draw())
        if job is not None:
            time.sleep(self._rng.choice((0.0, 0.3, 1.0)))
            self._ask("POST", f"/v1/videos/{job}/cancel")

    def send_and_leave(self) -> None:
        """A video whose events are read once, and then no more."""
        job = self._upload(self._draw())
        if job is not None:
            with self._client.http.stream("GET", f"/v1/videos/{job}/events") as stream:
                self._ledger.note(stream.status_code)
                next(stream.iter_lines(), None)

    def score_at_once(self) -> None:
        """A verdict in the answer, on a good or a damaged file."""
        content = self._draw()
        content = damage(content, self._rng) if self._rng.random() < 0.3 else content
        self._ask("POST", "/v1/score", params={"name": "now.mp4"}, content=content, headers=VIDEO)

    def look_at_pages(self) -> None:
        """The page, what belongs to it, and what tells of the service."""
        for page in PAGES:
            self._ask("GET", page)

    def look_at_jobs(self) -> None:
        """The list, a job, its report."""
        self._ask("GET", "/v1/videos", params={"limit": self._rng.choice((10, 50, 500))})
        if self._jobs:
            job = self._rng.choice(self._jobs)
            self._ask("GET", f"/v1/videos/{job}")
            self._ask("GET", f"/v1/videos/{job}/report")

    def delete_job(self) -> None:
        """One of its own jobs, whatever state that is in."""
        if self._jobs:
            job = self._rng.choice(self._jobs)
            if self._ask("DELETE", f"/v1/videos/{job}").status_code == 204:
                self._jobs.remove(job)
                with self._ledger.lock:
                    self._ledger.deleted.add(job)

    def _draw(self) -> bytes:
        content = label(self._rng.choice(self._films), self._rng.randbytes(16))
        self._sent = [*self._sent, content][-KNOWN:]
        return content

    def _upload(self, content: bytes, *, report: bool = False) -> str | None:
        """The job's id; None where the video was refused."""
        query = {"name": "some.mp4", "report": "true" if report else "false"}
        answer = self._ask("POST", "/v1/videos", params=query, content=content, headers=VIDEO)
        if answer.status_code not in (200, 202):
            time.sleep(1.0)
            return None
        job: str = answer.json()["id"]
        self._jobs = [*self._jobs, job][-KNOWN:]
        with self._ledger.lock:
            self._ledger.accepted.add(job)
        return job

    def _follow(self, job: str | None) -> None:
        if job is None:
            return
        for _ in self._client.follow(f"/v1/videos/{job}/events"):
            pass
        self._ledger.note(200)

    def _poll(self, job: str | None) -> None:
        while job is not None and self._ask("GET", f"/v1/videos/{job}").json()["state"] not in ENDS:
            time.sleep(0.5)

    def _ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        answer = self._client.http.request(method, path, **more)
        self._ledger.note(answer.status_code)
        return answer


def damage(content: bytes, rng: random.Random) -> bytes:
    """The file cut off, with noise in it, with another beginning, or noise alone."""
    at = rng.randrange(len(content))
    noise = rng.randbytes(3000)
    return rng.choice((content[: at + 1], content[:at] + noise + content[at:], noise + content[3000:], noise))


def wander(address: str, films: Sequence[bytes], clients: int, lasts_s: float) -> Ledger:
    """So many clients for so long."""
    ledger, until = Ledger(), time.monotonic() + lasts_s

    def go(seed: int) -> None:
        with Client(address) as client:
            wanderer = Wanderer(client, films, ledger, seed)
            while time.monotonic() < until:
                wanderer.act()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(go, range(clients)))
    return ledger


def count_ends(address: str, ledger: Ledger) -> Counter[str]:
    """How the jobs that were accepted and not deleted ended; `lost` are those that are not known, or never ended."""
    ends: Counter[str] = Counter()
    until = time.monotonic() + PATIENCE_S
    with Client(address) as client:
        for job in ledger.accepted - ledger.deleted:
            state = "lost"
            while time.monotonic() < until:
                with suppress(KeyError):
                    state = client.http.get(f"/v1/videos/{job}").json()["state"]
                if state in ("lost", *ENDS):
                    break
                time.sleep(0.2)
            ends[state if state in ENDS else "lost"] += 1
    return ends
