"""`unmask serve` as a process of its own, and what its tests ask of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
VIDEO = {"Content-Type": "video/mp4"}
PATIENCE_S = 60.0
QUIET_S = 0.3  # after which an answer is taken to be whole
ENDS = ("done", "failed", "cancelled")


class Service:
    """`unmask serve` on a port of its own."""

    def __init__(self, model: Path, data: Path, log: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log, self.data = log, data
        command = [sys.executable, "-m", "unmask", "serve", str(model), "--data", str(data), "--port", str(self.port)]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*command, "--jobs", "1", "--device", "cpu", *options], cwd=ROOT, stderr=stderr
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S)

    def await_ready(self) -> Service:
        """Until it takes videos."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if self.client.get("/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text(encoding="utf-8"))

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

    def read_log(self) -> list[dict[str, Any]]:
        """Its lines."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

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
        self.process.send_signal(sign)
        code = self.process.wait(PATIENCE_S)
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
