"""The graph of a backbone file in half precision: the file that is kept, and one that rounds as a GPU would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from extract.errors import FormatError
from extract.onnx_files import FRONT, name_nodes

if TYPE_CHECKING:
    from onnx.onnx_pb import GraphProto, ModelProto, NodeProto


def halve_network(model: ModelProto, kept: int = 0) -> ModelProto:
    """The model in half precision behind the normalisation and the first `kept` convolutions.

    Pixels are normalised in single precision: in half, the means and what is left of a bright pixel would be rounded
    to sixteenths and eighths of a grey level.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = model.graph
    front, behind = _split_nodes(name_nodes(model))
    exact = [constant for constant in graph.initializer if constant.name.startswith(FRONT)]
    shape = graph.input[0].type.tensor_type.shape  # (N, S, S, 3)
    picture = helper.make_tensor_value_info(
        front[-1].output[0], TensorProto.FLOAT, ["N", 3, shape.dim[1].dim_value, shape.dim[2].dim_value]
    )
    weights = [constant for constant in graph.initializer if not constant.name.startswith(FRONT)]
    network = helper.make_graph(behind, graph.name, [picture], graph.output, weights)
    half = convert_float_to_float16(
        _make_model_like(model, network), keep_io_types=True, node_block_list=_list_first(behind, kept)
    ).graph
    nodes = [*front, *_order_nodes(half.node)]
    whole = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*exact, *half.initializer])
    return _make_model_like(model, whole)


def round_network(model: ModelProto, kept: int = 0) -> ModelProto:
    """The network in single precision, its weights and what passes between its nodes rounded to half.

    A CPU has few operators in half precision. ONNX Runtime widens all others and rounds nothing between them, so the
    half file alone would show less error here than on a GPU.
    """
    model = infer_shapes(name_nodes(model))
    graph = model.graph
    floats = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes, behind = _split_nodes(model)
    first = set(_list_first(behind, kept))
    exact = {name for node in behind if node.name in first for name in node.input}
    for node in [nodes.pop(), *behind]:
        nodes.append(node)
        if node.name in first:
            continue
        for index, name in enumerate(node.output):
            if name in floats:
                node.output[index] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    constants = [c if c.name in exact else _round_constant(c) for c in graph.initializer]
    return _make_model_like(model, helper.make_graph(nodes, graph.name, graph.input, graph.output, constants))


def _list_first(nodes: Sequence[NodeProto], convolutions: int) -> list[str]:
    """Names of the nodes up to the one after so many convolutions."""
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    if not convolutions or len(places) <= convolutions:
        return []
    return [node.name for node in nodes[: places[convolutions]]]


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
