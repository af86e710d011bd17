"""Files for phones: fixed shapes, loaded and run, with the operators they need and what the runtime says of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from export import mobile
from export.bundle import SCORER
from export.contract import Contract
from export.fused import FusedModel
from export.mobile import DOCUMENT, OPERATORS, USABILITY, write_mobile
from extract.errors import UnmaskError, UsageError
from extract.files import hash_file
from extract.session import open_session
from extract.specs import RateSampling
from extract.synthetic import make_crops
from tests.conftest import Pipeline

FRAMES = 32


@pytest.fixture(scope="module")
def folder(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mobile") / "phone"
    write_mobile(pipeline.model, out)
    return out


def test_every_file_has_a_fixed_shape_and_loads(folder: Path) -> None:
    shapes = {path.name: open_session(path, "cpu").inputs for path in folder.glob("*.ort")}
    assert shapes.keys() == {"scorer.ort", "features.ort", "head.ort", "head_stream.ort"}
    assert shapes["scorer.ort"]["crops"] == ("tensor(uint8)", (1, FRAMES, 32, 32, 3))
    assert shapes["features.ort"]["crops"] == ("tensor(uint8)", (FRAMES, 32, 32, 3))
    assert all(isinstance(axis, int) for inputs in shapes.values() for _, shape in inputs.values() for axis in shape)


def test_a_phone_gives_the_exported_models_numbers(folder: Path, pipeline: Pipeline) -> None:
    crops, lengths = make_crops(FRAMES, 32, seed=2)[None], np.array([20], np.int64)
    expected = FusedModel(pipeline.model / SCORER, "cpu").run(crops, lengths)
    found = open_session(folder / "scorer.ort", "cpu").run({"crops": crops, "lengths": lengths})
    assert found["prob"] == pytest.approx(expected.prob, abs=1e-5)
    assert np.allclose(found["frame_prob"], expected.frame_prob, atol=1e-5)


def test_the_document_carries_the_contract_and_every_hash(folder: Path, pipeline: Pipeline) -> None:
    document = json.loads((folder / DOCUMENT).read_text())
    assert document["scorer_sha256"] == hash_file(pipeline.model / SCORER)
    assert {name: facts["sha256"] for name, facts in document["files"].items()} == {
        path.name: hash_file(path) for path in folder.glob("*.ort")
    }
    Contract.model_validate(document["contract"])


def test_operators_and_usability_are_told(folder: Path) -> None:
    operators = (folder / OPERATORS).read_text()
    assert "LSTM" in operators
    usability = (folder / USABILITY).read_text()
    assert usability.startswith("scorer.onnx\n")
    assert "CPU EP" in usability
    assert str(Path("/tmp")) + "/" not in usability


def test_a_rate_gives_the_frames_of_a_full_clip(pipeline: Pipeline) -> None:
    contract = FusedModel(pipeline.model / SCORER, "cpu").contract
    assert contract.clip_frames == FRAMES
    prints = contract.fingerprint.model_copy(update={"sampling": RateSampling.suit(8)})
    assert contract.model_copy(update={"fingerprint": prints}).clip_frames == 80


def test_an_own_folder_is_replaced_and_another_refused(folder: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    mobile.require_free(folder)
    mobile.require_free(tmp_path / "new")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds no mobile model; choose another --mobile"):
        write_mobile(pipeline.model, tmp_path)
    with pytest.raises(UsageError, match="holds no mobile model"):
        write_mobile(pipeline.model, tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("script", "patience_s", "message"),
    [
        ("echo bad operator >&2; exit 3", 60.0, "failed .bad operator.; nothing"),
        ("sleep 9", 0.01, "did not end within"),
    ],
)
def test_a_tool_that_fails_leaves_nothing(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, patience_s: float, message: str
) -> None:
    failing = tmp_path / "python"
    failing.write_text(f"#!/bin/sh\n{script}\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    monkeypatch.setattr(mobile, "PATIENCE_S", patience_s)
    with pytest.raises(UnmaskError, match=message):
        write_mobile(pipeline.model, tmp_path / "phone")
    assert not (tmp_path / "phone").exists()
