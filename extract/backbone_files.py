"""Makes backbone files: frozen torch networks exported, or a user's own ONNX model wrapped, into one signature."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import compose

from extract.backbones import FORMAT, KEY, MEANINGS, Backbone, measure_feature_error
from extract.calibration import read_calibration
from extract.errors import FormatError, UnmaskError, UsageError
from extract.files import hash_file
from extract.networks import IMAGENET_MEAN, IMAGENET_STD, Network, embed_eagerly, load_network
from extract.onnx_files import OPSET, accept_pixels, align_versions, load_model, name_output, save_model
from extract.precision import MadeBackbone, halve_backbone, quantise_backbone
from extract.session import open_session
from extract.specs import BackboneSpec, Precision
from extract.synthetic import make_crops

if TYPE_CHECKING:
    from onnx.onnx_pb import ModelProto
    from torch import Tensor, nn

MOST_FEATURE = float(np.finfo(np.float16).max)
MOST_WEIGHT_BYTES = 2_000_000_000  # an ONNX file in one piece ends at 2 GiB
MOST_FEATURE_ERROR = 1e-2  # of a feature's own deviation; fp32 rounding through 50 layers stays far below


@dataclass(frozen=True)
class _Draft:
    """A model of pictures (pixel / 255 - mean) / std, before the normalisation is put in."""

    model: ModelProto
    picture: str  # the name of its input
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Source:
    """What a backbone file is made of: a network by name with weights, an ONNX file, or an fp32 backbone file."""

    name: str
    weights: str = "imagenet"
    mean: tuple[float, float, float] | None = None  # of an ONNX file's pictures; ImageNet's unless told
    std: tuple[float, float, float] | None = None
    crop_px: int | None = None


@dataclass(frozen=True)
class Calibrate:
    """What 8 bits are calibrated on: a feature cache, or a manifest and the detector that finds its faces."""

    path: Path
    detector: str = "retinaface"


def build_backbone(
    source: Source, out: Path, precision: Precision = "fp32", calibrate: Calibrate | None = None
) -> MadeBackbone:
    """Makes a backbone file of any source in any precision; its fp32 parent is made first where there is none."""
    if (precision == "int8") != (calibrate is not None):
        raise UsageError(
            "--precision int8 needs --calibrate with real crops: a features.h5 or a videos.csv"
            if calibrate is None
            else f"--precision {precision} is not calibrated; leave --calibrate out, or say --precision int8"
        )
    if precision == "fp32":
        return MadeBackbone(_build_parent(source, out))
    path = Path(source.name)
    if path.suffix == ".onnx" and _is_backbone(load_model(path)):
        if (source.mean, source.std, source.crop_px) != (None, None, None):
            raise UsageError(f"{path} is a backbone file already, with its mean, std and crop size; leave them out")
        return _convert(path, out, calibrate)
    with TemporaryDirectory() as folder:
        parent = Path(folder) / "backbone.onnx"
        _build_parent(source, parent)
        return _convert(parent, out, calibrate)


def _convert(parent: Path, out: Path, calibrate: Calibrate | None) -> MadeBackbone:
    if calibrate is None:
        return halve_backbone(parent, out)
    spec = Backbone(parent, "cpu").spec
    return quantise_backbone(parent, out, read_calibration(calibrate.path, spec, calibrate.detector))


def _build_parent(source: Source, out: Path) -> BackboneSpec:
    if not source.name.endswith(".onnx"):
        if (source.mean, source.std, source.crop_px) != (None, None, None):
            raise UsageError(f"{source.name} knows its mean, std and crop size, which an ONNX file has to be told")
        return make_backbone(source.name, source.weights, out)
    return wrap_backbone(
        Path(source.name), out, source.mean or IMAGENET_MEAN, source.std or IMAGENET_STD, source.crop_px
    )


def _is_backbone(model: ModelProto) -> bool:
    return any(entry.key == KEY for entry in model.metadata_props)


def make_backbone(name: str, weights: str, out: Path) -> BackboneSpec:
    """Exports a network that `load_network` knows by its name and weights.

    The file is written only if ONNX Runtime gives torch's features.
    """
    network = load_network(name, weights)
    crops = make_crops(8, network.crop_px, seed=0)
    expected = _require_storable(embed_eagerly(network, crops), name)
    description = {
        "name": network.name,
        "weights": network.weights,
        "weights_sha256": _hash_state(network.module),
        "trained": network.trained,
    }
    draft = _Draft(_export_network(network), "picture", network.mean, network.std)
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
    pictures = np.asarray(scaled.transpose(0, 3, 1, 2), np.float32)
    expected = _require_storable(_run_foreign(path, picture, pictures), path.name)
    digest = hash_file(path)
    description = {"name": path.stem, "weights": f"file:{path.name}", "weights_sha256": digest, "trained": True}
    draft = _Draft(align_versions(model), picture, mean, std)
    return _write_checked(draft, out, description, crops, expected)


def _hash_state(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _export_network(network: Network) -> ModelProto:
    """ONNX of a network: `picture` float (N, 3, S, S) -> one output."""
    import torch

    size = sum(tensor.nbytes for tensor in network.module.state_dict().values())
    if size > MOST_WEIGHT_BYTES:
        raise UnmaskError(
            f"{network.name} has {size / 1e9:.1f} GB of weights, more than one ONNX file holds "
            f"({MOST_WEIGHT_BYTES / 1e9:.1f} GB); take a smaller network"
        )
    example = torch.zeros(2, 3, network.crop_px, network.crop_px)
    try:
        return export_module(network.module, (example,), ["picture"], ["embedding"], ({0: "N"},))
    except Exception as error:  # torch.onnx, onnxscript and onnx each have their own errors
        text = " ".join(str(error).split())
        raise UnmaskError(
            f"{network.name} cannot be exported to ONNX by this version of torch ({text[:200]}); take another network, "
            "or export it yourself and give the ONNX file"
        ) from error


def export_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic: tuple[dict[int, str] | tuple[dict[int, str], ...], ...],
) -> ModelProto:
    """torch.onnx's export of a module, quietly; `dynamic` names the open axes of each input, a tuple those of *args."""
    import torch

    from extract.onnx_cells import replace_cells

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            replace_cells(module),
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
    for row in rows[:1]:
        if row.ndim < 2 or row.size != row.shape[1]:
            raise FormatError(f"{path} gives {row.shape} for one picture; a backbone gives one vector (1, D)")
    return np.concatenate(rows).astype(np.float32).reshape(len(rows), -1)


def _require_storable(features: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Refuses features that a cache would store as infinite or as no number."""
    largest = np.abs(features).max()
    if not largest <= MOST_FEATURE:
        raise UnmaskError(
            f"{name} gives features of {largest:.3g}; a cache keeps them in half precision, "
            f"{MOST_FEATURE:.0f} at most; nothing was written, take other weights"
        )
    return features


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
        save_model(model, trial, KEY, document, MEANINGS)
        backbone = Backbone(trial, "cpu")
        alone = np.concatenate([backbone.embed(crop[None]) for crop in crops])
        errors = [measure_feature_error(found, expected) for found in (backbone.embed(crops), alone)]
        error = float(np.max(errors))  # which keeps a NaN
    if not error <= MOST_FEATURE_ERROR:
        raise UnmaskError(
            f"the backbone file differs from its source by {error:.2g} deviations of a feature, "
            f"at most {MOST_FEATURE_ERROR} is accepted; nothing was written"
        )
    parity = {"crops": len(crops), "most_deviations": error}
    save_model(model, out, KEY, {**document, "parity": parity}, MEANINGS)
    return Backbone(out, "cpu").spec
