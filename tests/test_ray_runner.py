"""The same cache from Ray workers, also when one of them is killed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from extract.backbones import Backbone
from extract.cache import hash_content, open_cache
from extract.errors import UnmaskError
from extract.manifest import ManifestVideo
from extract.mtcnn import open_mtcnn
from extract.pipeline import Extractor
from extract.ray_runner import RayRunner, _Dealer, fit_share
from extract.results import VideoRecord
from extract.run import RunConfig, extract_manifest
from tests.fakes import make_tiny_backbone
from tests.media import carphone_frames, write_video


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    return Extractor(open_mtcnn(), Backbone(make_tiny_backbone(tmp_path_factory.mktemp("b")), "cpu"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[ManifestVideo]:
    folder = tmp_path_factory.mktemp("v")
    paths = [write_video(folder / f"{n:02}.mp4", carphone_frames(24)[n:][:8]) for n in range(14)]
    (folder / "broken.mp4").write_text("no video")
    return [ManifestVideo(path.name, path, "real") for path in (*paths, folder / "broken.mp4")]


def hash_of(path: Path) -> str:
    with open_cache(path) as cache:
        return hash_content(cache)


class Killer:
    """Kills one worker as soon as a video is done."""

    def __init__(self) -> None:
        self.killed = 0
        self.done: list[str] = []

    def begin(self, todo: int, reused: int) -> None:
        pass

    def add(self, record: VideoRecord) -> None:
        self.done.append(record.id)
        if not self.killed:
            self.killed = find_worker()
            os.kill(self.killed, signal.SIGKILL)


def find_worker() -> int:
    """The worker process that started last: it is of this run."""
    begun: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and (process / "cmdline").read_bytes().startswith(b"ray::Worker"):
                begun[int(process.name)] = int(
                    (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
                )
    return max(begun, key=begun.__getitem__)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, videos: list[ManifestVideo], extractor: Extractor) -> str:
    out = tmp_path_factory.mktemp("local") / "f.h5"
    extract_manifest(videos, extractor, out)
    return hash_of(out)


def test_ray_fills_the_same_cache(
    tmp_path: Path, videos: list[ManifestVideo], extractor: Extractor, expected: str
) -> None:
    done = extract_manifest(videos, extractor, tmp_path / "f.h5", RunConfig(runner=RayRunner(workers=2, device="cpu")))
    assert done.status_counts == {"DECODE_ERROR": 1, "OK": 14}
    assert done.busy.detect_s > 0
    assert hash_of(tmp_path / "f.h5") == expected


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the worker in /proc")
def test_a_killed_worker_costs_only_what_it_had_not_finished(
    tmp_path: Path, videos: list[ManifestVideo], extractor: Extractor, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer()
    hired: list[Any] = []
    hire = _Dealer._hire

    def count_hire(dealer: _Dealer) -> Any:
        hired.append(hire(dealer))
        return hired[-1]

    monkeypatch.setattr(_Dealer, "_hire", count_hire)
    config = RunConfig(runner=RayRunner(workers=2, device="cpu"))
    extract_manifest(videos, extractor, tmp_path / "f.h5", config, killer)
    assert len(hired) == 3  # two, and one in the place of the dead
    assert sorted(killer.done) == sorted(video.id for video in videos)
    assert hash_of(tmp_path / "f.h5") == expected


def test_workers_that_cannot_start_end_the_run(
    tmp_path: Path, videos: list[ManifestVideo], extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extractor.detector, "spec", extractor.detector.spec.model_copy(update={"package": "mtcnn==0"}))
    with pytest.raises(UnmaskError, match=r"a Ray worker does not start: .*mtcnn==0"):
        list(RayRunner(workers=1, device="cpu")(videos, extractor, type("T", (), {})()))


def test_a_cluster_that_does_not_answer_is_said(
    videos: list[ManifestVideo], extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UnmaskError, match=r"no Ray cluster answers at 192.0.2.1:6379: refused; start one"):
        list(RayRunner("192.0.2.1:6379")(videos, extractor, None))  # type: ignore[arg-type]


@given(amounts=st.lists(st.integers(1, 64).map(float), min_size=1, max_size=6), workers=st.integers(1, 20))
def test_shares_fit_on_nodes_of_any_size(amounts: list[float], workers: int) -> None:
    share = fit_share(amounts, workers)
    assert sum(int(amount / share + 1e-9) for amount in amounts) >= workers
    assert share >= sum(amounts) / workers / 2 or share >= max(amounts) / workers
    assert fit_share([], workers) == 0
