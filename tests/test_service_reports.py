"""Reports of the service: after the verdict, behind every video that waits, never lost, and opened by a link."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
from fastapi.testclient import TestClient

from extract.errors import CancelledError, DiskError, FormatError
from extract.files import write_text
from extract.isolation import Cancel
from serve.evidence import Evidence
from serve.service.events import LOOK_S
from serve.service.reporter import CROWDED
from serve.service.tickets import LIFE_S, Tickets
from serve.verdict import Verdict
from tests.service_client import (
    ANNA,
    BERT,
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
from tests.verdicts import make_unscorable, make_verdict


class Gate:
    """Holds back the evidence until it is let go."""

    def __init__(self) -> None:
        self.open = Event()
        self.begun = Event()

    def wait(self, cancel: Cancel | None) -> None:
        self.begun.set()
        while not self.open.wait(0.01):
            if cancel is not None and cancel.is_set():
                raise CancelledError("nobody waits")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, gather = Gate(), Evidence.gather

    def wait_and_gather(self: Evidence, verdict: Verdict, path: Path, cancel: Cancel | None = None) -> Any:
        gate.wait(cancel)
        return gather(self, verdict, path, cancel)

    monkeypatch.setattr(Evidence, "gather", wait_and_gather)
    yield gate
    gate.open.set()


def test_the_verdict_is_there_before_the_report(client: TestClient, clip: bytes, tmp_path: Path, gate: Gate) -> None:
    job = send(client, clip)
    done = await_state(client, job)
    assert done["verdict"]["p_fake"] is not None
    assert done["report"] in ("waiting", "making")
    assert done["links"]["report"] is done["links"]["report_link"] is None
    require_problem(client.get(f"{job['links']['self']}/report"), 404)
    assert list_uploads(tmp_path) == [job["id"]]
    Timer(3 * LOOK_S, gate.open.set).start()
    events = client.get(job["links"]["events"]).text
    assert [json.loads(line[6:])["report"] for line in events.splitlines() if line.startswith("data: ")] == [
        "making",
        "ready",
    ]
    assert "data:image" in client.get(f"{job['links']['self']}/report").text


def test_a_report_that_nobody_wants_is_not_made(client: TestClient, clip: bytes, tmp_path: Path, gate: Gate) -> None:
    response = client.post("/v1/videos?report=false", content=clip, headers={"Content-Type": "video/mp4"})
    assert await_state(client, response.json())["report"] == "none"
    require_no_uploads(tmp_path)
    assert not gate.begun.is_set()


def test_a_report_waits_behind_every_video(
    held: GatedScorer, clip: bytes, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.gate.clear()
    with serve(held, tmp_path) as client:
        jobs = [send(client, clip + bytes([number])) for number in range(3)]
        held.gate.set()
        assert gate.begun.wait(30)
        states = [client.get(job["links"]["self"]).json()["state"] for job in jobs]
        assert "queued" not in states


def test_a_stop_gives_a_report_up_and_the_next_service_makes_it(
    held: GatedScorer, clip: bytes, tmp_path: Path, gate: Gate
) -> None:
    with serve(held, tmp_path) as client:
        job = send(client, clip)
        assert gate.begun.wait(30)
    assert list_uploads(tmp_path) == [job["id"]]
    gate.open.set()
    with serve(held, tmp_path) as client:
        assert await_report(client, job)["report"] == "ready"
    require_no_uploads(tmp_path)


def test_a_video_deleted_while_its_report_is_made_leaves_nothing(
    client: TestClient, clip: bytes, tmp_path: Path, gate: Gate
) -> None:
    job = send(client, clip)
    assert gate.begun.wait(30)
    assert client.delete(job["links"]["self"]).status_code == 204
    second = send(client, clip + b"1")
    gate.open.set()
    await_report(client, second)
    require_no_uploads(tmp_path)
    assert os.listdir(tmp_path / "reports") == [f"{second['id']}.html"]


def test_where_too_many_reports_wait_the_next_has_no_pictures_and_says_so(
    held: GatedScorer, clip: bytes, tmp_path: Path, gate: Gate
) -> None:
    with serve(held, tmp_path, most_queued=1, most_queued_each=1) as client:
        first, second = send(client, clip), None
        assert gate.begun.wait(30)
        second = send(client, clip + b"1")
        await_state(client, second)
        third = await_state(client, send(client, clip + b"2"))
        assert third["report"] == "ready"
        assert CROWDED in client.get(third["links"]["report"]).text
        gate.open.set()
        assert [await_report(client, job)["report"] for job in (first, second)] == ["ready", "ready"]


def test_the_same_bytes_again_and_again_do_not_fill_the_disk(
    held: GatedScorer, clip: bytes, tmp_path: Path, gate: Gate
) -> None:
    with serve(held, tmp_path, most_queued=2) as client:
        await_state(client, send(client, clip))
        assert gate.begun.wait(30)
        again = [send(client, clip) for _ in range(5)]
        assert [(job["cached"], job["report"]) for job in again] == [(True, "waiting")] * 2 + [(True, "ready")] * 3
        assert len(list_uploads(tmp_path)) == 3
        gate.open.set()
        assert {await_report(client, job)["report"] for job in again} == {"ready"}
    require_no_uploads(tmp_path)


def test_a_report_that_fails_ends_and_the_verdict_stays(
    client: TestClient, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("serve.service.reporter.render_report", fail)
    done = await_report(client, send(client, clip))
    assert (done["state"], done["report"]) == ("done", "none")
    assert done["verdict"]["p_fake"] is not None
    require_no_uploads(tmp_path)


def test_a_report_waits_for_room_on_the_disk(
    client: TestClient, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = iter([DiskError("full")])

    def write(path: Path, text: str) -> None:
        for fault in full:
            raise fault
        write_text(path, text)

    monkeypatch.setattr("serve.service.reporter.write_text", write)
    assert await_report(client, send(client, clip))["report"] == "ready"
    require_no_uploads(tmp_path)


def test_identical_bytes_get_the_report_that_nobody_wanted_the_first_time(
    client: TestClient, clip: bytes, tmp_path: Path
) -> None:
    first = client.post("/v1/videos?report=no", content=clip, headers={"Content-Type": "video/mp4"}).json()
    await_state(client, first)
    again = send(client, clip)
    assert (again["cached"], again["report"]) == (True, "waiting")
    assert await_report(client, again)["report"] == "ready"
    require_no_uploads(tmp_path)


def test_a_link_opens_one_report_without_the_key_and_not_for_ever(
    held: GatedScorer, tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(held, tmp_path / "data", make_keys(tmp_path)) as client:
        jobs = [await_report(client, send(client, clip + bytes([n]), **ANNA), **ANNA) for n in range(2)]
        link = client.post(jobs[0]["links"]["report_link"], headers=ANNA).json()
        assert client.get(link["href"]).status_code == 200
        ticket = link["href"].partition("?")[2]
        require_problem(client.get(f"{jobs[1]['links']['report']}?{ticket}", headers=ANNA), 401)
        require_problem(client.get(f"{jobs[0]['links']['report']}?{ticket[:-1]}g"), 401)
        require_problem(client.get(f"{jobs[0]['links']['self']}?{ticket}"), 401)
        later = time.time() + LIFE_S + 1
        monkeypatch.setattr("serve.service.tickets.time.time", lambda: later)
        require_problem(client.get(link["href"]), 401)


@pytest.mark.parametrize("ticket", ["", ":", "::", "anna:x:y", "anna:-1:y", f"anna:{'9' * 20}:y", "\ud800:1:é"])
def test_a_made_up_ticket_opens_nothing(ticket: str) -> None:
    assert Tickets().find_owner(ticket, "job") is None


def test_a_ticket_of_an_earlier_start_opens_nothing() -> None:
    ticket, _ = Tickets().issue("job", "anna")
    assert Tickets().find_owner(ticket, "job") is None


def test_nobody_fills_the_queue_for_others(held: GatedScorer, tmp_path: Path, clip: bytes) -> None:
    held.gate.clear()
    with serve(held, tmp_path / "data", make_keys(tmp_path), most_queued=3, most_queued_each=1) as client:
        await_state(client, send(client, clip, **ANNA), "running", **ANNA)
        send(client, clip + b"1", **ANNA)
        refused = client.post("/v1/videos", content=clip, headers={"Content-Type": "video/mp4", **ANNA})
        assert "of yours" in require_problem(refused, 429)["detail"]
        assert send(client, clip, **BERT)["position"] == 2
        held.gate.set()


def test_a_verdict_comes_back_from_its_document_as_it_was() -> None:
    for verdict in (make_verdict(), make_unscorable("NO_FACE")):
        assert Verdict.from_document(json.loads(json.dumps(verdict.to_document()))) == verdict


@pytest.mark.parametrize("change", [{"tracks": "none"}, {"p_fake": "high"}, {"model": None}])
def test_a_document_that_is_no_verdict_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="no verdict"):
        Verdict.from_document({**make_verdict().to_document(), **change})
    with pytest.raises(FormatError, match="no verdict"):
        Verdict.from_document({})
