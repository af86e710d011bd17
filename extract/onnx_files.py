"""ONNX files of ours: one file, standard operators, versions that today's runtimes read, one JSON document inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.onnx_pb import ModelProto

from extract.errors import FormatError, UsageError
from extract.files import write_aside

OPSET = 18
IR_VERSION = 10
STANDARD = ("", "ai.onnx")  # the domains of ONNX's own operators
FRONT = "pixels/"  # begins the names of the normalisation that `accept_pixels` puts in front


def load_model(path: Path) -> ModelProto:
    """Reads and checks an ONNX file, with its external data if it has some."""
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the file system each have their own errors
        text = " ".join(str(error).split())
        raise FormatError(f"{path} is not a valid ONNX model: {text[:200]}") from error
    return model


def align_versions(model: ModelProto, opset: int = OPSET) -> ModelProto:
    """Brings a model to at least `opset`, its imports listed once, and to one IR version."""
    own = max(entry.version for entry in model.opset_import if entry.domain in STANDARD)
    if own < opset:
        model = version_converter.convert_version(model, opset)
        own = opset
    others = {entry.domain: entry.version for entry in model.opset_import if entry.domain not in STANDARD}
    used = {node.domain for node in model.graph.node}
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", own))
    model.opset_import.extend(helper.make_opsetid(d, v) for d, v in sorted(others.items()) if d in used)
    model.ir_version = IR_VERSION
    return model


def require_standard(model: ModelProto, remedy: str) -> None:
    """Refuses operators that are not of ONNX itself, which other runtimes lack."""
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in STANDARD})
    if foreign:
        raise FormatError(f"found operators that other runtimes lack ({', '.join(foreign)}); {remedy}")


def save_model(
    model: ModelProto, path: Path, key: str, document: dict[str, Any], meanings: Mapping[str, str] | None = None
) -> None:
    """Checks a model and writes it as one file with `document` in its metadata; the same model, the same bytes.

    `meanings` says of inputs and outputs what they are.
    """
    drop_traces(model)
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = (meanings or {}).get(value.name, "")
    helper.set_model_props(model, {key: json.dumps(document, sort_keys=True, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    with write_aside(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def drop_traces(model: ModelProto) -> None:
    """Removes what exporters note of the machine they ran on: stack traces, paths, comments."""
    model.doc_string = model.graph.doc_string = ""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:]


def name_nodes(model: ModelProto) -> ModelProto:
    """Gives every node behind the normalisation a name of its own, by which it can be left out of a conversion."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name if node.name.startswith(FRONT) else f"{node.op_type}/{number}"
    return model


def accept_pixels(
    model: ModelProto, input_name: str, size_px: int, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Puts the normalisation in front: `crops` uint8 (N, S, S, 3) RGB instead of float (N, 3, S, S).

    The float input was (pixel / 255 - mean) / std, per channel.
    """
    graph = model.graph
    constants = {
        "pixels/mean": np.array(mean, np.float32).reshape(1, 1, 1, 3) * 255,
        "pixels/std": np.array(std, np.float32).reshape(1, 1, 1, 3) * 255,
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    steps = [
        helper.make_node("Cast", ["crops"], ["pixels/float"], "pixels/cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels/float", "pixels/mean"], ["pixels/centred"], "pixels/sub"),
        helper.make_node("Div", ["pixels/centred", "pixels/std"], ["pixels/scaled"], "pixels/div"),
        helper.make_node("Transpose", ["pixels/scaled"], [input_name], "pixels/transpose", perm=[0, 3, 1, 2]),
    ]
    nodes = [*steps, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", size_px, size_px, 3]))


def name_output(model: ModelProto, output_name: str, name: str, dim: int) -> None:
    """Makes the flattened `output_name` the only output, called `name`, float (N, dim)."""
    model.graph.node.append(helper.make_node("Flatten", [output_name], [name], f"{name}/flatten", axis=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", dim]))


def fix_axes(model: ModelProto, sizes: Mapping[str, int], out: Path) -> None:
    """Writes a model whose open axes of these names have one size each; its metadata goes along."""
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed

    for name, size in sizes.items():
        make_dim_param_fixed(model.graph, name, size)
    fix_output_shapes(model)
    out.write_bytes(model.SerializeToString(deterministic=True))
