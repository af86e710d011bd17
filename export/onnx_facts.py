"""What a file of a model is, as its certificate says it: for ONNX files with inputs, outputs and operators."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from onnx import TensorProto
from onnx.onnx_pb import ValueInfoProto

from export.certificate import FileFacts, Tensor
from extract.backbones import MEANINGS as BACKBONE_MEANINGS
from extract.files import hash_file
from extract.onnx_files import load_model

# Of files whose bytes are older than their documentation: another byte would be another detector.
MEANINGS = {
    **BACKBONE_MEANINGS,
    "frames": "uint8 (N, H, W, 3): RGB frames; preprocessing is inside",
    "loc": "float32 (N, P, 4): boxes relative to the P priors, whose decoding extract/retinaface.py owns",
    "conf": "float32 (N, P, 2): probabilities of background and face",
    "landmarks": "float32 (N, P, 10): five points relative to the priors",
}


def describe_file(path: Path) -> FileFacts:
    """The facts of one file."""
    sha256, size = hash_file(path), path.stat().st_size
    if path.suffix != ".onnx":
        return FileFacts(sha256=sha256, bytes=size)
    model = load_model(path)
    return FileFacts(
        sha256=sha256,
        bytes=size,
        opset=model.opset_import[0].version,
        ir_version=model.ir_version,
        operators=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        inputs=tuple(map(_describe_tensor, model.graph.input)),
        outputs=tuple(map(_describe_tensor, model.graph.output)),
    )


def _describe_tensor(value: ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    return Tensor(
        name=value.name,
        type=TensorProto.DataType.Name(kind.elem_type).lower(),
        shape=tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in kind.shape.dim),
        meaning=value.doc_string or MEANINGS.get(value.name, ""),
    )
