"""The fused model: parity on a grid of shapes, independence of batch and padding, contract, certificate, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.bundle import HEAD, SCORER, open_model_folder
from export.certificate import CERTIFICATE
from export.contract import KEY
from export.fuse import CalibratedHead, fuse
from export.fused import FusedModel, require_batch
from export.parity import MOST_PROB_ERROR, Reference, check_parity, require_passed
from export.run import ExportRequest, export_run
from extract.backbones import Backbone
from extract.errors import DiskError, FormatError, MismatchError, UnmaskError, UsageError
from extract.files import hash_file
from extract.onnx_files import load_model
from extract.synthetic import make_crops
from tests.conftest import Pipeline
from tests.fakes import make_tiny_backbone
from train.checkpoint import load_head, load_run

CropsOf = Callable[[int, int], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def model(pipeline: Pipeline) -> FusedModel:
    return FusedModel(pipeline.model / SCORER, "cpu")


def make_clips(clips: int, frames: int, seed: int = 0) -> NDArray[np.uint8]:
    return make_crops(clips * frames, 32, seed).reshape(clips, frames, 32, 32, 3)


def as_lengths(*lengths: int) -> NDArray[np.int64]:
    return np.array(lengths, np.int64)


@pytest.mark.parametrize("clips", [1, 2, 7])
@pytest.mark.parametrize("frames", [1, 8, 32, 64])
def test_the_fused_model_equals_backbone_and_torch_head(
    pipeline: Pipeline, model: FusedModel, clips: int, frames: int
) -> None:
    crops = make_clips(clips, frames, seed=clips + frames)
    lengths = as_lengths(*(max(1, frames - 5 * i) for i in range(clips)))
    features = Backbone(pipeline.backbone, "cpu").embed(crops.reshape(-1, 32, 32, 3)).reshape(clips, frames, -1)
    head = CalibratedHead(load_head(load_run(pipeline.run)), model.contract.calibration).eval()
    with torch.inference_mode():
        logit, prob, frame_prob = head(torch.from_numpy(features), torch.from_numpy(lengths))
    found = model.run(crops, lengths)
    assert np.abs(logit.numpy()).max() < 8  # a saturated probability would agree with anything
    assert np.allclose(found.prob, prob.numpy(), atol=MOST_PROB_ERROR)
    assert np.allclose(found.frame_prob, frame_prob.numpy(), atol=MOST_PROB_ERROR)


def test_a_clip_does_not_depend_on_its_batch_mates_or_padding(model: FusedModel) -> None:
    crops = make_clips(5, 12)
    lengths = as_lengths(12, 7, 1, 4, 9)
    together = model.run(crops, lengths)
    for i, length in enumerate(lengths):
        alone = model.run(crops[i : i + 1, :length], as_lengths(length))
        assert alone.prob[0] == pytest.approx(together.prob[i], abs=1e-5)
        assert np.allclose(alone.frame_prob[0], together.frame_prob[i, :length], atol=1e-5)
    noise = crops.copy()
    noise[1, 7:] = 255 - noise[1, 7:]
    assert model.run(noise, lengths).prob[1] == pytest.approx(together.prob[1], abs=1e-5)


def test_the_order_of_frames_matters(model: FusedModel) -> None:
    crops = make_clips(1, 16)
    forward, backward = (model.run(c, as_lengths(16)).logit[0] for c in (crops, crops[:, ::-1].copy()))
    assert abs(forward - backward) > 1e-4


def test_frames_past_the_end_have_no_probability(model: FusedModel) -> None:
    found = model.run(make_clips(2, 6), as_lengths(6, 2))
    assert (found.frame_prob[1, 2:] == -1).all()
    assert (found.frame_prob[0] > 0).all()


def test_the_backbone_goes_in_bit_by_bit(pipeline: Pipeline) -> None:
    def read_weights(path: Path) -> dict[str, bytes]:
        graph = onnx.load(str(path)).graph
        return {t.name: numpy_helper.to_array(t).tobytes() for t in graph.initializer}

    fused = read_weights(pipeline.model / SCORER)
    for name, content in read_weights(pipeline.backbone).items():
        assert fused[f"backbone/{name}"] == content


def test_the_file_is_one_file_of_standard_operators_without_sequence_lens(pipeline: Pipeline) -> None:
    graph = onnx.load(str(pipeline.model / SCORER), load_external_data=False)
    assert {node.domain for node in graph.graph.node} == {""}
    assert not graph.functions
    # Some runtimes ignore the LSTM's fifth input, sequence_lens, in silence.
    assert all(len(node.input) < 5 or not node.input[4] for node in graph.graph.node if node.op_type == "LSTM")


@pytest.mark.parametrize(
    ("crops", "lengths", "message"),
    [
        (np.zeros((0, 4, 32, 32, 3), np.uint8), as_lengths(), "an empty batch cannot be scored"),
        (np.zeros((2, 0, 32, 32, 3), np.uint8), as_lengths(0, 0), "an empty batch cannot be scored"),
        (np.zeros((2, 4, 32, 32, 3), np.uint8), as_lengths(4, 0), "lengths go from 0 to 4, expected 1 to 4"),
        (np.zeros((2, 4, 32, 32, 3), np.uint8), as_lengths(5, 1), "lengths go from 1 to 5, expected 1 to 4"),
        (np.zeros((2, 4, 32, 32, 3), np.uint8), as_lengths(4), r"lengths are int64 \(1,\)"),
        (np.zeros((2, 4, 32, 32, 3), np.uint8), np.array([4, 4], np.int32), "lengths are int32"),
        (np.zeros((2, 4, 32, 32, 3), np.float32), as_lengths(4, 4), "crops are float32"),
        (np.zeros((2, 4, 40, 40, 3), np.uint8), as_lengths(4, 4), "expected uint8"),
        (np.zeros((4, 32, 32, 3), np.uint8), as_lengths(4), "expected uint8"),
    ],
)
def test_input_that_kills_or_fools_the_runtime_never_reaches_it(
    model: FusedModel, crops: NDArray[np.uint8], lengths: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(UnmaskError, match=message):
        model.run(crops, lengths)
    with pytest.raises(UnmaskError, match=message):
        require_batch(crops, lengths, 32)


def test_the_certificate_says_what_was_compared(pipeline: Pipeline) -> None:
    certificate = json.loads((pipeline.model / CERTIFICATE).read_text())
    checks = {check["name"]: check for check in certificate["checks"]}
    assert [check["status"] for check in checks.values()] == ["passed"] * 5
    assert {"head.onnx alone", "head_stream.onnx, each step"} <= checks.keys()
    assert checks["synthetic crops"]["prob_error"] <= MOST_PROB_ERROR
    assert checks["crops of the cache"]["frames"] == checks["features of the cache"]["frames"] == 64
    assert certificate["files"][SCORER]["sha256"] == hash_file(pipeline.model / SCORER)


def test_checks_without_their_cache_are_not_measured(pipeline: Pipeline, model: FusedModel, tmp_path: Path) -> None:
    reference = Reference(Backbone(pipeline.backbone, "cpu"), load_head(load_run(pipeline.run)), model)
    statuses = [check.status for check in check_parity(reference, tmp_path / "gone.h5")]
    assert statuses == ["passed", "not measured", "not measured"]


def test_an_export_that_computes_something_else_fails(pipeline: Pipeline, model: FusedModel) -> None:
    head = load_head(load_run(pipeline.run))
    with torch.no_grad():
        head.classify.bias.add_(0.01)
    with pytest.raises(UnmaskError, match="do not compute what backbone file and torch head compute"):
        require_passed(check_parity(Reference(Backbone(pipeline.backbone, "cpu"), head, model), None))


def test_another_backbone_is_refused_naming_what_differs(pipeline: Pipeline, tmp_path: Path) -> None:
    other = make_tiny_backbone(tmp_path, seed=1)
    with pytest.raises(MismatchError, match=r"is not the backbone of .* \(.*weights_sha256: found"):
        export_run(pipeline.run, other, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_made(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file is no folder that this user may write to; choose another --out"):
        export_run(pipeline.run, pipeline.backbone, tmp_path / "file/model")


def test_operators_that_other_runtimes_lack_are_refused(pipeline: Pipeline, model: FusedModel) -> None:
    backbone = load_model(pipeline.backbone)
    next(node for node in backbone.graph.node if node.op_type == "Relu").domain = "com.microsoft"
    with pytest.raises(FormatError, match=r"operators that other runtimes lack \(com\.microsoft\.Relu\)"):
        fuse(backbone, load_model(pipeline.model / HEAD), model.contract)


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_backbone_that_is_no_model_is_refused(pipeline: Pipeline, tmp_path: Path, content: bytes) -> None:
    whole = pipeline.backbone.read_bytes()
    (tmp_path / "b.onnx").write_bytes(content or whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"b\.onnx is not an ONNX model"):
        export_run(pipeline.run, tmp_path / "b.onnx", tmp_path / "model")


def test_an_existing_folder_is_replaced_only_if_asked_and_ours(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(UsageError, match="is no model folder"):
        export_run(pipeline.run, pipeline.backbone, tmp_path / "mine", ExportRequest(overwrite=True))
    with pytest.raises(UsageError, match="holds a model already"):
        export_run(pipeline.run, pipeline.backbone, pipeline.model)
    export_run(pipeline.run, pipeline.backbone, tmp_path / "model")
    before = hash_file(tmp_path / "model" / SCORER)
    export_run(pipeline.run, pipeline.backbone, tmp_path / "model", ExportRequest(overwrite=True))
    assert hash_file(tmp_path / "model" / SCORER) == before


@pytest.fixture
def copy(pipeline: Pipeline, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline.model, tmp_path / "model"))


def test_a_changed_scorer_is_refused(copy: Path) -> None:
    content = bytearray((copy / SCORER).read_bytes())
    content[-1] ^= 1
    (copy / SCORER).write_bytes(content)
    with pytest.raises(MismatchError, match=r"was changed after export"):
        open_model_folder(copy)


def test_folders_that_are_no_model_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        open_model_folder(tmp_path / "none")
    (copy / CERTIFICATE).write_text("{}")
    with pytest.raises(FormatError, match=r"has the format None, expected .unmask-certificate/3"):
        open_model_folder(copy)
    (copy / CERTIFICATE).write_text("{")
    with pytest.raises(FormatError, match=r"certificate\.json is damaged"):
        open_model_folder(copy)
    (copy / CERTIFICATE).unlink()
    with pytest.raises(FormatError, match=r"has no certificate.json"):
        open_model_folder(copy)


def test_a_model_without_contract_or_with_an_older_one_is_refused(pipeline: Pipeline, copy: Path) -> None:
    with pytest.raises(FormatError, match="carries no contract"):
        FusedModel(pipeline.backbone, "cpu")
    model = onnx.load(str(copy / SCORER))
    for entry in model.metadata_props:
        if entry.key == KEY:
            entry.value = entry.value.replace("unmask-contract/4", "unmask-contract/0")
    onnx.save(model, str(copy / SCORER))
    with pytest.raises(FormatError, match=r"'unmask-contract/0', expected 'unmask-contract/4'"):
        FusedModel(copy / SCORER, "cpu")


def test_an_unknown_preset_is_refused_with_those_there_are(model: FusedModel) -> None:
    with pytest.raises(FormatError, match="no preset 'cheap'; it has balanced, newsroom, security"):
        model.contract.choose_threshold("cheap")


def test_a_detector_file_the_contract_names_must_be_there(pipeline: Pipeline) -> None:
    from export.bundle import require_detector

    folder = open_model_folder(pipeline.model)
    spec = load_run(pipeline.run).document.fingerprint.detector
    named = spec.model_copy(update={"sha256": "1" * 64})
    with pytest.raises(FormatError, match=r"has no detector.onnx"):
        require_detector(replace(folder, detector=None), named)
