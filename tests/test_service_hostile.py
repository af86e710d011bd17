"""What a service makes of bad files, of requests that no decent client sends, and of clients that push or dawdle."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Pipeline, Start
from tests.hostile_files import LIES
from tests.media import carphone, carphone_frames
from tests.mutate import write_mutants, write_originals
from tests.service_process import PATIENCE_S, Service

OUTCOMES = {"REAL", "FAKE", "UNCERTAIN", "NOT_SCORABLE"}
POST = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: video/mp4\r\n"
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def service(start: Start) -> Service:
    return start("--queue", "2000").await_ready()


def send_all(service: Service, files: Sequence[Path], clients: int) -> dict[str, Path]:
    """Which job is which file's."""

    def send(path: Path) -> str:
        response = service.client.post(
            "/v1/videos", params={"name": path.name, "report": "false"}, content=path.read_bytes(),
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        assert response.status_code in (200, 202), (path, response.text)
        return str(response.json()["id"])

    with ThreadPoolExecutor(clients) as pool:
        return dict(zip(pool.map(send, files), files, strict=True))


def require_outcomes(service: Service, sent: dict[str, Path], patience_s: float) -> Counter[str]:
    """Every file has a verdict, nothing is left behind, and nothing went wrong on the way."""
    jobs = service.await_settled(patience_s)
    assert {job["id"] for job in jobs} == sent.keys()
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
    found = require_outcomes(service, send_all(service, files, 4), 3000)
    print(dict(found))  # noqa: T201 - what a report on this run tells
    assert found.total() == 1000


def read_status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_client_that_pushes_what_is_too_large_reads_why_it_was_refused(start: Start, tmp_path: Path) -> None:
    service = start("--max-size", "1MB").await_ready()
    response = service.client.post("/v1/videos", content=bytes(40 << 20), headers={"Content-Type": "video/mp4"})
    assert (response.status_code, response.json()["type"]) == (413, "/problems/too-large")

    def pour() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 20)

    response = service.client.post("/v1/videos", content=pour(), headers={"Content-Type": "video/mp4"})
    assert (response.status_code, response.json()["type"]) == (413, "/problems/too-large")
    response = service.client.post("/v1/videos", content=bytes(40 << 20), headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert service.list_files("uploads") == []


def test_who_asks_before_sending_what_is_too_large_is_answered_at_once(start: Start) -> None:
    service = start("--max-size", "1MB").await_ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as client:
        began = time.monotonic()
        client.sendall(POST + b"Content-Length: 99000000\r\nExpect: 100-continue\r\n\r\n")
        assert read_status(client.recv(1 << 16)) == 413
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, {400, 422}),
        (POST + b"Content-Length: 4\r\nContent-Length: 9\r\n\r\nvideo", {400}),
        (POST + b"Content-Length: -1\r\n\r\n", {400}),
        (POST + b"Content-Length: 1e9\r\n\r\n", {400}),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nvideo\r\n0\r\n\r\n", {400}),
        (POST + b"Transfer-Encoding: gzip\r\n\r\nvideo", {400, 501}),
        (b"GET /v1/videos HTTP/1.1\r\n\r\n", {400, 421}),
        (b"GET /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", {400, 421}),
        (b"GET http://evil.example/v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {200, 400, 404, 421}),
        (b"GET /v1/videos/%2e%2e%2fjobs.sqlite HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {404}),
        (b"GET /static/..%2f..%2faccess.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {404}),
        (b"GET /v1/videos/%00/report HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {404}),
        (b"GET /v1/videos/\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400, 404}),
        (b"GET /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", {400, 431}),
        (b"GET /v1/videos?name=" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400, 414, 431}),
        (b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400, 404, 405}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello, is this TLS?\r\n\r\n", {400}),
    ],
)  # fmt: skip
def test_no_request_confuses_the_service(service_once: Service, request_bytes: bytes, statuses: set[int]) -> None:
    answer = service_once.ask(request_bytes)
    assert read_status(answer) in statuses
    assert b"unmask_jobs" not in answer  # nothing smuggled behind it was answered
    assert service_once.client.get("/v1/videos").json() == {"videos": [], "next": None}
    assert service_once.list_files("uploads") == []


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\nb", "\0", "x" * 999, "..\\..\\x", "%2e%2e%2fx"])
def test_no_name_leads_anywhere(service_once: Service, name: str) -> None:
    before = {path for path in service_once.data.rglob("*") if path.suffix != ".html"}
    response = service_once.client.post(
        "/v1/videos", params={"name": name, "report": "no"}, content=b"no film", headers={"Content-Type": "video/mp4"}
    )
    link = response.json()["links"]["self"]
    service_once.await_settled()
    assert "/" not in response.json()["name"]
    assert service_once.client.delete(link).status_code == 204
    assert {path for path in service_once.data.rglob("*") if path.suffix != ".html"} <= before | {
        service_once.data / f"jobs.sqlite-{kind}" for kind in ("wal", "shm")
    }


@pytest.fixture(scope="module")
def service_once(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("once")
    service = Service(pipeline.model, folder / "data", folder / "log").await_ready()
    yield service
    assert service.end(signal.SIGTERM) == 0
    assert [line for line in service.read_log() if line["level"] == "error" or line.get("status", 0) >= 500] == []


def test_an_upload_under_way_does_not_hold_up_a_stop(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as client:
        client.sendall(POST + b"Content-Length: 5000000\r\n\r\n" + bytes(2_000_000))
        while not service.list_files("uploads"):
            time.sleep(0.01)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        answer = client.recv(1 << 16)
        assert read_status(answer) == 503
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/problems/stopping"
    assert service.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began < 6
    assert service.list_files("uploads") == []


def test_keys_and_odd_names_leave_the_log_whole_and_secret(start: Start, tmp_path: Path) -> None:
    from tests.service_client import ANNA, KEYS, make_keys

    make_keys(tmp_path)
    service = start("--keys", str(tmp_path / "keys")).await_ready()
    job = service.client.post(
        "/v1/videos", params={"name": 'a"\n{"level": "error"}'}, content=carphone().read_bytes(),
        headers={**ANNA, "Content-Type": "video/mp4", "X-Request-ID": "one\ttwo"},
    ).json()  # fmt: skip
    link = job["links"]["self"]
    for query in (f"key={KEYS['anna']}", f"access_token={KEYS['anna']}", f"ticket={KEYS['anna']}"):
        assert service.client.get(f"{link}?{query}").status_code == 401
    while service.client.get(link, headers=ANNA).json()["report"] != "ready":
        time.sleep(0.05)
    opened = service.client.post(f"{link}/report/link", headers=ANNA).json()["href"]
    assert service.client.get(opened).status_code == 200
    assert service.end(signal.SIGTERM) == 0
    assert service.read_log()
    text = service.log.read_text(encoding="utf-8")
    assert KEYS["anna"] not in text
    assert opened.partition("ticket=")[2] not in text
    assert os.listdir(service.data / "uploads") == []
