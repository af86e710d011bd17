"""The HTTP service: what is taken, what is refused, whose it is, and that every job ends once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from extract.errors import FormatError, UsageError
from serve.service.access import Keys, choose_keys
from serve.service.jobs import clean_name
from serve.service.settings import Settings, parse_size
from serve.service.store import Store
from tests.media import carphone, carphone_frames, numbered_frames, write_video
from tests.service_client import (
    ANNA,
    BERT,
    VIDEO,
    GatedScorer,
    await_report,
    await_state,
    list_uploads,
    make_keys,
    require_no_uploads,
    require_problem,
    send,
    serve,
)


def test_a_video_is_scored_and_its_upload_deleted(client: TestClient, clip: bytes, tmp_path: Path) -> None:
    response = client.post("/v1/videos?name=../../etc/a.mp4", content=clip, headers=VIDEO)
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == job["links"]["self"]
    assert (job["name"], job["sha256"], job["size_bytes"]) == ("a.mp4", hashlib.sha256(clip).hexdigest(), len(clip))
    done = await_report(client, job)
    assert (done["state"], done["report"]) == ("done", "ready")
    assert done["verdict"]["outcome"] in ("REAL", "FAKE", "UNCERTAIN")
    assert (done["verdict"]["path"], done["verdict"]["sha256"]) == ("a.mp4", job["sha256"])
    assert {"purpose", "notices", "untrained_backbone"} <= done["verdict"].keys()
    require_no_uploads(tmp_path)


def test_a_report_is_there_with_a_policy_of_its_own(client: TestClient, clip: bytes, tmp_path: Path) -> None:
    done = await_report(client, send(client, clip, "<b>.mp4"))
    page = client.get(done["links"]["report"])
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src" not in page.headers["content-security-policy"]
    assert "&lt;b&gt;.mp4" in page.text
    assert str(tmp_path) not in page.text
    saved = client.get(done["links"]["report"], params={"download": 1})
    assert saved.headers["content-disposition"].startswith("attachment")


def test_identical_bytes_are_answered_from_the_stored_result(client: TestClient, clip: bytes, tmp_path: Path) -> None:
    first = await_report(client, send(client, clip))
    again = send(client, clip, "b.mp4")
    assert (again["state"], again["cached"], again["verdict"]["path"]) == ("done", True, "b.mp4")
    assert again["explanation"] != first["explanation"]
    assert {**again["explanation"], "file": []} == {**first["explanation"], "file": []}
    assert {**again["verdict"], "path": ""} == {**first["verdict"], "path": ""}
    assert (again["summary"], again["report"]) == (first["summary"], "ready")
    assert again["id"] != first["id"]
    assert client.delete(first["links"]["self"]).status_code == 204
    assert client.get(again["links"]["report"]).status_code == 200
    require_no_uploads(tmp_path)


def test_what_is_no_video_has_a_verdict_that_says_so(client: TestClient, tmp_path: Path) -> None:
    done = await_state(client, send(client, b"no video at all" * 99))
    assert (done["state"], done["verdict"]["outcome"]) == ("done", "NOT_SCORABLE")
    assert str(tmp_path) not in json.dumps(done)


def test_a_video_that_is_too_long_is_not_scored(client: TestClient, tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", numbered_frames(30), [1000 * n for n in range(30)])
    for route in ("/v1/videos", "/v1/score"):
        refused = require_problem(client.post(route, content=path.read_bytes(), headers=VIDEO), 413)
        assert "20" in refused["detail"]
    assert client.get("/v1/videos").json()["videos"] == []
    require_no_uploads(tmp_path)


def test_a_video_that_takes_long_to_open_waits_for_its_turn_like_any_other(
    client: TestClient, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.service.engine.GLANCE_S", 0.0)
    assert await_state(client, send(client, clip))["state"] == "done"


def test_a_short_clip_is_answered_at_once_and_not_kept(client: TestClient, clip: bytes, tmp_path: Path) -> None:
    response = client.post("/v1/score?name=s.mp4", content=clip, headers=VIDEO)
    assert response.status_code == 200
    assert (response.json()["path"], response.json()["format"]) == ("s.mp4", "unmask-verdict/1")
    assert client.get("/v1/videos").json() == {"videos": [], "next": None}
    require_no_uploads(tmp_path)


def test_a_clip_that_is_not_short_is_sent_elsewhere(held: GatedScorer, tmp_path: Path) -> None:
    with serve(held, tmp_path, sync_s=2.0) as client:
        response = client.post("/v1/score", content=carphone().read_bytes(), headers=VIDEO)
    assert "/v1/videos" in require_problem(response, 413)["detail"]
    require_no_uploads(tmp_path)


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield b"x" * 1000


@pytest.mark.parametrize("content", [lambda: b"x" * 200_000, lambda: chunks(200_000)], ids=["declared", "chunked"])
def test_a_body_beyond_the_limit_leaves_nothing(held: GatedScorer, tmp_path: Path, content: Callable[[], Any]) -> None:
    with serve(held, tmp_path, most_bytes=100_000) as client:
        require_problem(client.post("/v1/videos", content=content(), headers=VIDEO), 413)
        assert client.get("/v1/videos").json() == {"videos": [], "next": None}
    require_no_uploads(tmp_path)


@pytest.mark.parametrize("kind", ["text/html", "multipart/form-data", "video/", "application/json", ""])
def test_a_body_that_calls_itself_no_video_is_refused(client: TestClient, kind: str) -> None:
    require_problem(client.post("/v1/videos", content=b"x", headers={"Content-Type": kind}), 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/videos/nobody", 404),
        ("GET", "/v1/videos/..%2f..%2fjobs.sqlite/report", 404),
        ("PATCH", "/v1/videos", 405),
        ("GET", "/v1/videos?limit=zero", 422),
        ("GET", "/v1/videos?limit=0", 422),
        ("POST", "/v1/videos", 422),
        ("POST", "/v1/videos/nobody/cancel", 404),
    ],
)
def test_every_refusal_is_a_problem(client: TestClient, method: str, path: str, status: int) -> None:
    require_problem(client.request(method, path, headers=VIDEO), status)


def test_an_unexpected_error_keeps_its_traceback_to_itself(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Store, "list_newest", lambda *_: 1 / 0)
    response = client.get("/v1/videos", headers={"X-Request-ID": "mine-1"})
    assert require_problem(response, 500)["request_id"] == "mine-1"
    assert "division" not in response.text
    assert any(record.exc_info for record in caplog.records)


def test_a_full_queue_says_when_to_come_again(held: GatedScorer, tmp_path: Path, clip: bytes) -> None:
    held.gate.clear()
    with serve(held, tmp_path, most_queued=1) as client:
        first = send(client, clip)
        await_state(client, first, "running")
        second = send(client, clip + b"1")
        assert second["position"] == 1
        refused = client.post("/v1/videos", content=clip, headers=VIDEO)
        require_problem(refused, 429)
        assert int(refused.headers["retry-after"]) > 0
        require_problem(client.get("/readyz"), 503)
        held.gate.set()
        assert {await_state(client, job)["state"] for job in (first, second)} == {"done"}
        assert client.get("/readyz").status_code == 200


def test_a_job_is_cancelled_while_it_waits_and_while_it_runs(
    client: TestClient, held: GatedScorer, clip: bytes, tmp_path: Path
) -> None:
    held.gate.clear()
    running, waiting = send(client, clip), send(client, clip + b"1")
    await_state(client, running, "running")
    require_problem(client.delete(running["links"]["self"]), 409)
    assert client.post(waiting["links"]["cancel"]).json()["state"] == "cancelled"
    assert client.post(running["links"]["cancel"]).json()["state"] == "cancelled"
    require_problem(client.post(running["links"]["cancel"]), 409)
    require_no_uploads(tmp_path)
    assert client.delete(running["links"]["self"]).status_code == 204
    require_problem(client.get(running["links"]["self"]), 404)


def test_a_job_that_fails_unexpectedly_ends_and_the_next_is_scored(
    client: TestClient, held: GatedScorer, clip: bytes
) -> None:
    held.fault = RuntimeError("secret")
    failed = await_state(client, send(client, clip))
    assert failed["state"] == "failed"
    assert "secret" not in json.dumps(failed)
    held.fault = None
    assert await_state(client, send(client, clip))["state"] == "done"


def test_events_tell_of_a_job_until_it_ends(client: TestClient, held: GatedScorer, clip: bytes) -> None:
    held.gate.clear()
    job = send(client, clip)
    await_state(client, job, "running")
    held.gate.set()
    events = client.get(job["links"]["events"])
    assert events.headers["content-type"].startswith("text/event-stream")
    blocks = [block.splitlines() for block in events.text.strip().split("\n\n")]
    assert {block[0] for block in blocks} == {"event: job"}
    told = [json.loads(block[1].removeprefix("data: ")) for block in blocks]
    assert (told[-1]["state"], told[-1]["report"]) == ("done", "ready")


def test_nobody_reaches_a_job_of_somebody_else(held: GatedScorer, tmp_path: Path, clip: bytes) -> None:
    with serve(held, tmp_path / "data", make_keys(tmp_path)) as client:
        job = send(client, clip, **ANNA)
        await_report(client, job, **ANNA)
        link = job["links"]["self"]
        for method, path in (
            ("GET", link), ("DELETE", link), ("POST", f"{link}/cancel"), ("GET", f"{link}/events"),
            ("GET", f"{link}/report"), ("POST", f"{link}/report/link"),
        ):  # fmt: skip
            require_problem(client.request(method, path, headers=BERT), 404)
            require_problem(client.request(method, path), 401)
            require_problem(client.request(method, path, headers={"Authorization": "Bearer guessed"}), 401)
        assert client.get("/v1/videos", headers=BERT).json() == {"videos": [], "next": None}
        assert not send(client, clip, **BERT)["cached"]
        assert client.get(link, headers=ANNA).json()["state"] == "done"


def test_without_keys_the_service_answers_to_this_machine_only(client: TestClient) -> None:
    require_problem(client.get("/v1/videos", headers={"Host": "evil.example"}), 421)
    assert client.get("/v1/videos", headers={"Host": "[::1]:8000"}).status_code == 200
    with pytest.raises(UsageError, match="--keys"):
        choose_keys("0.0.0.0", None)
    assert choose_keys("localhost", None) is None


@pytest.mark.parametrize("text", ["", "anna", "anna:12", "anna:" + "Z" * 64, 2 * ("a:" + "0" * 64 + "\n")])
def test_a_keys_file_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError):
        Keys.read(path)


def test_a_full_disk_is_said_and_leaves_nothing(
    client: TestClient, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("serve.service.uploads.os.fsync", refuse)
        require_problem(client.post("/v1/videos", content=clip, headers=VIDEO), 507)
    require_no_uploads(tmp_path)
    assert client.get("/v1/videos").json() == {"videos": [], "next": None}
    assert await_state(client, send(client, clip))["state"] == "done"


def test_stopping_puts_a_running_job_back_and_the_next_service_ends_it(
    held: GatedScorer, clip: bytes, tmp_path: Path
) -> None:
    held.gate.clear()
    with serve(held, tmp_path) as client:
        jobs = [send(client, clip + bytes([number])) for number in range(2)]
        await_state(client, jobs[0], "running")
    (tmp_path / "uploads" / "half.part").touch()
    held.gate.set()
    with serve(held, tmp_path) as client:
        assert [await_report(client, job)["state"] for job in jobs] == ["done", "done"]
    require_no_uploads(tmp_path)


def test_uploads_and_results_are_kept_as_long_as_was_said(held: GatedScorer, clip: bytes, tmp_path: Path) -> None:
    with serve(held, tmp_path, keep_uploads_s=3600.0) as client:
        job = await_report(client, send(client, clip))
        assert list_uploads(tmp_path) == [job["id"]]
    with serve(held, tmp_path, keep_uploads_s=0.0) as client:
        require_no_uploads(tmp_path)
        assert client.get(job["links"]["report"]).status_code == 200
    with serve(held, tmp_path, keep_results_s=0.001) as client:
        require_problem(client.get(job["links"]["self"]), 404)
    assert os.listdir(tmp_path / "reports") == []


def test_every_answer_has_a_request_id_and_security_headers(client: TestClient) -> None:
    for path in ("/healthz", "/v1/videos", "/nowhere", "/metrics", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-request-id"]


def test_a_list_leads_to_older_videos_and_ends(client: TestClient, clip: bytes) -> None:
    jobs = [send(client, clip + bytes([number]))["id"] for number in range(5)]
    seen, link = [], "/v1/videos?limit=2"
    while link:
        page = client.get(link).json()
        seen += [job["id"] for job in page["videos"]]
        link = page["next"]
    assert seen == jobs[::-1]
    assert "verdict" not in page["videos"][0]
    require_problem(client.get("/v1/videos?before=nobody"), 404)


def test_metrics_count_jobs_and_requests(client: TestClient, clip: bytes) -> None:
    await_state(client, send(client, clip))
    send(client, clip)
    text = client.get("/metrics").text
    assert "unmask_jobs_accepted_total 1.0" in text
    assert "unmask_jobs_cached_total 1.0" in text
    assert 'route="/v1/videos/{id}"' in text


def test_the_interface_is_described_with_examples_and_problems(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    upload = document["paths"]["/v1/videos"]["post"]
    assert {"413", "415", "429", "507"} <= upload["responses"].keys()
    assert "application/octet-stream" in upload["requestBody"]["content"]
    assert document["components"]["schemas"]["JobDocument"]["examples"]
    assert "HTTPValidationError" not in json.dumps(document)


def test_the_model_is_told_with_its_presets_and_limits(client: TestClient, held: GatedScorer) -> None:
    model = client.get("/v1/model").json()
    assert model["default_preset"] in model["presets"]
    assert model["presets"][model["default_preset"]]["value"] == held.ruling.value
    assert (model["threshold"], model["tracks"]) == (held.ruling.value, held.tracks)
    assert (model["needs_key"], model["limits"]["max_duration_s"]) == (False, 3600.0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a.mp4", "a.mp4"), ("C:\\x\\a.mp4", "a.mp4"), ("..", ".."), ("", "video"), ("a\x1b[0m\u202e.mp4", "a[0m.mp4")],
)
def test_a_name_is_shown_without_folders_and_steering_signs(name: str, shown: str) -> None:
    assert clean_name(name) == shown


def test_sizes_are_read_and_others_refused() -> None:
    assert parse_size("1.5GB") == 3 << 29
    for text in ("", "5", "GB", "-1GB", "nanGB", "5 apples"):
        with pytest.raises(UsageError):
            parse_size(text)


def test_settings_that_could_take_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="most_queued"):
        Settings(tmp_path, most_queued=0)
    with pytest.raises(UsageError, match="keep_uploads_s"):
        Settings(tmp_path, keep_uploads_s=-1)


def test_a_clip_scored_over_http_has_the_score_of_the_library(
    client: TestClient, held: GatedScorer, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "c.mp4", carphone_frames(24))
    own = held.score(path)
    assert client.post("/v1/score", content=path.read_bytes(), headers=VIDEO).json()["p_fake"] == own.p_fake
