"""The ONNX files of a model: the head alone, and backbone file and head merged into one graph.

The backbone's weights go in as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from onnx.onnx_pb import GraphProto, ModelProto
from torch import Tensor, nn

from export.contract import KEY, Contract
from export.fused import HEAD_MEANINGS, OUTPUTS, SCORER_MEANINGS
from extract.backbone_files import export_module
from extract.onnx_files import IR_VERSION, align_versions, load_model, require_standard, save_model
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
        """Frames at t >= length get -1; a clip with a feature that is not finite gets no number."""
        frame_logits, clip_logit = self.head(features, lengths)
        inside = mark_inside(features, lengths)
        spoilt = torch.where(inside, spoil(features), 0)  # (B, T)
        logit = clip_logit * self.slope + self.intercept + spoilt.sum(dim=1)
        frame_prob = torch.sigmoid(frame_logits * self.slope + self.intercept + spoilt)
        return logit, torch.sigmoid(logit), torch.where(inside, frame_prob, torch.full_like(frame_prob, NO_FRAME))


def spoil(features: Tensor) -> Tensor:
    """Zeros (...,) for features (..., D), and not a number where one of them is none or infinite.

    The cells of ONNX Runtime clip what they are given, so that a backbone that overflows would score in silence.
    """
    return features.sum(dim=-1) * 0


def write_models(backbone: Path, head: Head, contract: Contract, scorer: Path, head_alone: Path) -> None:
    """Writes the fused model of a backbone file and a head, and the head alone; the contract is inside of both."""
    exported = export_head(head, contract.calibration)
    save_model(exported, head_alone, KEY, contract.model_dump(mode="json"), HEAD_MEANINGS)
    # Read back, for merging changes what it is given.
    fused = fuse(load_model(backbone), load_model(head_alone), contract)
    save_model(fused, scorer, KEY, contract.model_dump(mode="json"), SCORER_MEANINGS)


def export_head(head: Head, calibration: Calibration) -> ModelProto:
    """ONNX of the calibrated head, B and T open."""
    module = CalibratedHead(head, calibration).eval()
    example = (torch.zeros(2, 8, head.config.dim), torch.tensor([8, 5]))
    dynamic = ({0: "B", 1: "T"}, {0: "B"})
    return export_module(module, example, ["features", "lengths"], list(OUTPUTS), dynamic)


def fuse(backbone: ModelProto, head: ModelProto, contract: Contract) -> ModelProto:
    """clips -> crops -> backbone -> sequences -> head, as one graph with the signature of `export.fused`."""
    size_px, dim = contract.fingerprint.crop.size_px, contract.head.dim
    require_standard(backbone, "take a backbone file that was made from a network of standard operators")
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
