"""A backbone file in half precision, made from its fp32 parent, kept only if it runs and gives the same features."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from extract.backbones import FORMAT, KEY, Backbone, measure_feature_error, measure_typical_error
from extract.errors import FormatError, UnmaskError, UsageError
from extract.files import write_aside
from extract.onnx_files import load_model, save_model
from extract.specs import BackboneSpec
from extract.synthetic import make_crops

if TYPE_CHECKING:
    from onnx.onnx_pb import GraphProto, ModelProto, NodeProto

FRONT = "pixels/"  # how `accept_pixels` names the nodes and constants of the normalisation
CROPS = 32
# In deviations of a feature. The features of another crop differ by 1.2 typically and 5.8 at most (EfficientNet-Lite0,
# ImageNet weights, these crops); half precision by 0.022 and 1.09, and by 0.003 and 0.08 in ResNeXt-50 of random
# weights. A typical 0.1 is noise of a hundredth of a feature's variance; the largest is of a feature that hardly moves.
MOST_TYPICAL_ERROR = 0.1
MOST_FEATURE_ERROR = 3.0
PATIENCE_S = 600.0
EMBED = """
import sys
from pathlib import Path
import numpy as np
from extract.backbones import Backbone
model, crops, features = map(Path, sys.argv[1:])
np.save(features, Backbone(model, "cpu").embed(np.load(crops)))
"""


@dataclass(frozen=True)
class MadeBackbone:
    """A backbone file as written; where it was converted, how far its features are from its parent's, in deviations."""

    spec: BackboneSpec
    feature_error: float | None = None  # the largest
    typical_error: float | None = None  # the root mean square

    def to_document(self) -> dict[str, Any]:
        """A JSON document: the spec, and the errors of a conversion."""
        errors = {"feature_error": self.feature_error, "typical_error": self.typical_error}
        return self.spec.model_dump(mode="json") | (errors if self.feature_error is not None else {})

    def __str__(self) -> str:
        spec = self.spec
        text = f"{spec.name}, {spec.dim}-d features of {spec.crop_px} px crops, {spec.weights}"
        if self.feature_error is not None:
            text += (
                f", {spec.precision}: {self.typical_error:.2g} deviations of a feature from its fp32 parent typically, "
                f"{self.feature_error:.2g} at most"
            )
        return text if spec.trained else f"{text} (UNTRAINED: random weights, its scores mean nothing)"


def halve_backbone(parent: Path, out: Path) -> MadeBackbone:
    """Writes the fp32 backbone file `parent` with weights and arithmetic in half precision.

    Crops, normalisation and the type of the features stay as they are. The same parent gives the same bytes.
    """
    if out.resolve() == parent.resolve():
        raise UsageError(f"{out} is the fp32 file itself, which exporting needs again; give another --out")
    original = Backbone(parent, "cpu")
    if original.spec.precision != "fp32":
        raise UsageError(f"{parent} is {original.spec.precision} already; convert the fp32 file it was made from")
    described = original.spec.model_dump(mode="json", exclude={"sha256"})
    document = {**described, "format": FORMAT, "precision": "fp16", "parent": original.spec.sha256}
    crops = make_crops(CROPS, original.spec.crop_px, seed=0)
    model = load_model(parent)
    with TemporaryDirectory() as folder:
        trial, rounded = Path(folder) / "backbone.onnx", Path(folder) / "rounded.onnx"
        _write_changed(_halve_network, model, trial, document)
        _write_changed(_round_network, model, rounded, document)
        found = [_embed_apart(trial, crops, original.spec.name), Backbone(rounded, "cpu").embed(crops)]
        largest, typical = _require_close(found, original.embed(crops), original.spec.name)
        with write_aside(out) as temporary:
            shutil.copyfile(trial, temporary)
    return MadeBackbone(Backbone(out, "cpu").spec, largest, typical)


def _write_changed(
    change: Callable[[ModelProto], ModelProto], model: ModelProto, out: Path, document: dict[str, Any]
) -> None:
    try:
        save_model(change(model), out, KEY, document)
    except UnmaskError:
        raise
    except Exception as error:  # the converter, onnx and its checker each have their own errors
        text = " ".join(str(error).split())
        raise FormatError(
            f"{document['name']} cannot be had in half precision ({text[:200]}); use it in fp32"
        ) from error


def _halve_network(model: ModelProto) -> ModelProto:
    """The model with all behind the normalisation in half precision.

    Pixels are normalised in single precision: in half, the means and what is left of a bright pixel would be rounded
    to sixteenths and eighths of a grey level.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = model.graph
    front, behind = _split_nodes(model)
    kept = [constant for constant in graph.initializer if constant.name.startswith(FRONT)]
    shape = graph.input[0].type.tensor_type.shape  # (N, S, S, 3)
    picture = helper.make_tensor_value_info(
        front[-1].output[0], TensorProto.FLOAT, ["N", 3, shape.dim[1].dim_value, shape.dim[2].dim_value]
    )
    weights = [constant for constant in graph.initializer if not constant.name.startswith(FRONT)]
    network = helper.make_graph(behind, graph.name, [picture], graph.output, weights)
    half = convert_float_to_float16(_make_model_like(model, network), keep_io_types=True).graph
    nodes = [*front, *_order_nodes(half.node)]
    whole = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*kept, *half.initializer])
    return _make_model_like(model, whole)


def _round_network(model: ModelProto) -> ModelProto:
    """The network in single precision, its weights and what passes between its nodes rounded to half.

    A CPU has few operators in half precision. ONNX Runtime widens all others and rounds nothing between them, so the
    half file alone would show less error here than on a GPU.
    """
    model = infer_shapes(model)
    graph = model.graph
    floats = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes, behind = _split_nodes(model)
    for node in [nodes.pop(), *behind]:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in floats:
                node.output[index] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    constants = [_round_constant(constant) for constant in graph.initializer]
    return _make_model_like(model, helper.make_graph(nodes, graph.name, graph.input, graph.output, constants))


def _split_nodes(model: ModelProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes of the normalisation, the last of which gives the picture, and those of the network."""
    front = [node for node in model.graph.node if node.name.startswith(FRONT)]
    if not front:
        raise FormatError("the file does not begin with the normalisation of a backbone file; make it again")
    return front, [node for node in model.graph.node if not node.name.startswith(FRONT)]


def _make_model_like(model: ModelProto, graph: GraphProto) -> ModelProto:
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _round_constant(constant: TensorProto) -> TensorProto:
    if constant.data_type != TensorProto.FLOAT or constant.name.startswith(FRONT):
        return constant
    most = float(np.finfo(np.float16).max)
    values = np.clip(numpy_helper.to_array(constant), -most, most)
    return numpy_helper.from_array(values.astype(np.float16).astype(np.float32), constant.name)


def _order_nodes(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Nodes behind those they need, each tensor made once: the converter appends its casts, some of them twice."""
    unique = list({tuple(node.output): node for node in nodes}.values())
    makers = {name: index for index, node in enumerate(unique) for name in node.output if name}
    needs = {index: [makers[name] for name in node.input if name in makers] for index, node in enumerate(unique)}
    return [unique[index] for index in TopologicalSorter(needs).static_order()]


def _embed_apart(path: Path, crops: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """Features of `crops` from a process of its own: a graph may pass every check and still end ONNX Runtime."""
    given, answer = path.with_name("crops.npy"), path.with_name("features.npy")
    np.save(given, crops)
    command = [sys.executable, "-c", EMBED, str(path), str(given), str(answer)]
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            command, cwd=root, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnmaskError(
            f"{name} in half precision gave no features within {PATIENCE_S:.0f} s; nothing was written, use it in fp32"
        ) from error
    if done.returncode != 0:
        words = [f"exit status {done.returncode}", *done.stderr.strip().splitlines()][-1].replace(str(path), "the file")
        raise UnmaskError(
            f"{name} in half precision ends the process that runs it ({words[:300]}); nothing was written, "
            "use it in fp32"
        )
    return np.asarray(np.load(answer), np.float32)


def _require_close(found: list[NDArray[np.float32]], expected: NDArray[np.float32], name: str) -> tuple[float, float]:
    """The largest and the typical error, each of the worse of `found`."""
    if not all(np.isfinite(features).all() for features in found):
        raise UnmaskError(
            f"{name} in half precision gives features that are not finite: values inside it pass 65504; "
            "nothing was written, use it in fp32"
        )
    largest = max(measure_feature_error(features, expected) for features in found)
    typical = max(measure_typical_error(features, expected) for features in found)
    if not (largest <= MOST_FEATURE_ERROR and typical <= MOST_TYPICAL_ERROR):
        raise UnmaskError(
            f"{name} in half precision differs by {largest:.2g} deviations of a feature at most and {typical:.2g} "
            f"typically; {MOST_FEATURE_ERROR} and {MOST_TYPICAL_ERROR} are accepted; nothing was written, "
            "use it in fp32"
        )
    return largest, typical
