"""Backbone files: what goes in comes out of any source, weights are remembered, and what is refused."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.torch import save_file

from extract.backbone_files import make_backbone, wrap_backbone
from extract.backbones import CUDA_BATCH, Backbone, measure_feature_error, measure_typical_error
from extract.errors import FormatError, MissingPackageError, UnmaskError, UsageError
from extract.networks import embed_eagerly, load_network
from extract.session import CPU, open_session
from extract.synthetic import make_crops
from tests.fakes import make_tiny_backbone, write_tiny_network


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 with the ImageNet weights its package carries."""
    out = tmp_path_factory.mktemp("lite") / "backbone.onnx"
    make_backbone("efficientnet_lite0", "imagenet", out)
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The tiny backbone on the CPU."""
    return Backbone(make_tiny_backbone(tmp_path_factory.mktemp("tiny")), "cpu")


def test_an_exported_network_gives_the_features_of_torch(lite: Path) -> None:
    network = load_network("efficientnet_lite0", "imagenet")
    crops = make_crops(6, 224, seed=5)
    found = Backbone(lite, "cpu").embed(crops)
    assert found.shape == (6, 1280)
    assert measure_feature_error(found, embed_eagerly(network, crops)) < 1e-2


def test_a_feature_is_the_same_to_the_bit_in_every_batch_and_place(lite: Path) -> None:
    crops = make_crops(16, 224, seed=6)
    backbone = Backbone(lite, "cpu")
    alone = np.concatenate([backbone.embed(crop[None]) for crop in crops])
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 8, 13, 16):
        chosen = rng.permutation(16)[:count]
        assert np.array_equal(backbone.embed(crops[chosen]), alone[chosen])


@given(count=st.integers(0, 40))
def test_any_number_of_crops_is_embedded(tiny: Backbone, count: int) -> None:
    crops = make_crops(40, 32, seed=0)
    found = tiny.embed(crops[:count])
    assert found.shape == (count, 8)
    assert np.array_equal(found, tiny.embed(crops)[:count])


def test_a_batch_is_as_large_as_suits_the_device(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def run(feeds: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        sizes.append(len(feeds["crops"]))
        return {"features": np.zeros((sizes[-1], 8), np.float32)}

    monkeypatch.setattr(tiny._session, "run", run)
    tiny.embed(make_crops(40, 32, seed=0))
    monkeypatch.setattr(tiny, "batch", CUDA_BATCH)
    tiny.embed(make_crops(70, 32, seed=0))
    assert (tiny.provider, sizes) == (CPU, [16, 16, 8, 64, 6])


def test_a_file_says_what_it_is(lite: Path) -> None:
    spec = Backbone(lite, "cpu").spec
    assert (spec.name, spec.weights, spec.dim, spec.crop_px) == ("efficientnet_lite0", "imagenet", 1280, 224)
    assert spec.trained


def test_a_file_is_one_file_of_standard_operators(lite: Path) -> None:
    model = onnx.load(str(lite), load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert not any(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer)


def test_a_file_tells_nothing_of_the_machine_it_was_made_on(lite: Path) -> None:
    content = lite.read_bytes()
    assert b"site-packages" not in content
    assert str(Path.home()).encode() not in content


def test_random_weights_are_repeatable_and_remembered_as_untrained() -> None:
    crops = make_crops(1, 224, seed=0)
    networks = [load_network("efficientnet_lite0", f"random:{seed}") for seed in (3, 3, 4)]
    features = [embed_eagerly(network, crops) for network in networks]
    assert np.array_equal(features[0], features[1])
    assert not np.array_equal(features[0], features[2])
    assert [(network.weights, network.trained) for network in networks[1:]] == [
        ("random:3", False),
        ("random:4", False),
    ]


def test_resnext_is_built_from_a_state_file_without_its_classifier(tmp_path: Path) -> None:
    from torchvision.models import resnext50_32x4d

    whole = resnext50_32x4d()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    save_file({k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")}, tmp_path / "w.safetensors")
    networks = [load_network("resnext50_32x4d", str(tmp_path / n)) for n in ("weights.pth", "w.safetensors")]
    crops = make_crops(1, 224, seed=0)
    features = [embed_eagerly(network, crops) for network in networks]
    assert features[0].shape == (1, 2048)
    assert np.array_equal(features[0], features[1])
    assert all(network.trained for network in networks)


def test_weights_that_cannot_be_downloaded_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(MissingPackageError, match=r"no route to host.*--weights FILE"):
        load_network("resnext50_32x4d", "imagenet")


def test_a_foreign_model_is_wrapped_with_its_normalisation(tmp_path: Path) -> None:
    source = write_tiny_network(tmp_path / "tiny.onnx")
    wrap_backbone(source, tmp_path / "backbone.onnx", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    crops = make_crops(5, 32, seed=1)
    pictures = (crops / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    expected = open_session(source, "cpu").run({"picture": pictures.transpose(0, 3, 1, 2).astype(np.float32)})
    found = Backbone(tmp_path / "backbone.onnx", "cpu").embed(crops)
    assert np.allclose(found, expected["features"].reshape(5, -1), atol=1e-5)  # two orders of fp32 rounding


def test_a_foreign_model_keeps_its_weights_bit_by_bit(tmp_path: Path) -> None:
    source = onnx.load(str(write_tiny_network(tmp_path / "tiny.onnx")))
    wrap_backbone(tmp_path / "tiny.onnx", tmp_path / "backbone.onnx")
    wrapped = onnx.load(str(tmp_path / "backbone.onnx"))
    kept = {t.raw_data for t in wrapped.graph.initializer}
    assert all(t.raw_data in kept for t in source.graph.initializer)


def test_an_open_picture_size_must_be_named(tmp_path: Path) -> None:
    write_tiny_network(tmp_path / "tiny.onnx", crop_px="S")
    with pytest.raises(UsageError, match="--crop-px"):
        wrap_backbone(tmp_path / "tiny.onnx", tmp_path / "b.onnx")
    assert wrap_backbone(tmp_path / "tiny.onnx", tmp_path / "b.onnx", crop_px=48).crop_px == 48


def test_foreign_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_tiny_network(tmp_path / "fixed.onnx", batch=1)
    with pytest.raises(FormatError, match="batches of 1 only"):
        wrap_backbone(tmp_path / "fixed.onnx", tmp_path / "b.onnx")
    info = helper.make_tensor_value_info
    flat = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [info("x", 1, ["N", 7])], [info("y", 1, ["N", 7])]
    )
    model = helper.make_model(flat, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "f.onnx"))
    with pytest.raises(FormatError, match=r"inputs x \['N', 7\].*a backbone takes one float picture"):
        wrap_backbone(tmp_path / "f.onnx", tmp_path / "b.onnx")
    backbone = make_tiny_backbone(tmp_path)
    with pytest.raises(UsageError, match="is a backbone file already"):
        wrap_backbone(backbone, tmp_path / "b.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(FormatError, match="not a valid ONNX model"):
        wrap_backbone(tmp_path / "text.onnx", tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_files_and_crops_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is no backbone file; wrap"):
        Backbone(write_tiny_network(tmp_path / "tiny.onnx"), "cpu")
    backbone = Backbone(make_tiny_backbone(tmp_path), "cpu")
    with pytest.raises(UnmaskError, match=r"expects uint8 \(32, 32, 3\)"):
        backbone.embed(np.zeros((2, 40, 40, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet9", "imagenet", "no network is called 'resnet9'"),
        ("resnext50_32x4d", "random:x", "write random:SEED"),
        ("efficientnet_lite0", "/no/such/file.pth", "no such weights"),
    ],
)
def test_unknown_names_and_weights_are_misuse(name: str, weights: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_network(name, weights)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(FormatError, match="does not hold this network's weights"):
        load_network("efficientnet_lite0", str(tmp_path / "w.pth"))


def test_feature_error_is_measured_in_deviations() -> None:
    rng = np.random.default_rng(0)
    expected = (rng.normal(size=(50, 4)) * [1, 10, 100, 0]).astype(np.float32)
    found = expected.copy()
    found[7, 1] += 0.5
    assert measure_feature_error(found, expected) == pytest.approx(0.5 / expected[:, 1].std(), rel=1e-3)
    assert measure_feature_error(expected, expected) == 0


def test_the_typical_error_is_not_decided_by_one_feature() -> None:
    expected = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    deviation = expected.std(axis=0)
    assert measure_typical_error(expected + 0.1 * deviation, expected) == pytest.approx(0.1, rel=1e-3)
    found = expected.copy()
    found[7, 1] += 2 * deviation[1]
    assert measure_typical_error(found, expected) == pytest.approx(2 / np.sqrt(50 * 40), rel=1e-3)
