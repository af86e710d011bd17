"""One small pipeline for all tests that need one: real footage, a tiny backbone, a trained head, a model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from extract.backbones import Backbone
from extract.manifest import ManifestVideo, write_manifest
from extract.mtcnn import open_mtcnn
from extract.pipeline import Extractor
from extract.run import extract_manifest
from tests.fakes import FixedDetector, make_tiny_backbone
from tests.media import carphone_frames, write_video

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from tests.page_service import Stand
    from tests.service_client import GatedScorer
    from tests.service_process import Service

Start = Callable[..., "Service"]
FACE = (48.0, 30.0, 112.0, 108.0)  # in the carphone footage


@dataclass(frozen=True)
class Pipeline:
    """Where the artefacts of every stage lie."""

    folder: Path
    videos: list[ManifestVideo]
    manifest: Path
    backbone: Path
    cache: Path
    run: Path
    model: Path


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Every stage on 24 short clips of the talking face, half of them with a blurred face."""
    from export.run import export_run
    from train.config import FitConfig
    from train.run import train_run
    from train.schemes import TrainConfig

    folder = tmp_path_factory.mktemp("pipeline")
    made = Pipeline(
        folder,
        make_videos(folder),
        *(folder / name for name in ("videos.csv", "backbone.onnx", "features.h5", "run", "model")),
    )
    write_manifest(made.manifest, made.videos)
    make_tiny_backbone(folder).rename(made.backbone)
    detector = FixedDetector(FACE, spec=open_mtcnn().spec)  # a detector that scoring can open by its name
    extract_manifest(made.videos, Extractor(detector, Backbone(made.backbone, "cpu")), made.cache)
    train_run(made.cache, made.run, TrainConfig(FitConfig(epochs=8)))
    export_run(made.run, made.backbone, made.model)
    return made


def make_videos(folder: Path) -> list[ManifestVideo]:
    """Twelve groups, each a real clip and its fake, in train, val and test."""
    footage = carphone_frames(48)
    videos = []
    for number in range(12):
        cut = footage[4 * number % 36 :][:12]
        split = ("train", "train", "val", "test")[number % 4]
        for label, frames in (("real", cut), ("fake", [blur_face(f) for f in cut])):
            path = write_video(folder / f"{number}-{label}.mp4", frames)
            videos.append(ManifestVideo(path.name, path, label, split, f"g{number}", f"p{number}", "toy"))  # type: ignore[arg-type]
    return videos


def blur_face(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy whose face is smeared."""
    x0, y0, x1, y1 = (int(v) for v in FACE)
    copy = np.array(frame)
    copy[y0:y1, x0:x1] = cv2.GaussianBlur(copy[y0:y1, x0:x1], (0, 0), 4)
    return copy


@pytest.fixture(scope="module")
def gated(pipeline: Pipeline) -> Iterator[GatedScorer]:
    """A scorer that a service's tests can hold back."""
    from tests.service_client import open_gated

    scorer = open_gated(pipeline.model, FACE)
    yield scorer
    scorer.close()


@pytest.fixture
def held(gated: GatedScorer) -> GatedScorer:
    """The same, let go."""
    gated.let_go()
    return gated


@pytest.fixture
def clip(pipeline: Pipeline) -> bytes:
    """A short video of one face."""
    return pipeline.videos[0].path.read_bytes()


@pytest.fixture
def client(held: GatedScorer, tmp_path: Path) -> Iterator[TestClient]:
    """A service without keys."""
    from tests.service_client import serve

    with serve(held, tmp_path) as client:
        yield client


@pytest.fixture
def start(pipeline: Pipeline, tmp_path: Path) -> Iterator[Start]:
    """Starts services on one folder of data, with further options; ends those that still run."""
    from tests.service_process import Service

    started: list[Service] = []

    def begin(*options: str, data: Path = tmp_path / "data") -> Service:
        started.append(Service(pipeline.model, data, tmp_path / "log", *options))
        return started[-1]

    yield begin
    for service in started:
        service.process.kill()
        service.process.wait()
        service.client.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the tests of one module: what drives it keeps an event loop that others would trip over."""
    from tests.page_client import launch_chromium

    with launch_chromium() as browser:
        yield browser


@pytest.fixture
def stand() -> Stand:
    """What the stand-in for the service remembers."""
    from tests.page_service import Stand

    return Stand()


@pytest.fixture
def page(browser: Any, stand: Stand) -> Iterator[Any]:
    """The page of that stand-in, on a phone."""
    from tests.page_client import open_page

    with open_page(browser, stand) as page:
        yield page
