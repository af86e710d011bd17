"""8-bit backbones: what stays as it was, what they are calibrated on, how far the features move, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from extract import precision
from extract.backbone_files import Calibrate, Source, build_backbone
from extract.backbones import KEY, Backbone, measure_typical_error
from extract.calibration import FEWEST, CalibrationCrops, read_calibration
from extract.cli import backbone_command
from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from extract.files import hash_file
from extract.manifest import write_manifest
from extract.precision import halve_backbone, quantise_backbone
from extract.quantise import KEPT
from extract.session import open_session
from extract.specs import Precision
from extract.synthetic import make_crops
from tests.conftest import Pipeline
from tests.fakes import write_deep_network
from tests.media import write_video


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of ten convolutions in single precision."""
    folder = tmp_path_factory.mktemp("parent")
    source = Source(str(write_deep_network(folder / "deep.onnx", convolutions=10)))
    build_backbone(source, folder / "parent.onnx")
    return folder / "parent.onnx"


@pytest.fixture(scope="module")
def crops() -> CalibrationCrops:
    """Synthetic crops, as good as faces to a network of random weights."""
    return CalibrationCrops(make_crops(48, 32, seed=1), "features.h5", 12)


@pytest.fixture(scope="module")
def small(parent: Path, crops: CalibrationCrops) -> Path:
    """The same in 8 bits."""
    out = parent.with_name("int8.onnx")
    quantise_backbone(parent, out, crops)
    return out


def test_8_bits_give_nearly_the_features_of_the_parent(parent: Path, small: Path) -> None:
    crops = make_crops(40, 32, seed=9)
    found, expected = Backbone(small, "cpu").embed(crops), Backbone(parent, "cpu").embed(crops)
    assert found.dtype == np.float32
    assert 0 < measure_typical_error(found, expected) < 0.2
    assert max(len(np.unique(column)) for column in found.T) > 30  # eight bits inside, but not of a feature


def test_inputs_outputs_and_operators_are_those_of_any_backbone(parent: Path, small: Path) -> None:
    before, after = open_session(parent, "cpu"), open_session(small, "cpu")
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    model = onnx.load(str(small))
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]


def test_weights_are_signed_by_channel_and_activations_unsigned(small: Path) -> None:
    graph = onnx.load(str(small)).graph
    constants = {constant.name: constant for constant in graph.initializer}
    weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    kernels = [n for n in weights if constants[n.input[0]].data_type == TensorProto.INT8]
    assert len(kernels) == 10 - KEPT
    assert all(len(constants[n.input[1]].dims) == 1 for n in kernels)  # a scale for each channel
    quantised = [n for n in graph.node if n.op_type == "QuantizeLinear"]
    assert quantised
    assert {constants[n.input[2]].data_type for n in quantised} == {TensorProto.UINT8}


def test_the_first_layers_and_the_normalisation_stay_in_single_precision(parent: Path, small: Path) -> None:
    constants = {c.name: c for c in onnx.load(str(small)).graph.initializer}
    before = {c.name: c for c in onnx.load(str(parent)).graph.initializer}
    kept = [name for name in before if name in constants and constants[name].data_type == TensorProto.FLOAT]
    assert sum(name.startswith("net/kernel") for name in kept) == KEPT
    assert {name for name in before if name.startswith("pixels/")} <= set(kept)


def test_a_file_in_8_bits_names_its_parent_and_its_calibration(parent: Path, small: Path) -> None:
    spec, session = Backbone(small, "cpu").spec, open_session(small, "cpu")
    assert (spec.precision, spec.parent) == ("int8", hash_file(parent))
    assert session.read_document(KEY)["calibration"] == {"source": "features.h5", "crops": 48, "videos": 12}


def test_the_same_crops_give_the_same_bytes(parent: Path, small: Path, crops: CalibrationCrops, tmp_path: Path) -> None:
    quantise_backbone(parent, tmp_path / "again.onnx", crops)
    assert (tmp_path / "again.onnx").read_bytes() == small.read_bytes()


def test_the_command_calibrates_on_the_samples_of_a_cache(pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    arguments = [str(pipeline.backbone), "--precision", "int8", "--calibrate", str(pipeline.cache), "--out", str(out)]
    done = CliRunner().invoke(backbone_command, [*arguments, "--json"], catch_exceptions=False)
    document = json.loads(done.stdout)
    assert document["precision"] == "int8"
    assert document["crops"] == 16  # of 64, one of four
    assert out.is_file()


def test_crops_of_videos_are_cut_with_a_detector_and_never_of_test_videos(pipeline: Pipeline) -> None:
    spec = Backbone(pipeline.backbone, "cpu").spec
    found = read_calibration(pipeline.manifest, spec, "mtcnn")
    usable = [video for video in pipeline.videos if video.split != "test"]
    assert found.crops.shape[1:] == (32, 32, 3)
    assert 1 <= found.videos <= len(usable)
    assert len(found.crops) <= 4 * found.videos


def test_videos_that_show_no_face_calibrate_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    spec = Backbone(pipeline.backbone, "cpu").spec
    path = write_video(tmp_path / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 8)
    write_manifest(tmp_path / "videos.csv", [replace(pipeline.videos[0], id=path.name, path=path)])
    with pytest.raises(UnmaskError, match="shows a face to calibrate on"):
        read_calibration(tmp_path / "videos.csv", spec, "mtcnn")


def test_a_manifest_of_test_videos_alone_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    write_manifest(tmp_path / "videos.csv", [video for video in pipeline.videos if video.split == "test"])
    with pytest.raises(UnmaskError, match="every video of the manifest is a test video"):
        read_calibration(tmp_path / "videos.csv", Backbone(pipeline.backbone, "cpu").spec, "mtcnn")


def test_a_calibration_file_that_is_not_there_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_calibration(tmp_path / "none.h5", Backbone(pipeline.backbone, "cpu").spec)


def test_crops_of_another_size_and_too_few_are_refused(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="holds crops of 48 pixels, but deep takes 32"):
        quantise_backbone(parent, tmp_path / "o.onnx", CalibrationCrops(make_crops(20, 48, 0), "f.h5", 5))
    with pytest.raises(UnmaskError, match=f"gives {FEWEST - 1} crops, and 8 bits are calibrated on {FEWEST}"):
        quantise_backbone(parent, tmp_path / "o.onnx", CalibrationCrops(make_crops(FEWEST - 1, 32, 0), "f.h5", 5))
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("kind", "calibrate", "message"),
    [
        ("int8", None, "int8 needs --calibrate"),
        ("fp16", Calibrate(Path("f.h5")), "fp16 is not calibrated"),
        ("fp32", Calibrate(Path("f.h5")), "fp32 is not calibrated"),
    ],
)
def test_calibration_goes_with_8_bits_alone(
    parent: Path, tmp_path: Path, kind: Precision, calibrate: Calibrate | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone(Source(str(parent)), tmp_path / "o.onnx", kind, calibrate)


def test_a_file_that_is_converted_already_is_refused(
    parent: Path, small: Path, crops: CalibrationCrops, tmp_path: Path
) -> None:
    halve_backbone(parent, tmp_path / "half.onnx")
    for path, kind in ((small, "int8"), (tmp_path / "half.onnx", "fp16")):
        with pytest.raises(UsageError, match=f"is {kind} already"):
            quantise_backbone(path, tmp_path / "o.onnx", crops)


def test_features_that_move_too_far_are_refused(
    parent: Path, crops: CalibrationCrops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(precision.MOST_TYPICAL_ERROR, "int8", 1e-6)
    with pytest.raises(UnmaskError, match="deep in 8-bit integers differs by"):
        quantise_backbone(parent, tmp_path / "o.onnx", crops)
    assert not (tmp_path / "o.onnx").exists()


def test_a_converter_that_fails_is_told_in_a_sentence(
    parent: Path, crops: CalibrationCrops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no rule for\nthis operator")

    monkeypatch.setattr(precision, "quantise_network", fail)
    with pytest.raises(FormatError, match=r"deep cannot be had in 8-bit integers .no rule for this operator."):
        quantise_backbone(parent, tmp_path / "o.onnx", crops)
