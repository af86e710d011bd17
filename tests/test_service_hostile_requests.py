"""What a service makes of requests that no decent client sends: they are refused, and reach nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.conftest import Pipeline, Start
from tests.media import carphone
from tests.service_client import (
    ANNA,
    BERT,
    KEYS,
    VIDEO,
    GatedScorer,
    await_report,
    make_keys,
    require_problem,
    send,
    serve,
)
from tests.service_process import Service, read_status

POST = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: video/mp4\r\n"
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def service_once(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("once")
    service = Service(pipeline.model, folder / "data", folder / "log").await_ready()
    yield service
    assert service.end(signal.SIGTERM) == 0
    assert [line for line in service.read_log() if line["level"] == "error" or line.get("status", 0) >= 500] == []


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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"127.0.0.1:8000", 200), (b"LOCALHOST", 200), (b"[::1]:1", 200), (b"127.9.9.9", 200), (b"", 421),
        (b"localhost.evil.example", 421), (b"127.0.0.1.evil.example:80", 421), (b"evil.example@127.0.0.1", 421),
        (b"127.0.0.1@evil.example", 421), (b"2130706433", 421), (b"0.0.0.0", 421), (b"[::1].evil.example", 421),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered_to(service_once: Service, host: bytes, status: int) -> None:
    answer = service_once.ask(b"GET /v1/videos HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert read_status(answer) == status


def test_requests_in_a_row_are_answered_in_a_row(service_once: Service) -> None:
    answer = service_once.ask(HEALTH + HEALTH.replace(b"/healthz", b"/nowhere") + HEALTH)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200]


def test_an_old_client_is_answered_and_left(service_once: Service) -> None:
    answer = service_once.ask(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert read_status(answer) == 421  # it does not say whom it asks
    answer = service_once.ask(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.endswith(b'{"status":"alive"}')


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


def test_every_route_of_a_video_is_closed_to_others(held: GatedScorer, tmp_path: Path, clip: bytes) -> None:
    with serve(held, tmp_path / "data", make_keys(tmp_path)) as client:
        job = await_report(client, send(client, clip, **ANNA), **ANNA)
        paths = client.get("/openapi.json").json()["paths"]
        routes = [(method, path) for path, operations in paths.items() for method in operations if "{id}" in path]
        assert len(routes) >= 6
        for method, path in routes:
            link = path.replace("{id}", job["id"])
            require_problem(client.request(method, link), 401)
            require_problem(client.request(method, link, headers={"Authorization": "Basic YW5uYTphbm5h"}), 401)
            require_problem(client.request(method, link, headers={"Authorization": f"Bearer {KEYS['anna']}x"}), 401)
            require_problem(client.request(method, link, params={"key": KEYS["anna"]}), 401)
            require_problem(client.request(method, link, headers=BERT), 404)
        assert client.get(job["links"]["self"], headers=ANNA).json() == job


def test_no_client_chooses_an_id(client: TestClient, clip: bytes) -> None:
    job = client.post("/v1/videos?id=mine&name=a", content=clip, headers={**VIDEO, "X-Job-ID": "mine"}).json()
    assert len(job["id"]) == 32
    assert job["id"] != send(client, clip)["id"]
    assert client.put("/v1/videos/mine", content=clip, headers=VIDEO).status_code == 405
    assert client.get("/v1/videos/mine").status_code == 404


def test_keys_and_odd_names_leave_the_log_whole_and_secret(start: Start, tmp_path: Path) -> None:
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
