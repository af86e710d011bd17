"""Networks without their classifier: what their features are, which weights and preprocessing, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from extract import backbone_files
from extract.backbone_files import Source, build_backbone, make_backbone
from extract.backbones import Backbone, measure_feature_error
from extract.errors import FormatError, MissingPackageError, UnmaskError, UsageError
from extract.networks import Network, embed_eagerly, list_networks, load_network
from extract.synthetic import make_crops
from unmask import main

GIANTS = {"regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32"}


class MeanColour(nn.Module):
    """The smallest network there is."""

    def forward(self, picture: Tensor) -> Tensor:
        """The mean of each channel."""
        return picture.mean(dim=(2, 3))


class Unexportable(MeanColour):
    """A network with something in it that ONNX does not have."""

    def forward(self, picture: Tensor) -> Tensor:
        """Its way depends on what it sees."""
        return super().forward(picture) if picture.sum() > 0 else super().forward(-picture)


def answer_with(module: nn.Module) -> Callable[..., Network]:
    network = Network("tiny", module, "random:0", trained=False, crop_px=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5))
    return lambda *_: network


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("efficientnet_lite0", 1280),
        ("mobilenet_v3_small", 1024),
        ("regnet_y_400mf", 440),
        ("shufflenet_v2_x0_5", 1024),
        ("squeezenet1_1", 512),
    ],
)
def test_features_of_random_weights_differ_and_have_a_usable_size(name: str, dim: int) -> None:
    network = load_network(name, "random:0")
    features = embed_eagerly(network, make_crops(2, network.crop_px, seed=1))
    assert features.shape == (2, dim)
    stored = features.astype(np.float16)  # as a cache does
    assert np.isfinite(stored).all()
    assert not np.array_equal(stored[0], stored[1])
    assert (network.weights, network.trained) == ("random:0", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*list_networks()} - GIANTS))
def test_every_network_of_the_list_gives_features(name: str) -> None:
    network = load_network(name, "random:0")
    assert not any(isinstance(part, nn.Linear) and part.out_features == 1000 for part in network.module.modules())
    features = embed_eagerly(network, make_crops(2, network.crop_px, seed=1)).astype(np.float16)
    assert np.isfinite(features).all()
    assert not np.array_equal(features[0], features[1])


@pytest.mark.parametrize(
    ("name", "layer"),
    [("mobilenet_v3_small", "classifier.3"), ("googlenet", "fc"), ("mnasnet0_5", "classifier.1"), ("resnet18", "fc")],
)
def test_features_of_a_state_file_are_what_its_classifier_received(tmp_path: Path, name: str, layer: str) -> None:
    from torchvision.models import get_model

    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}  # as its weights want
    whole = get_model(name, weights=None, **options).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    received: list[Tensor] = []
    whole.get_submodule(layer).register_forward_pre_hook(lambda _, given: received.append(given[0]))
    crops = make_crops(2, 224, seed=0)
    embed_eagerly(Network(name, whole, "", trained=True), crops)
    network = load_network(name, str(tmp_path / "weights.pth"))
    assert np.array_equal(embed_eagerly(network, crops), received[0].numpy())
    assert (network.weights, network.trained) == ("file:weights.pth", True)


def test_the_names_in_the_published_files_of_densenet_are_understood(tmp_path: Path) -> None:
    from torchvision.models import densenet121

    state = densenet121().state_dict()
    older = {key.replace(".norm1", ".norm.1").replace(".conv2", ".conv.2"): value for key, value in state.items()}
    assert older.keys() != state.keys()
    torch.save(older, tmp_path / "old.pth")
    found = load_network("densenet121", str(tmp_path / "old.pth")).module.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.items())


@pytest.mark.parametrize(
    ("weights", "entry"),
    [
        ("imagenet", "imagenet1k_v2"),
        ("imagenet:IMAGENET1K_V1", "imagenet1k_v1"),
        ("imagenet:imagenet1k_v2", "imagenet1k_v2"),
    ],
)
def test_weights_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch, weights: str, entry: str) -> None:
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    fetched: list[str] = []

    def fetch(url: str, **_: Any) -> dict[str, Tensor]:
        fetched.append(url)
        return dict(mobilenet_v2().state_dict())

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    network = load_network("mobilenet_v2", weights)
    assert (network.weights, network.trained) == (entry, True)
    assert fetched == [MobileNet_V2_Weights[entry.upper()].url]


@pytest.mark.parametrize(
    ("name", "file"), [("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth"), ("resnet18", "resnet18-f37072fd.pth")]
)
def test_weights_that_cannot_be_downloaded_name_the_file_to_fetch(
    monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(MissingPackageError, match=rf"{name} .*{file} .*no route to host.*--weights FILE"):
        load_network(name, "imagenet")


def test_preprocessing_is_that_of_the_weights() -> None:
    assert load_network("efficientnet_b1", "random:0").crop_px == 240
    assert load_network("squeezenet1_1", "random:0").crop_px == 224


@pytest.mark.slow
def test_a_published_file_is_known_by_its_name(tmp_path: Path) -> None:
    from torchvision.models import ViT_B_16_Weights, vit_b_16

    name = ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.url.rpartition("/")[2]
    torch.save(vit_b_16(image_size=384).state_dict(), tmp_path / name)
    assert load_network("vit_b_16", str(tmp_path / name)).crop_px == 384


def test_the_normalisation_in_the_file_is_that_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_files, "load_network", answer_with(MeanColour()))
    make_backbone("tiny", "random:0", tmp_path / "b.onnx")
    crops = make_crops(5, 32, seed=0)
    expected = (crops.mean(axis=(1, 2)) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.5]
    assert np.allclose(Backbone(tmp_path / "b.onnx", "cpu").embed(crops), expected, atol=1e-5)  # fp32 rounding


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf", "convnext_tiny", "swin_t")
        ),
    ],
)
def test_an_exported_classifier_gives_the_features_of_torch_in_any_batch(tmp_path: Path, name: str) -> None:
    spec = make_backbone(name, "random:0", tmp_path / "b.onnx")
    backbone = Backbone(tmp_path / "b.onnx", "cpu")
    network = load_network(name, "random:0")
    crops = make_crops(16, spec.crop_px, seed=4)
    together = backbone.embed(crops)
    assert measure_feature_error(together, embed_eagerly(network, crops)) < 1e-2  # what making a file accepts
    alone = np.concatenate([backbone.embed(crop[None]) for crop in crops])
    assert measure_feature_error(alone, together) < 1e-4  # equal to the bit but for swin_t, 2e-6 there
    assert (spec.name, spec.weights, spec.trained) == (name, "random:0", False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnext50", "did you mean resnext50_32x4d"),
        ("vit_b16", "did you mean vit_b_16"),
        ("fcn_resnet50", "no network is called 'fcn_resnet50'"),
        ("r3d_18", "no network is called"),
        ("qqqqqqq", "no network is called 'qqqqqqq'; `unmask backbone --list` prints all names"),
    ],
)
def test_a_network_that_is_none_is_misuse_and_close_names_are_offered(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_network(name, "random:0")


def test_weights_that_a_network_has_not_are_misuse() -> None:
    with pytest.raises(UsageError, match="no weights IMAGENET1K_V3; expected imagenet:IMAGENET1K_V1, imag"):
        load_network("resnet50", "imagenet:IMAGENET1K_V3")


def test_a_state_file_of_another_classifier_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(FormatError, match=r"w\.pth does not hold this network's weights"):
        load_network("squeezenet1_1", str(tmp_path / "w.pth"))
    (tmp_path / "w.pth").write_text("hello")
    with pytest.raises(FormatError, match=r"w\.pth does not hold this network's weights"):
        load_network("squeezenet1_1", str(tmp_path / "w.pth"))


@pytest.mark.parametrize("value", [5.0, float("nan")])
def test_features_that_no_cache_can_keep_are_refused(tmp_path: Path, value: float) -> None:
    state = load_network("squeezenet1_1", "random:0").module.state_dict()
    torch.save({key: tensor * value for key, tensor in state.items()}, tmp_path / "w.pth")
    with pytest.raises(UnmaskError, match=r"features of (\d.*e\+\d+|nan);.* 65504 at most; nothing was written"):
        make_backbone("squeezenet1_1", str(tmp_path / "w.pth"), tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_a_network_that_cannot_be_exported_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_files, "load_network", answer_with(Unexportable()))
    with pytest.raises(UnmaskError, match="tiny cannot be exported to ONNX by this version of torch") as caught:
        make_backbone("tiny", "random:0", tmp_path / "b.onnx")
    assert "\n" not in str(caught.value)


def test_a_network_larger_than_a_file_may_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_files, "MOST_WEIGHT_BYTES", 1_000_000)
    with pytest.raises(UnmaskError, match=r"squeezenet1_1 has 0\.0 GB of weights, more than one ONNX file holds"):
        make_backbone("squeezenet1_1", "random:0", tmp_path / "b.onnx")


def test_preprocessing_cannot_be_told_to_a_network_that_knows_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="squeezenet1_1 knows its mean, std and crop size"):
        build_backbone(Source("squeezenet1_1", "random:0", crop_px=96), tmp_path / "b.onnx")


def test_the_command_lists_names_of_classifiers_only() -> None:
    result = CliRunner().invoke(main, ["backbone", "--list"])
    names = result.stdout.split()
    assert result.exit_code == 0
    assert {"efficientnet_lite0", "resnext50_32x4d", "vit_b_16", "convnext_tiny", "maxvit_t"} <= set(names)
    assert not {"fcn_resnet50", "fasterrcnn_resnet50_fpn", "r3d_18", "raft_large", "quantized_resnet50"} & set(names)
