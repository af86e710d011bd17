"""A service in this process, with a scorer that can be held back, and what its tests ask of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from fastapi.testclient import TestClient

from export.bundle import SCORER, open_model_folder
from export.fused import FusedModel
from extract.errors import CancelledError
from extract.isolation import Cancel
from extract.limits import MediaLimits
from serve.scorer import Progress, Scorer, make_decoders
from serve.service.access import Keys
from serve.service.app import make_app
from serve.service.engine import Engine
from serve.service.metrics import Metrics
from serve.service.settings import Settings
from serve.service.store import Store
from serve.service.uploads import Uploads
from serve.verdict import Verdict
from tests.fakes import FixedDetector

VIDEO = {"Content-Type": "video/mp4"}
PATIENCE_S = 30.0
KEYS = {"anna": "anna's", "bert": "bert's"}
ANNA, BERT = ({"Authorization": f"Bearer {key}"} for key in KEYS.values())


class GatedScorer(Scorer):
    """Waits before each file until it is let go; knows which files it was given."""

    gate: Event
    fault: Exception | None = None

    def let_go(self) -> None:
        """As it is before each test."""
        self.gate, self.fault = Event(), None
        self.gate.set()

    def score(self, path: str | Path, progress: Progress | None = None, cancel: Cancel | None = None) -> Verdict:
        """As the real one."""
        while not self.gate.wait(0.01):
            if cancel is not None and cancel.is_set():
                raise CancelledError("nobody waits")
        if self.fault:
            raise self.fault
        return super().score(path, progress, cancel)


def open_gated(model: Path, face: tuple[float, float, float, float]) -> GatedScorer:
    """The scorer of a model folder, whose detector finds one face always in the same place."""
    fused = FusedModel(model / SCORER, "cpu")
    decoders = make_decoders(limits=MediaLimits(most_duration_s=20))
    return GatedScorer(open_model_folder(model), fused, FixedDetector(face), decoders=decoders)


@contextmanager
def serve(scorer: Scorer, data: Path, keys: Keys | None = None, **choices: Any) -> Iterator[TestClient]:
    data.mkdir(exist_ok=True)
    store = Store(data / "jobs.sqlite")
    engine = Engine(Settings(data, **choices), scorer, store, Uploads(data), Metrics(), "model/")
    engine.recover()
    try:
        with TestClient(make_app(engine, keys), base_url="http://127.0.0.1") as client:
            yield client
    finally:
        store.close()


def send(client: TestClient, content: bytes, name: str = "a.mp4", **headers: str) -> dict[str, Any]:
    response = client.post("/v1/videos", params={"name": name}, content=content, headers={**VIDEO, **headers})
    assert response.status_code in (200, 202), response.text
    document: dict[str, Any] = response.json()
    return document


def await_state(client: TestClient, job: dict[str, Any], *states: str, **headers: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found: dict[str, Any] = client.get(job["links"]["self"], headers=headers).json()
        if found["state"] in (states or ("done", "failed", "cancelled")):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def await_report(client: TestClient, job: dict[str, Any], **headers: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while (found := await_state(client, job, **headers))["report"] in ("waiting", "making"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def require_problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def list_uploads(data: Path) -> list[str]:
    return os.listdir(data / "uploads")


def require_no_uploads(data: Path) -> None:
    """They are deleted just after a job's end is told."""
    until = time.monotonic() + PATIENCE_S
    while list_uploads(data) and time.monotonic() < until:
        time.sleep(0.01)
    assert list_uploads(data) == []


def make_keys(folder: Path) -> Keys:
    """Those of anna and bert."""
    path = folder / "keys"
    lines = [f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()]
    path.write_text("# who may ask\n" + "\n".join(lines), encoding="utf-8")
    return Keys.read(path)
