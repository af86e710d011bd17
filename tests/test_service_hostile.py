"""What a service makes of bad files: each has an outcome, and nothing is left behind."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.hostile_files import LIES
from tests.media import carphone_frames
from tests.mutate import write_mutants, write_originals
from tests.service_process import PATIENCE_S, Service

OUTCOMES = {"REAL", "FAKE", "UNCERTAIN", "NOT_SCORABLE"}


@pytest.fixture
def service(start: Start) -> Service:
    return start("--queue", "2000").await_ready()


def send_all(service: Service, files: Sequence[Path], clients: int) -> list[str]:
    """The jobs of all files that are not refused at once as too large, as some damaged ones say they are."""

    def send(path: Path) -> str | None:
        response = service.client.post(
            "/v1/videos", params={"name": path.name, "report": "false"}, content=path.read_bytes(),
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        assert response.status_code in (200, 202, 413), (path, response.text)
        assert str(service.data) not in response.text
        return None if response.status_code == 413 else str(response.json()["id"])

    with ThreadPoolExecutor(clients) as pool:
        return [job for job in pool.map(send, files) if job is not None]


def require_outcomes(service: Service, sent: Sequence[str], patience_s: float) -> Counter[str]:
    """Every job has a verdict, nothing is left behind, and nothing went wrong on the way."""
    jobs = service.await_settled(patience_s)
    assert {job["id"] for job in jobs} == set(sent)
    assert [job for job in jobs if job["state"] != "done" or job["summary"]["outcome"] not in OUTCOMES] == []
    assert all(job["summary"]["reason"] for job in jobs if job["summary"]["outcome"] == "NOT_SCORABLE")
    assert service.client.get("/readyz").status_code == 200
    assert service.list_files("uploads") == []
    children = service.list_children()
    assert children
    assert service.end(signal.SIGTERM) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    log = service.read_log()
    assert [line for line in log if line["level"] == "error" or line.get("status", 0) >= 500] == []
    return Counter(job["summary"]["reason"] or job["summary"]["outcome"] for job in jobs)


def test_bad_files_have_outcomes_and_harm_nobody(service: Service, tmp_path: Path) -> None:
    originals = write_originals(tmp_path / "originals", carphone_frames(12))
    files = write_mutants(tmp_path / "mutants", originals, 18)
    require_outcomes(service, send_all(service, files, 4), PATIENCE_S)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_bad_files_have_outcomes_and_harm_nobody(service: Service, tmp_path: Path) -> None:
    originals = write_originals(tmp_path / "originals", carphone_frames(40))
    files = write_mutants(tmp_path / "mutants", originals, 1000 - len(LIES), seed=7)
    lies = tmp_path / "lies"
    lies.mkdir()
    files += [make(lies) for make in LIES.values()]
    sent = send_all(service, files, 4)
    found = require_outcomes(service, sent, 3000)
    print(dict(found), len(files) - len(sent), "refused")  # noqa: T201 - what a report on this run tells
    assert len(files) == 1000
