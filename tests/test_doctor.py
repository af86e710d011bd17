"""What `unmask doctor` finds on a machine."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

import pytest
from click.testing import CliRunner

from extract import doctor, versions
from unmask import main


def test_it_reports_devices_packages_and_weights() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    findings = json.loads(result.stdout)
    assert findings["packages for scoring"]["av"] == version("av")
    assert findings["devices"]["cpu"] == "runs"
    assert {"cuda"} <= set(findings["devices"])
    assert "resnext50_32x4d imagenet" in findings["weights"]


def test_two_packages_with_one_import_name_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "1.0")
    assert set(doctor.examine()["conflicts"]) == {
        "onnxruntime, onnxruntime-gpu",
        "opencv-python, opencv-python-headless",
    }


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", find_nothing)
    assert set(doctor.examine()["packages for training"].values()) == {"not installed"}
