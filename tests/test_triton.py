"""The Triton repository: read back with Triton's own schema, versions beside each other, files that load."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

from export.bundle import DETECTOR, SCORER
from export.cli import export_command
from export.fused import FusedModel
from export.triton import CONFIG, DOCUMENT, MODEL, WARMUP, _add_detector, require_place, write_triton
from extract.detector_files import make_detector
from extract.errors import FormatError, MismatchError, MissingPackageError, UsageError
from extract.files import hash_file
from tests.conftest import Pipeline
from tests.fakes import write_raw_detector


@pytest.fixture(scope="module")
def repository(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "repository"
    write_triton(pipeline.model, out)
    return out


def read_config(folder: Path) -> ModelConfig:
    return text_format.Parse((folder / CONFIG).read_text(), ModelConfig())


def shape(tensor: ModelInput | ModelOutput) -> tuple[str, list[int], bool]:
    """Name, dimensions without the batch, and whether Triton drops the last again."""
    return tensor.name, list(tensor.dims), tensor.HasField("reshape")


def test_the_scorer_is_configured_as_its_file_is(repository: Path) -> None:
    config = read_config(repository / "scorer")
    assert (config.name, config.backend, config.max_batch_size) == ("scorer", "onnxruntime", 8)
    assert [shape(tensor) for tensor in config.input] == [("crops", [-1, 32, 32, 3], False), ("lengths", [1], True)]
    assert [shape(tensor) for tensor in config.output] == [
        ("logit", [1], True),
        ("prob", [1], True),
        ("frame_prob", [-1], False),
    ]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert config.version_policy.latest.num_versions == 2


def test_the_warm_up_is_a_clip_that_has_a_length(repository: Path, pipeline: Pipeline) -> None:
    config = read_config(repository / "scorer")
    inputs = config.model_warmup[0].inputs
    frames = FusedModel(pipeline.model / SCORER, "cpu").contract.clip_frames
    assert list(inputs["crops"].dims) == [frames, 32, 32, 3]
    given = (repository / "scorer" / WARMUP / inputs["lengths"].input_data_file).read_bytes()
    assert np.frombuffer(given, np.int64).tolist() == [frames]


def test_the_model_is_the_exported_one(repository: Path, pipeline: Pipeline) -> None:
    assert hash_file(repository / "scorer/1" / MODEL) == hash_file(pipeline.model / SCORER)
    document = json.loads((repository / DOCUMENT).read_text())
    assert document["versions"]["1"]["scorer_sha256"] == hash_file(pipeline.model / SCORER)
    assert document["versions"]["1"]["contract"]["purpose"] == "research"
    assert not (repository / "detector").exists()  # MTCNN is a package


def test_another_export_becomes_the_next_version(pipeline: Pipeline, tmp_path: Path) -> None:
    for _ in range(3):
        write_triton(pipeline.model, tmp_path / "r")
    assert sorted(path.name for path in (tmp_path / "r/scorer").iterdir()) == ["1", "2", "3", CONFIG, WARMUP]
    assert json.loads((tmp_path / "r" / DOCUMENT).read_text())["versions"].keys() == {"1", "2", "3"}


def test_a_detector_takes_frames_of_any_size(tmp_path: Path) -> None:
    make_detector(str(write_raw_detector(tmp_path / "raw.onnx")), tmp_path / DETECTOR)
    _add_detector(tmp_path / "detector", "1", tmp_path / DETECTOR)
    config = read_config(tmp_path / "detector")
    assert [shape(tensor) for tensor in config.input] == [("frames", [-1, -1, 3], False)]
    assert config.max_batch_size == 32
    assert list(config.model_warmup[0].inputs["frames"].dims) == [360, 640, 3]


def test_a_folder_of_something_else_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is no Triton repository of unmask; choose another --triton"):
        write_triton(pipeline.model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("option", "word"), [("--triton", "Triton repository"), ("--mobile", "mobile model")])
def test_a_folder_of_something_else_is_refused_before_a_model_is_made(
    pipeline: Pipeline, tmp_path: Path, option: str, word: str
) -> None:
    (tmp_path / "notes.txt").touch()
    arguments = [str(pipeline.run), "--backbone", str(pipeline.backbone), "--out", str(tmp_path / "model")]
    done = CliRunner().invoke(export_command, [*arguments, option, str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert word in str(done.exception)
    assert not (tmp_path / "model").exists()


def test_a_version_of_other_tensors_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    write_triton(pipeline.model, tmp_path / "r")
    config = tmp_path / "r/scorer" / CONFIG
    config.write_text(config.read_text().replace("dims: 32", "dims: 48"))
    with pytest.raises(MismatchError, match="versions of scorer that are there take or give other tensors"):
        write_triton(pipeline.model, tmp_path / "r")
    assert not (tmp_path / "r/scorer/2").exists()


def test_a_client_without_the_schema_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("The installation does not include grpc support.")

    monkeypatch.setitem(sys.modules, "tritonclient.grpc", Bare("tritonclient.grpc"))
    with pytest.raises(MissingPackageError, match=r'pip install "unmask\[triton\]"'):
        require_place(tmp_path / "r")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "unmask-triton/0", "versions": {}}', '{"versions": {}}'])
def test_a_damaged_or_older_repository_is_refused(pipeline: Pipeline, tmp_path: Path, text: str) -> None:
    (tmp_path / DOCUMENT).write_text(text)
    with pytest.raises(FormatError, match="is no document of the format 'unmask-triton/1'"):
        write_triton(pipeline.model, tmp_path)
