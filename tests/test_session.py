"""ONNX Runtime behind one door: the device asked for is the device that runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract import session
from extract.errors import DeviceError, FormatError, UsageError
from extract.session import CPU, CUDA, explain_missing_cuda, open_session
from extract.synthetic import make_crops
from tests.fakes import make_tiny_backbone, write_tiny_network


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> session.Session:
    """The tiny backbone on the CPU."""
    return open_session(make_tiny_backbone(tmp_path_factory.mktemp("tiny")), "cpu")


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


@given(count=st.integers(0, 20), seed=st.integers(0, 3), stride=st.sampled_from([1, 2]))
def test_bound_memory_gives_what_a_plain_run_gives(tiny: session.Session, count: int, seed: int, stride: int) -> None:
    crops = make_crops(20, 32, seed)[::stride][:count]
    plain, bound = tiny.run({"crops": crops}), tiny.run_bound({"crops": crops}, "cpu")
    assert list(bound) == list(plain) == ["features"]
    assert np.array_equal(bound["features"], plain["features"])


@pytest.mark.parametrize("bound", [False, True])
def test_several_threads_may_run_one_session(tiny: session.Session, bound: bool) -> None:
    batches = [make_crops(1 + number % 5, 32, seed=number) for number in range(40)]

    def run(crops: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
        answer = tiny.run_bound({"crops": crops}, "cpu") if bound else tiny.run({"crops": crops})
        return answer["features"].tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, batches)) == [run(crops) for crops in batches]


def test_a_cuda_session_binds_its_memory(tiny: session.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "provider", CUDA)
    monkeypatch.setattr(tiny, "run_bound", lambda feeds, memory: {memory: feeds["crops"]})
    crops = make_crops(1, 32, seed=0)
    assert tiny.run({"crops": crops}) == {"cuda": crops}


@pytest.mark.gpu
def test_cuda_gives_the_features_of_the_cpu(tmp_path: Path) -> None:
    path = make_tiny_backbone(tmp_path)
    crops = make_crops(70, 32, seed=0)
    found, expected = (open_session(path, device).run({"crops": crops})["features"] for device in ("cuda", "cpu"))
    assert np.allclose(found, expected, atol=1e-2)  # convolutions on recent GPUs keep ten bits (TF32)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_threads_of_a_session_are_pinned_to_no_core(tmp_path: Path) -> None:
    path = make_tiny_backbone(tmp_path)
    before = set(os.listdir("/proc/self/task"))
    opened = open_session(path, "cpu")
    threads = set(os.listdir("/proc/self/task")) - before
    assert opened.provider == CPU
    assert all(os.sched_getaffinity(int(thread)) == os.sched_getaffinity(0) for thread in threads)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nobody_is_told_what_a_session_runs(tmp_path: Path) -> None:
    model = make_tiny_backbone(tmp_path)
    load = (
        f"from extract.session import open_session; from pathlib import Path; open_session(Path({str(model)!r}), 'cpu')"
    )
    command = ["strace", "-f", "-e", "trace=connect", "-o", str(tmp_path / "calls"), sys.executable, "-c", load]
    subprocess.run(command, check=True, env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": "."})
    calls = (tmp_path / "calls").read_text(encoding="utf-8")
    assert "AF_INET" not in calls
    assert not (tmp_path / ".cache").exists()
