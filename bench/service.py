"""`unmask serve` as a process of its own, and the way of a client's video through it: upload, events, end."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2

ROOT = Path(__file__).parent.parent
VIDEO = {"Content-Type": "video/mp4"}
START_S = 120.0
PATIENCE_S = 600.0  # for an answer on a machine that is busy
STOP_S = 60.0
ENDS = ("done", "failed", "cancelled")
SETTLED = ("none", "ready")
MOST_LISTED = 500


class RunningService:
    """The service on a free port of this machine, on the processor."""

    def __init__(self, model: Path, data: Path, log: Path, *options: str) -> None:
        """Starts it with its default options, but for `options`; what it logs is added to `log`."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.data, self.log = data, log
        command = [sys.executable, "-m", "unmask", "serve", str(model), "--data", str(data), "--port", str(self.port)]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen([*command, "--device", "cpu", *options], cwd=ROOT, stderr=stderr)

    def await_ready(self) -> Self:
        """Until it takes videos; raises RuntimeError where it does not."""
        until = time.monotonic() + START_S
        with httpx2.Client(base_url=self.address) as client:
            while time.monotonic() < until and self.process.poll() is None:
                with suppress(httpx2.TransportError):
                    if client.get("/readyz").status_code == 200:
                        return self
                time.sleep(0.1)
        self.process.kill()
        raise RuntimeError(f"the service did not start: {self.log.read_text(encoding='utf-8')}")

    def end(self, sign: int) -> int:
        """Sends a signal and waits for the end; says how it ended."""
        self.process.send_signal(sign)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def read_log(self) -> list[dict[str, Any]]:
        """Its lines."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def count_errors(self) -> int:
        """Lines of its log that tell of an error."""
        return sum(line["level"] == "error" for line in self.read_log())


@contextmanager
def run_service(model: Path, folder: Path) -> Iterator[RunningService]:
    """A service that is ready, in a folder that it may have to itself."""
    folder.mkdir()
    service = RunningService(model, folder / "data", folder / "log").await_ready()
    try:
        yield service
    finally:
        service.end(signal.SIGTERM)


@dataclass(frozen=True)
class Way:
    """What became of one video; times as `time.perf_counter` tells them."""

    id: str
    begun_s: float  # of the upload
    verdict_s: float
    settled_s: float  # with its report, where there is one
    outcome: str | None  # without one, the job ended in another way
    cached: bool
    report: str

    @property
    def latency_s(self) -> float:
        """From the beginning of the upload to the verdict."""
        return self.verdict_s - self.begun_s


class Client:
    """Somebody who sends videos, and waits for each."""

    def __init__(self, address: str) -> None:
        self.http = httpx2.Client(base_url=address, timeout=PATIENCE_S)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def send(self, path: Path, *, report: bool) -> Way:
        """One video from upload to its end; with `report`, until that is there too."""
        begun_s = time.perf_counter()
        with path.open("rb") as content:
            query = {"name": path.name, "report": "true" if report else "false"}
            answer = self.http.post("/v1/videos", params=query, content=content, headers=VIDEO)
        answer.raise_for_status()
        job, verdict_s = answer.json(), 0.0
        for changed in self.follow(job["links"]["events"]):
            job = changed
            if job["state"] in ENDS and not verdict_s:
                verdict_s = time.perf_counter()
        outcome = job["summary"]["outcome"] if job["state"] == "done" else None
        return Way(job["id"], begun_s, verdict_s, time.perf_counter(), outcome, job["cached"], job["report"])

    def follow(self, events: str) -> Iterator[dict[str, Any]]:
        """The job at each change, until nothing will change any more."""
        with self.http.stream("GET", events) as stream:
            stream.raise_for_status()
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def list_jobs(self) -> list[dict[str, Any]]:
        """The newest jobs, as many as are told at once."""
        jobs: list[dict[str, Any]] = self.http.get("/v1/videos", params={"limit": MOST_LISTED}).json()["videos"]
        return jobs

    def forget_all(self) -> None:
        """Deletes every job, so that the same bytes are scored again."""
        while jobs := self.list_jobs():
            for job in jobs:
                self.http.delete(job["links"]["self"])


def send_all(address: str, paths: Sequence[Path], clients: int, *, report: bool = False) -> list[Way]:
    """Every video once: each client sends its share, one after the other; none is answered from what was stored."""

    def send_share(number: int) -> list[Way]:
        with Client(address) as client:
            return [client.send(path, report=report) for path in paths[number::clients]]

    with Client(address) as client:
        client.forget_all()
    with ThreadPoolExecutor(clients) as pool:
        ways = [way for share in pool.map(send_share, range(clients)) for way in share]
    require_each_once(address, paths, ways)
    return ways


def require_each_once(address: str, paths: Sequence[Path], ways: Sequence[Way]) -> None:
    """Raises RuntimeError where a video was lost, has two jobs, or was not scored for itself."""
    with Client(address) as client:
        states = {job["id"]: job["state"] for job in client.list_jobs()}
    told = {way.id: "done" for way in ways if way.outcome and not way.cached}
    names = Counter(way.id for way in ways)
    if not (states == told and len(told) == len(paths) == names.total() == len(names)):
        raise RuntimeError(f"{len(paths)} videos were sent; the clients were told {told}, the service says {states}")


def label(content: bytes, mark: bytes) -> bytes:
    """The same film in another file: a box that players skip follows it."""
    return content + struct.pack(">I4s", 8 + len(mark), b"free") + mark


def write_labelled(paths: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """`count` files that all differ, of these films in turn."""
    folder.mkdir()
    written = []
    for number in range(count):
        source = paths[number % len(paths)]
        written.append(folder / f"{number:03d}{source.suffix}")
        written[-1].write_bytes(label(source.read_bytes(), os.urandom(16)))
    return written
