"""The service as a process: killed, told to stop, left by its clients, and started twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Pipeline
from tests.media import carphone

ROOT = Path(__file__).parent.parent
VIDEO = {"Content-Type": "video/mp4"}
PATIENCE_S = 60.0


class Service:
    """`unmask serve` on a port of its own."""

    def __init__(self, model: Path, data: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "unmask", "serve", str(model), "--data", str(data), "--port", str(self.port)]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen([*command, "--jobs", "1", "--device", "cpu"], cwd=ROOT, stderr=stderr)
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

    def list_states(self) -> dict[str, str]:
        """Of all jobs."""
        return {job["id"]: job["state"] for job in self.client.get("/v1/videos").json()["videos"]}

    def end(self, sign: int) -> int:
        """Sends a signal and waits for the end."""
        self.process.send_signal(sign)
        code = self.process.wait(PATIENCE_S)
        self.client.close()
        return code


@pytest.fixture
def start(pipeline: Pipeline, tmp_path: Path) -> Iterator[Any]:
    started: list[Service] = []

    def begin() -> Service:
        started.append(Service(pipeline.model, tmp_path / "data", tmp_path / "log"))
        return started[-1]

    yield begin
    for service in started:
        service.process.kill()
        service.process.wait()
        service.client.close()


def test_after_a_kill_every_accepted_job_ends_once(start: Any, tmp_path: Path) -> None:
    content = carphone().read_bytes()
    service = start().await_ready()
    jobs = [service.send(content + bytes([number])) for number in range(4)]
    while "running" not in service.list_states().values():
        time.sleep(0.01)
    service.end(signal.SIGKILL)
    service = start().await_ready()
    until = time.monotonic() + PATIENCE_S
    while set(service.list_states().values()) != {"done"} and time.monotonic() < until:
        time.sleep(0.1)
    assert service.list_states() == {job["id"]: "done" for job in jobs}
    assert service.end(signal.SIGTERM) == 0
    assert os.listdir(tmp_path / "data" / "uploads") == []
    assert len(os.listdir(tmp_path / "data" / "reports")) == len(jobs)


def test_an_upload_that_breaks_off_leaves_nothing(start: Any, tmp_path: Path) -> None:
    service = start().await_ready()
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(
            b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: video/mp4\r\nContent-Length: 5000000\r\n\r\n"
        )
        client.sendall(b"x" * 2_000_000)
        until = time.monotonic() + PATIENCE_S
        while not os.listdir(tmp_path / "data" / "uploads") and time.monotonic() < until:
            time.sleep(0.01)
    while os.listdir(tmp_path / "data" / "uploads") and time.monotonic() < until:
        time.sleep(0.01)
    assert os.listdir(tmp_path / "data" / "uploads") == []
    assert service.list_states() == {}


def test_a_stop_ends_streams_and_logs_lines_of_json(start: Any, tmp_path: Path) -> None:
    service = start().await_ready()
    jobs = [service.send(carphone().read_bytes() + bytes([number])) for number in range(3)]
    with service.client.stream("GET", jobs[-1]["links"]["events"]) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: job"
        service.process.send_signal(signal.SIGTERM)
        assert all(line == "" or line.startswith(("data: ", "event: ")) for line in lines)
    assert service.process.wait(PATIENCE_S) == 0
    log = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert log[-1]["message"] == "stopped"
    assert {"time", "level", "message"} <= log[0].keys()
    assert any(line["message"] == "request" and line["request_id"] for line in log)
    service = start().await_ready()
    assert service.list_states().keys() == {job["id"] for job in jobs}


def test_two_services_do_not_share_a_folder(start: Any) -> None:
    start().await_ready()
    second = start()
    assert second.process.wait(PATIENCE_S) == 1
    assert "name another --data" in second.log.read_text(encoding="utf-8")


def test_an_address_that_others_reach_needs_keys(pipeline: Pipeline, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unmask", "serve", str(pipeline.model), "--host", "0.0.0.0"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "d")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--keys" in done.stderr


def test_a_port_that_is_taken_is_said(pipeline: Pipeline, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "unmask", "serve", str(pipeline.model), "--port", port, "--device", "cpu"]
        done = subprocess.run(
            [*command, "--data", str(tmp_path / "d")], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert "address already in use" in done.stderr
