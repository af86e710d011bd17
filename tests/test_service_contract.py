"""The service against its own OpenAPI document: whatever that lets clients send has an answer that it describes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.service_client import KEYS, make_keys
from tests.service_process import Service

# What Schemathesis would complain of, and why it is right nevertheless.
EXPECTED = """
[[operations]]  # a report is made some time after its video was taken, and until then there is none
include-name = ["GET /v1/videos/{id}/report", "POST /v1/videos/{id}/report/link"]
checks.ensure_resource_availability.enabled = false
"""
# Anna's requests, with none of whose videos Bert may get anywhere.
PEERS = """
[auth.wfc]
path = "peers.json"
peers = ["anna", "bert"]
"""


@pytest.fixture(params=[False, True], ids=["without keys", "with keys"])
def service(start: Start, tmp_path: Path, request: pytest.FixtureRequest) -> Service:
    """One with room for whatever is sent to it; with keys, their use is written down beside it."""
    options = ["--queue", "5000"]
    if request.param:
        make_keys(tmp_path)
        options += ["--keys", str(tmp_path / "keys")]
        headers = {name: [{"name": "Authorization", "value": f"Bearer {key}"}] for name, key in KEYS.items()}
        peers = {"auth": [{"name": name, "fixedHeaders": fixed} for name, fixed in headers.items()]}
        (tmp_path / "peers.json").write_text(json.dumps(peers), encoding="utf-8")
    (tmp_path / "schemathesis.toml").write_text(EXPECTED + PEERS * bool(request.param), encoding="utf-8")
    return start(*options).await_ready()


def require_kept(service: Service, folder: Path, examples: int) -> None:
    """Runs every check of Schemathesis on so many requests an operation, always the same ones."""
    tried = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{service.address}/openapi.json",
            "--max-examples", str(examples), "--generation-deterministic", "--continue-on-failure", "--no-color",
            "--report", "json", "--report-json-path", "found.json",
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tried.returncode == 0, tried.stdout + tried.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert (found["failures"], found["errors"], found["stop_reason"]) == ([], [], "completed")
    assert {name for name, phase in found["phases"].items() if phase["status"] == "success"} >= {
        "coverage", "fuzzing", "stateful",
    }  # fmt: skip
    assert found["operations"]["tested"] == found["operations"]["total"] >= 13
    assert [line for line in service.read_log() if line["level"] == "error" or line.get("status", 0) >= 500] == []


def test_the_service_does_what_its_document_says(service: Service, tmp_path: Path) -> None:
    require_kept(service, tmp_path, 15)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_service_does_what_its_document_says_a_thousand_times(service: Service, tmp_path: Path) -> None:
    require_kept(service, tmp_path, 300)
