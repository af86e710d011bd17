"""Half precision: what stays as it was, how far the features move, and files that are not kept."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

from extract import precision
from extract.backbone_files import Source, build_backbone, wrap_backbone
from extract.backbones import Backbone, measure_feature_error
from extract.cli import backbone_command
from extract.errors import DiskError, FormatError, UnmaskError, UsageError
from extract.files import hash_file
from extract.precision import halve_backbone
from extract.session import open_session
from extract.specs import Fingerprint
from extract.synthetic import make_crops
from tests.fakes import make_fingerprint, make_tiny_backbone, write_tiny_network


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny backbone in single precision."""
    return make_tiny_backbone(tmp_path_factory.mktemp("parent"))


@pytest.fixture(scope="module")
def half(parent: Path) -> Path:
    """The same in half precision."""
    out = parent.with_name("half.onnx")
    halve_backbone(parent, out)
    return out


def change_network(folder: Path, change: Callable[[ModelProto], None]) -> Path:
    """A backbone file of the tiny network after `change`."""
    path = write_tiny_network(folder / "changed.onnx")
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    wrap_backbone(path, folder / "parent.onnx")
    return folder / "parent.onnx"


def put_behind_the_picture(*nodes: onnx.NodeProto, **constants: float) -> Callable[[ModelProto], None]:
    """A change that lets `nodes` turn `picture` into `changed`, which the convolution then reads."""

    def change(model: ModelProto) -> None:
        model.graph.node[0].input[0] = "changed"
        behind = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *behind])
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(v, np.float32), name) for name, v in constants.items()
        )

    return change


def test_half_precision_gives_nearly_the_features_of_its_parent(parent: Path, half: Path) -> None:
    crops = make_crops(40, 32, seed=3)
    found, expected = Backbone(half, "cpu").embed(crops), Backbone(parent, "cpu").embed(crops)
    assert found.dtype == np.float32
    assert 0 < measure_feature_error(found, expected) < 0.02  # eleven bits, through one convolution


def test_weights_are_halved_and_the_normalisation_is_not(parent: Path, half: Path) -> None:
    constants = {t.name: t for t in onnx.load(str(half)).graph.initializer}
    before = {t.name: t for t in onnx.load(str(parent)).graph.initializer}
    front = {name for name in before if name.startswith("pixels/")}
    assert len(front) == 2
    assert all(constants[name].raw_data == before[name].raw_data for name in front)
    assert constants["net/kernel"].data_type == TensorProto.FLOAT16
    kernel = numpy_helper.to_array(before["net/kernel"]).astype(np.float16)
    assert np.array_equal(numpy_helper.to_array(constants["net/kernel"]), kernel)


def test_inputs_and_outputs_stay_as_they_were(parent: Path, half: Path) -> None:
    before, after = open_session(parent, "cpu"), open_session(half, "cpu")
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


def test_a_half_file_names_its_parent_and_keeps_its_weights(parent: Path, half: Path) -> None:
    before, after = Backbone(parent, "cpu").spec, Backbone(half, "cpu").spec
    assert (after.precision, after.parent) == ("fp16", hash_file(parent))
    kept = {"name", "weights", "weights_sha256", "trained", "dim", "crop_px"}
    assert after.model_dump(include=kept) == before.model_dump(include=kept)


def test_a_half_file_fills_a_cache_of_its_own(parent: Path, half: Path) -> None:
    detector = make_fingerprint().detector
    prints = [Fingerprint(backbone=Backbone(path, "cpu").spec, detector=detector).sha256 for path in (parent, half)]
    assert prints[0] != prints[1]


def test_the_same_parent_gives_the_same_bytes(parent: Path, half: Path, tmp_path: Path) -> None:
    halve_backbone(parent, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == half.read_bytes()


def test_a_source_is_first_made_in_single_precision(tmp_path: Path) -> None:
    source = Source(str(write_tiny_network(tmp_path / "tiny.onnx")), mean=(0.1, 0.2, 0.3))
    parent = build_backbone(source, tmp_path / "parent.onnx")
    made = build_backbone(source, tmp_path / "half.onnx", "fp16")
    assert (made.spec.precision, made.spec.parent) == ("fp16", parent.spec.sha256)
    assert parent.feature_error is None


def test_nodes_that_stay_in_single_precision_are_put_in_order(tmp_path: Path) -> None:
    twice = [helper.make_node("Max", ["picture", name], [f"{name}er"]) for name in ("low", "lower")]
    change = put_behind_the_picture(*twice, helper.make_node("Add", ["lower", "lowerer"], ["changed"]), low=-9)
    del twice[1].input[1:], twice[1].output[:]
    twice[1].input.append("low")
    twice[1].output.append("lowerer")
    halve_backbone(change_network(tmp_path, change), tmp_path / "half.onnx")
    types = [node.op_type for node in onnx.load(str(tmp_path / "half.onnx")).graph.node]
    assert types.count("Max") == 2


def test_the_command_reports_how_far_the_features_are_from_the_parents(parent: Path, tmp_path: Path) -> None:
    arguments = [str(parent), "--precision", "fp16", "--out", str(tmp_path / "half.onnx")]
    done = CliRunner().invoke(backbone_command, [*arguments, "--json"], catch_exceptions=False)
    document = json.loads(done.stdout)
    assert document["precision"] == "fp16"
    assert 0 < document["typical_error"] < document["feature_error"] < 0.02


def test_a_network_whose_values_overflow_is_refused(tmp_path: Path) -> None:
    there = helper.make_node("Mul", ["picture", "factor"], ["large"])
    change = put_behind_the_picture(there, helper.make_node("Div", ["large", "factor"], ["changed"]), factor=6e4)
    with pytest.raises(UnmaskError, match="features that are not finite"):
        halve_backbone(change_network(tmp_path, change), tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_a_network_that_needs_more_bits_is_refused(tmp_path: Path) -> None:
    there, back = (
        helper.make_node(*names)
        for names in (("Add", ["picture", "far"], ["off"]), ("Sub", ["off", "far"], ["changed"]))
    )
    with pytest.raises(UnmaskError, match=r"deviations of a feature at most .*; 3\.0 and 0\.1 are accepted"):
        halve_backbone(change_network(tmp_path, put_behind_the_picture(there, back, far=9000)), tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_a_file_that_ends_the_runtime_is_refused(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(UnmaskError, match=r"ends the process that runs it \(exit status -11\)"):
        halve_backbone(parent, tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_a_file_that_never_answers_is_refused(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "PATIENCE_S", 0.01)
    with pytest.raises(UnmaskError, match="gave no features within"):
        halve_backbone(parent, tmp_path / "half.onnx")


def test_a_full_disk_is_not_blamed_on_the_network(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fill)
    with pytest.raises(DiskError, match=r"no space left on the disk while writing .*half\.onnx"):
        halve_backbone(parent, tmp_path / "half.onnx")
    monkeypatch.setattr(precision, "halve_network", fill)
    with pytest.raises(DiskError, match="no space left on the disk"):
        halve_backbone(parent, tmp_path / "half.onnx")


def test_operators_without_half_precision_are_refused(tmp_path: Path) -> None:
    steps = [
        helper.make_node("QuantizeLinear", ["picture", "scale"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "scale"], ["changed"]),
    ]
    with pytest.raises(FormatError, match=r"changed cannot be had in half precision \(.*\); use it in fp32"):
        halve_backbone(change_network(tmp_path, put_behind_the_picture(*steps, scale=0.02)), tmp_path / "half.onnx")


def test_only_an_fp32_backbone_file_is_converted(parent: Path, half: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is fp16 already; convert the fp32 file"):
        halve_backbone(half, tmp_path / "b.onnx")
    with pytest.raises(UsageError, match="is the fp32 file itself"):
        halve_backbone(parent, parent)
    with pytest.raises(UsageError, match="with its mean, std and crop size; leave them out"):
        build_backbone(Source(str(parent), std=(1, 1, 1)), tmp_path / "b.onnx", "fp16")


def test_a_backbone_file_without_its_normalisation_is_refused(parent: Path, tmp_path: Path) -> None:
    model = onnx.load(str(parent))
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, str(tmp_path / "nameless.onnx"))
    with pytest.raises(FormatError, match="does not begin with the normalisation"):
        halve_backbone(tmp_path / "nameless.onnx", tmp_path / "half.onnx")
