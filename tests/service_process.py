"""`unmask serve` as a process of its own, and what its tests ask of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from bench.service import ENDS, VIDEO, RunningService

PATIENCE_S = 60.0
QUIET_S = 0.3  # after which an answer is taken to be whole


class Service(RunningService):
    """`unmask serve` with one job at a time, and a client of it."""

    def __init__(self, model: Path, data: Path, log: Path, *options: str) -> None:
        super().__init__(model, data, log, "--jobs", "1", *options)
        self.client = httpx2.Client(base_url=self.address, timeout=PATIENCE_S)

    def send(self, content: bytes) -> dict[str, Any]:
        """One upload."""
        response = self.client.post("/v1/videos", content=content, headers=VIDEO)
        assert response.status_code == 202, response.text
        document: dict[str, Any] = response.json()
        return document

    def list_jobs(self) -> list[dict[str, Any]]:
        """All of them, the newest first."""
        jobs: list[dict[str, Any]] = []
        link = "/v1/videos?limit=500"
        while link:
            page = self.client.get(link).json()
            jobs += page["videos"]
            link = page["next"]
        return jobs

    def list_states(self) -> dict[str, str]:
        """Of all jobs."""
        return {job["id"]: job["state"] for job in self.list_jobs()}

    def await_settled(self, patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """All jobs, once every one has its end and its report."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            jobs = self.list_jobs()
            if all(job["state"] in ENDS and job["report"] in ("none", "ready") for job in jobs):
                return jobs
            time.sleep(0.1)
        raise AssertionError([job for job in jobs if job["state"] not in ENDS][:3])

    def ask(self, request: bytes, patience_s: float = PATIENCE_S) -> bytes:
        """What comes back for bytes on a connection of their own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience_s) as client:
            with suppress(OSError):  # reset before it has read all
                client.sendall(request)
            return read_answer(client)

    def list_children(self) -> list[int]:
        """Processes that it has begun and not ended."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def await_log(self, words: str) -> None:
        """Until it has written a line with these words."""
        until = time.monotonic() + PATIENCE_S
        while words not in self.log.read_text(encoding="utf-8"):
            assert time.monotonic() < until, words
            time.sleep(0.1)

    def list_files(self, kind: str) -> list[str]:
        """Names of uploads, or of reports."""
        return os.listdir(self.data / kind)

    def end(self, sign: int) -> int:
        """Sends a signal and waits for the end."""
        code = super().end(sign)
        self.client.close()
        return code


def read_answer(client: socket.socket) -> bytes:
    """What comes until the connection is closed, or nothing comes any more."""
    answer = b""
    with suppress(OSError):
        while chunk := client.recv(1 << 16):
            answer += chunk
            client.settimeout(QUIET_S)
    return answer


def read_status(answer: bytes) -> int:
    """Of a raw answer."""
    return int(answer.split(b" ", 2)[1])


def require_raw_problem(answer: bytes, status: int, kind: str) -> None:
    """A raw answer with a whole problem document."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert read_status(answer) == status
    assert b"application/problem+json" in head
    document = json.loads(body)
    assert (document["status"], document["type"]) == (status, kind)
