"""ONNX Runtime behind one door: the device asked for is the device that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract import session
from extract.errors import DeviceError, FormatError, UsageError
from extract.session import CPU, CUDA, explain_missing_cuda, open_session
from tests.fakes import make_tiny_backbone, write_tiny_network


def test_cuda_that_cannot_run_is_refused_and_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "explain_missing_cuda", lambda: "no NVIDIA driver was found")
    path = make_tiny_backbone(tmp_path)
    with pytest.raises(DeviceError, match=r"--device cuda cannot run here: no NVIDIA driver was found; install"):
        open_session(path, "cuda")
    assert open_session(path, "auto").provider == CPU


@pytest.mark.skipif(explain_missing_cuda() is None, reason="this machine has CUDA")
def test_a_runtime_that_falls_back_in_silence_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "explain_missing_cuda", lambda: None)  # as if a driver were there
    path = make_tiny_backbone(tmp_path)
    with pytest.raises(DeviceError, match="CUDA did not start"):
        open_session(path, "cuda")
    assert open_session(path, "auto").provider == CPU


@pytest.mark.gpu
def test_cuda_runs_where_there_is_a_device(tmp_path: Path) -> None:
    assert open_session(make_tiny_backbone(tmp_path), "cuda").provider == CUDA


def test_a_missing_and_a_foreign_file_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(FormatError, match="is not an ONNX model"):
        open_session(tmp_path / "text.onnx")


def test_a_session_names_its_inputs_and_outputs(tmp_path: Path) -> None:
    found = open_session(write_tiny_network(tmp_path / "tiny.onnx"), "cpu")
    assert found.inputs == {"picture": ("tensor(float)", ("N", 3, 32, 32))}
    assert list(found.outputs) == ["features"]
    assert found.read_document("unmask.backbone") is None
