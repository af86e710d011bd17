"""HTTP as its documents want it: methods, challenges, streams that are taken up again, and names in headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.service.uploads import Uploads
from tests.conftest import Start
from tests.media import carphone
from tests.service_client import (
    ANNA,
    VIDEO,
    GatedScorer,
    await_report,
    await_state,
    make_keys,
    require_no_uploads,
    require_problem,
    send,
    serve,
)
from tests.service_process import require_raw_problem


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/videos", "GET, POST, HEAD, OPTIONS"),
        ("/v1/videos/nobody", "GET, DELETE, HEAD, OPTIONS"),
        ("/v1/videos/nobody/cancel", "POST, OPTIONS"),
        ("/v1/score", "POST, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_refused_method_is_told_all_that_the_resource_takes(client: TestClient, path: str, methods: str) -> None:
    refused = client.request("PATCH", path)
    assert methods in require_problem(refused, 405)["detail"]
    asked = client.options(path, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
    assert (asked.status_code, asked.content) == (204, b"")
    assert refused.headers["allow"] == asked.headers["allow"] == methods
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_nothing_may_be_asked_of_what_is_not_there(client: TestClient) -> None:
    require_problem(client.options("/nowhere"), 404)
    assert client.head("/nowhere").status_code == 404


def test_a_problem_names_the_place_as_a_reference(client: TestClient) -> None:
    for path in ("/no%20such/%C3%A9%00%22", "/v1/videos/a%20b%3Fc"):
        assert require_problem(client.get(path), 404)["instance"] == path


def test_whatever_can_be_read_can_be_asked_for_its_head(client: TestClient, clip: bytes) -> None:
    job = await_report(client, send(client, clip))
    paths = client.get("/openapi.json").json()["paths"]
    read = [path.replace("{id}", job["id"]) for path, operations in paths.items() if "get" in operations]
    assert len(read) >= 8
    for path in ("/", "/static/app.js", *read):
        if path == "/metrics":
            continue  # counts its own requests
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert {**head.headers, "x-request-id": ""} == {**whole.headers, "x-request-id": ""}
    assert 'method="HEAD",route="/v1/videos/{id}"' in client.get("/metrics").text


def test_the_head_of_events_does_not_wait_for_them(start: Start) -> None:
    service = start().await_ready()
    job = service.send(carphone().read_bytes())
    ask = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer = service.ask(
        ask % (b"HEAD", job["links"]["events"].encode()) + ask % (b"HEAD", b"/") + ask % (b"GET", b"/healthz")
    )
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 200, 200]
    assert b"text/event-stream" in answer
    assert b"event: job" not in answer
    service.await_settled()
    assert [line for line in service.read_log() if line["level"] == "error"] == []


@pytest.mark.parametrize(
    ("request_bytes", "status", "kind"),
    [
        (b"\x16\x03\x01\x02 hello, is this TLS?\r\n\r\n", 400, "no-http"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 431, "long-head"),
        (b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\nvideo", 501, "unknown-coding"),
    ],
)
def test_what_is_no_request_has_a_problem_too(start: Start, request_bytes: bytes, status: int, kind: str) -> None:
    require_raw_problem(start().await_ready().ask(request_bytes), status, f"/problems/{kind}")


def test_an_empty_video_is_refused_as_the_document_says(client: TestClient) -> None:
    for path in ("/v1/videos", "/v1/score"):
        require_problem(client.post(path, headers=VIDEO), 422)
        document = client.get("/openapi.json").json()["paths"][path]["post"]
        assert "422" in document["responses"]
        assert {kind["schema"]["minLength"] for kind in document["requestBody"]["content"].values()} == {1}


def test_a_video_behind_a_coding_is_refused(client: TestClient, clip: bytes, tmp_path: Path) -> None:
    refused = client.post("/v1/videos", content=clip, headers={**VIDEO, "Content-Encoding": "gzip"})
    require_problem(refused, 415)
    assert refused.headers["accept-encoding"] == "identity"
    require_no_uploads(tmp_path)


def test_a_refused_key_or_link_is_told_how_to_ask(held: GatedScorer, tmp_path: Path, clip: bytes) -> None:
    with serve(held, tmp_path / "data", make_keys(tmp_path)) as client:
        report = await_report(client, send(client, clip, **ANNA), **ANNA)["links"]["report"]
        for query, headers, challenge in (
            ("", {}, 'Bearer realm="unmask"'),
            ("", {"Authorization": "Bearer guessed"}, 'Bearer realm="unmask", error="invalid_token"'),
            ("?ticket=anna:9999999999:guessed", {}, 'Bearer realm="unmask", error="invalid_token"'),
        ):
            refused = client.get(f"{report}{query}", headers=headers)
            require_problem(refused, 401)
            assert refused.headers["www-authenticate"] == challenge


def test_an_old_link_opens_the_report_where_nobody_needs_a_key(client: TestClient, clip: bytes) -> None:
    report = await_report(client, send(client, clip))["links"]["report"]
    assert client.get(f"{report}?ticket=local:1:old").status_code == 200


@pytest.mark.parametrize("keys", [False, True])
def test_the_document_asks_for_keys_where_they_are_needed(held: GatedScorer, tmp_path: Path, keys: bool) -> None:
    with serve(held, tmp_path / "data", make_keys(tmp_path) if keys else None) as client:
        document = client.get("/openapi.json").json()
        upload = document["paths"]["/v1/videos"]["post"]
        assert ("security" in upload) == ("401" in upload["responses"]) == keys
        assert ("securitySchemes" in document["components"]) == keys
        assert client.get("/v1/model").json()["needs_key"] == keys


def test_a_stream_that_ended_is_not_told_again_to_who_saw_the_end(client: TestClient, clip: bytes) -> None:
    events = await_report(client, send(client, clip))["links"]["events"]
    told = client.get(events)
    assert told.text.endswith("\nid: last\n\n")
    seen = client.get(events, headers={"Last-Event-ID": "last"})
    assert (seen.status_code, seen.content) == (204, b"")
    assert client.get(events, headers={"Last-Event-ID": "else"}).text == told.text


def test_who_comes_back_to_a_running_job_is_told_on(client: TestClient, held: GatedScorer, clip: bytes) -> None:
    held.gate.clear()
    job = send(client, clip)
    await_state(client, job, "running")
    held.gate.set()
    text = client.get(job["links"]["events"], headers={"Last-Event-ID": "last"}).text
    assert text.count("id: last") == 1


def test_a_report_has_its_name_in_the_form_that_all_browsers_read(client: TestClient, clip: bytes) -> None:
    report = await_report(client, send(client, clip, 'é"\r\n; filename=x.mp4'))["links"]["report"]
    page = client.get(report, headers={"Range": "bytes=0-9"})
    name = "%C3%A9%22%3B%20filename%3Dx.mp4.report.html"
    assert page.headers["content-disposition"] == f"inline; filename*=UTF-8''{name}"
    assert (page.status_code, int(page.headers["content-length"])) == (200, len(page.content))


def test_a_report_that_is_deleted_while_it_is_asked_for_is_not_there(
    client: TestClient, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await_report(client, send(client, clip))

    def open_late(uploads: Uploads, job_id: str) -> Any:
        uploads.remove_report(job_id)
        return uploads.locate_report(job_id).open("rb")

    monkeypatch.setattr(Uploads, "open_report", open_late)
    require_problem(client.get(job["links"]["report"]), 404)


def test_a_client_that_sends_again_before_the_verdict_has_it_scored_once(
    client: TestClient, held: GatedScorer, clip: bytes, tmp_path: Path
) -> None:
    held.gate.clear()
    first, again = send(client, clip, "a.mp4"), send(client, clip, "b.mp4")
    await_state(client, first, "running")
    held.gate.set()
    first, again = (await_report(client, job) for job in (first, again))
    assert (first["cached"], again["cached"]) == (False, True)
    assert (again["name"], again["verdict"]["path"], again["report"]) == ("b.mp4", "b.mp4", "ready")
    assert {**again["verdict"], "path": ""} == {**first["verdict"], "path": ""}
    assert "unmask_jobs_cached_total 1.0" in client.get("/metrics").text
    require_no_uploads(tmp_path)
