"""A model whose detector is a file: it lies in the folder, and any other file is refused."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.bundle import CARD, DETECTOR
from export.mobile import write_mobile
from export.run import Export, ExportRequest, export_run
from export.triton import CONFIG, write_triton
from export.verify import verify_model
from extract.backbones import Backbone
from extract.detector_files import make_detector
from extract.errors import MismatchError, UsageError
from extract.files import hash_file
from extract.pipeline import Extractor
from extract.run import extract_manifest
from extract.session import open_session
from tests.conftest import FACE, Pipeline
from tests.fakes import FixedDetector, write_raw_detector
from train.config import FitConfig
from train.run import train_run
from train.schemes import TrainConfig


@dataclass(frozen=True)
class Made:
    """A run on a cache whose faces a detector file found, that file, and the model of both."""

    run: Path
    detector: Path
    export: Export


@pytest.fixture(scope="module")
def made(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("detector")
    detector = folder / "mine.onnx"
    spec = make_detector(str(write_raw_detector(folder / "raw.onnx")), detector)
    extractor = Extractor(FixedDetector(FACE, spec=spec), Backbone(pipeline.backbone, "cpu"))
    extract_manifest(pipeline.videos, extractor, folder / "features.h5")
    train_run(folder / "features.h5", folder / "run", TrainConfig(FitConfig(epochs=2)))
    request = ExportRequest(detector=detector)
    return Made(folder / "run", detector, export_run(folder / "run", pipeline.backbone, folder / "model", request))


def test_the_detector_goes_in_as_it_is_and_is_described(made: Made) -> None:
    assert hash_file(made.export.out / DETECTOR) == hash_file(made.detector)
    facts = made.export.certificate.files[DETECTOR]
    assert [tensor.name for tensor in (*facts.inputs, *facts.outputs)] == ["frames", "loc", "conf", "landmarks"]
    assert all(tensor.meaning for tensor in (*facts.inputs, *facts.outputs))
    assert f"| {DETECTOR} | {facts.bytes} | {facts.sha256} |" in (made.export.out / CARD).read_text()


def test_the_detector_is_verified_with_the_rest(made: Made) -> None:
    checks = {check.name: check for check in verify_model(made.export.out, "cpu")}
    assert {check.status for check in checks.values()} == {"passed"}
    assert checks[DETECTOR].detail == "it is the contract's, and runs"


def test_a_run_whose_detector_is_not_kept_has_to_be_told_its_file(
    made: Made, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="name the file that was used"):
        export_run(made.run, pipeline.backbone, tmp_path / "model")


def test_another_detector_is_refused_at_export(made: Made, pipeline: Pipeline, tmp_path: Path) -> None:
    make_detector(str(write_raw_detector(tmp_path / "raw.onnx", softmax=True)), tmp_path / "other.onnx")
    with pytest.raises(MismatchError, match=r"is not the detector .*: found sha256 .*, expected"):
        export_run(made.run, pipeline.backbone, tmp_path / "model", ExportRequest(detector=tmp_path / "other.onnx"))


def test_a_changed_detector_is_named(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.export.out, tmp_path / "model")
    with (tmp_path / "model" / DETECTOR).open("ab") as file:
        file.write(b"\n")
    failed = [check.name for check in verify_model(tmp_path / "model", "cpu") if check.status == "failed"]
    assert failed == [DETECTOR]


def test_phones_and_triton_get_the_detector_too(made: Made, tmp_path: Path) -> None:
    write_mobile(made.export.out, tmp_path / "phone")
    assert open_session(tmp_path / "phone/detector.ort", "cpu").inputs["frames"][0] == "tensor(uint8)"
    write_triton(made.export.out, tmp_path / "repository")
    assert (tmp_path / "repository/detector" / CONFIG).is_file()
    assert hash_file(tmp_path / "repository/detector/1/model.onnx") == hash_file(made.detector)
