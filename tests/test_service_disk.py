"""A service whose disk is really full: what it refuses, what it keeps, and that every job ends when there is room."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.media import carphone
from tests.service_process import Service

SIZE_MB = 110
VIDEO = {"Content-Type": "video/mp4"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted by root, and not everywhere")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, leave: int = 0) -> None:
    """Takes all room but so many bytes."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    with path.open("r+b") as file:
        file.truncate(max(0, path.stat().st_size - leave))


def pour(megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes):
        yield bytes(1 << 20)


def require_whole(service: Service, jobs: set[str]) -> None:
    """Each of these jobs, and no other, is done, and the database is in order."""
    found = service.await_settled()
    assert {job["id"] for job in found} == jobs
    assert {job["state"] for job in found} == {"done"}
    assert service.list_files("uploads") == []
    assert service.end(signal.SIGTERM) == 0
    with sqlite3.connect(service.data / "jobs.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_does_not_fit_is_refused_and_leaves_nothing(start: Start, disk: Path) -> None:
    service = start(data=disk / "data").await_ready()
    for content in (bytes(60 << 20), pour(60)):
        response = service.client.post("/v1/videos", content=content, headers=VIDEO)
        assert (response.status_code, response.json()["type"]) == (507, "/problems/disk-full")
        assert service.list_files("uploads") == []
    require_whole(service, {service.send(carphone().read_bytes())["id"]})


def test_jobs_under_way_when_the_disk_fills_up_end_once_there_is_room(start: Start, disk: Path) -> None:
    service = start(data=disk / "data").await_ready()
    jobs = {service.send(carphone().read_bytes() + bytes([number]))["id"] for number in range(6)}
    fill(disk / "filler")
    response = service.client.post("/v1/videos", content=carphone().read_bytes(), headers=VIDEO)
    assert response.status_code == 507
    assert service.client.get("/readyz").status_code == 503
    assert service.client.get("/healthz").status_code == 200
    time.sleep(5)
    assert service.process.poll() is None
    (disk / "filler").unlink()
    require_whole(service, jobs)


@pytest.mark.parametrize("stop", [False, True])
def test_a_report_that_finds_its_disk_full_is_there_once_there_is_room(start: Start, disk: Path, stop: bool) -> None:
    data = disk.parent / "data"
    data.mkdir()
    (data / "reports").symlink_to(disk)
    service = start(data=data).await_ready()
    fill(disk / "filler", leave=8192)
    job = service.send(carphone().read_bytes())
    service.await_log("cannot be written")
    assert service.list_states() == {job["id"]: "done"}
    if stop:
        assert service.end(signal.SIGTERM) == 0
        service = start(data=data)
    (disk / "filler").unlink(missing_ok=True)  # a service that starts deletes what belongs to no job
    require_whole(service.await_ready(), {job["id"]})
    assert [path.name for path in disk.iterdir()] == [f"{job['id']}.html"]


def test_a_first_start_on_a_full_disk_is_refused_in_a_sentence(start: Start, disk: Path) -> None:
    fill(disk / "filler")
    service = start(data=disk / "data")
    assert service.process.wait(60) == 1
    (said,) = service.log.read_text(encoding="utf-8").splitlines()
    assert said.startswith("unmask: ")
    assert "free some space" in said


@pytest.mark.slow
def test_a_kill_on_a_full_disk_loses_nothing(start: Start, disk: Path) -> None:
    service = start(data=disk / "data").await_ready()
    jobs = {service.send(carphone().read_bytes() + bytes([number]))["id"] for number in range(4)}
    fill(disk / "filler")
    time.sleep(1)
    service.end(signal.SIGKILL)
    full = start(data=disk / "data")
    time.sleep(4)
    if full.process.poll() is None:  # SQLite found room in what it has
        full.end(signal.SIGKILL)
    else:
        assert full.process.returncode == 1
        assert "Traceback" not in full.log.read_text(encoding="utf-8")
    (disk / "filler").unlink()
    require_whole(start(data=disk / "data").await_ready(), jobs)
