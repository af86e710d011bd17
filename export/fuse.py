"""Backbone file and head merged into one graph; the backbone's weights go in as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from onnx.onnx_pb import GraphProto, ModelProto
from torch import Tensor, nn

from export.contract import KEY, Contract
from export.fused import OUTPUTS
from extract.backbone_files import export_module
from extract.onnx_files import IR_VERSION, align_versions, load_model, save_model
from train.calibrate import Calibration
from train.heads.head import Head, mark_inside

NO_FRAME = -1.0  # no probability, and none to be mistaken for one


class CalibratedHead(nn.Module):
    """A head with its calibration: (B, T, D) and lengths (B,) -> logit (B,), prob (B,), frame_prob (B, T)."""

    def __init__(self, head: Head, calibration: Calibration) -> None:
        super().__init__()
        self.head = head
        self.slope = calibration.slope
        self.intercept = calibration.intercept

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames at t >= length get -1."""
        frame_logits, clip_logit = self.head(features, lengths)
        logit = clip_logit * self.slope + self.intercept
        frame_prob = torch.sigmoid(frame_logits * self.slope + self.intercept)
        inside = mark_inside(features, lengths)
        return logit, torch.sigmoid(logit), torch.where(inside, frame_prob, torch.full_like(frame_prob, NO_FRAME))


def write_scorer(backbone: Path, head: Head, contract: Contract, out: Path) -> None:
    """Writes the fused model of a backbone file and a head, with the contract inside."""
    model = fuse(load_model(backbone), export_head(head, contract.calibration), contract)
    save_model(model, out, KEY, contract.model_dump(mode="json"))


def export_head(head: Head, calibration: Calibration) -> ModelProto:
    """ONNX of the calibrated head, B and T open."""
    module = CalibratedHead(head, calibration).eval()
    example = (torch.zeros(2, 8, head.config.dim), torch.tensor([8, 5]))
    dynamic = ({0: "B", 1: "T"}, {0: "B"})
    return export_module(module, example, ["features", "lengths"], list(OUTPUTS), dynamic)


def fuse(backbone: ModelProto, head: ModelProto, contract: Contract) -> ModelProto:
    """clips -> crops -> backbone -> sequences -> head, as one graph with the signature of `export.fused`."""
    size_px, dim = contract.fingerprint.crop.size_px, contract.head.dim
    backbone = align_versions(backbone)
    opset = backbone.opset_import[0].version
    head = align_versions(head, opset)
    before = _as_model(_split_clips(size_px), opset)
    between = _as_model(_join_clips(dim), opset)
    backbone, head = compose.add_prefix(backbone, "backbone/"), compose.add_prefix(head, "head/")
    model = compose.merge_models(
        before, backbone, [("each_crop", "backbone/crops")], outputs=["shape", "backbone/features"]
    )
    model = compose.merge_models(
        align_versions(model), between, [("backbone/features", "each_feature"), ("shape", "clip_shape")]
    )
    model = compose.merge_models(align_versions(model), head, [("features", "head/features")])
    for name in ("lengths", *OUTPUTS):
        _rename(model.graph, f"head/{name}", name)
    del model.graph.value_info[:]  # inferred again when the model is checked
    model.graph.name = "unmask"
    return align_versions(model)


def _split_clips(size_px: int) -> GraphProto:
    """clips (B, T, S, S, 3) -> crops (B * T, S, S, 3), and (B, T)."""
    target = numpy_helper.from_array(np.array([-1, size_px, size_px, 3], np.int64), "crop_shape")
    return helper.make_graph(
        [
            helper.make_node("Reshape", ["crops", "crop_shape"], ["each_crop"], "split_clips"),
            helper.make_node("Shape", ["crops"], ["shape"], "read_shape", start=0, end=2),
        ],
        "before",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["B", "T", size_px, size_px, 3])],
        [
            helper.make_tensor_value_info("each_crop", TensorProto.UINT8, ["N", size_px, size_px, 3]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
        [target],
    )


def _join_clips(dim: int) -> GraphProto:
    """features (B * T, D) and (B, T) -> (B, T, D)."""
    width = numpy_helper.from_array(np.array([dim], np.int64), "width")
    return helper.make_graph(
        [
            helper.make_node("Concat", ["clip_shape", "width"], ["sequence_shape"], "make_shape", axis=0),
            helper.make_node("Reshape", ["each_feature", "sequence_shape"], ["features"], "join_clips"),
        ],
        "between",
        [
            helper.make_tensor_value_info("each_feature", TensorProto.FLOAT, ["N", dim]),
            helper.make_tensor_value_info("clip_shape", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "T", dim])],
        [width],
    )


def _as_model(graph: GraphProto, opset: int) -> ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for info in (*graph.input, *graph.output):
        if info.name == old:
            info.name = new
