"""Heads as ONNX: standard operators only, and torch's logits at every batch, length and padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.onnx_pb import ModelProto
from onnx.reference import ReferenceEvaluator

from extract.backbone_files import export_module
from extract.onnx_files import save_model
from extract.session import open_session
from train.config import HeadConfig
from train.heads.head import Head, mark_inside

TOLERANCE = 1e-5  # float32 in other kernels
DIM = 16
SEQUENCE_LENS = 4  # place of that input of LSTM and GRU; some runtimes ignore it
GRID = [(1, 1), (1, 9), (2, 1), (2, 8), (5, 3), (3, 70)]  # (B, T); the example it is exported with is (2, 8)
# Every encoder, pooling and conditioning in as few exports as will do; each takes seconds.
KINDS: list[dict[str, Any]] = [
    {"encoder": "lstm", "layers": 2, "pooling": "attention", "conditioning": "layernorm"},
    {"encoder": "lstm", "bidirectional": True, "pooling": "last", "conditioning": "pca"},
    {"encoder": "gru", "layers": 2, "bidirectional": True, "pooling": "max", "conditioning": "standardise"},
    {"encoder": "gru", "pooling": "last", "conditioning": "none"},
    {"encoder": "transformer", "projection": 12, "pooling": "mean", "conditioning": "layernorm"},
    {"encoder": "linear", "pooling": "attention", "conditioning": "pca"},
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind['encoder']}-{kind['pooling']}")
def exported(request: pytest.FixtureRequest) -> tuple[Head, ModelProto]:
    """A head with fitted conditioning, and its model."""
    torch.manual_seed(5)
    shape = {"projection": 8, "hidden": 8, "components": 6, **request.param}
    head = Head(HeadConfig(dim=DIM, **shape)).eval()
    head.fit_conditioning([torch.randn(50, DIM) * 2 + 1])
    example = (torch.zeros(2, 8, DIM), torch.tensor([8, 5]))
    dynamic = ({0: "B", 1: "T"}, {0: "B"})
    return head, export_module(head, example, ["features", "lengths"], ["frames", "clips"], dynamic)


def draw_batch(batch: int, longest: int, padding: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and lengths of clips, the last as long as the batch."""
    features, lengths = torch.randn(batch, longest, DIM), torch.randint(1, longest + 1, (batch,))
    lengths[-1] = longest
    return features.masked_fill(~mark_inside(features, lengths).unsqueeze(-1), padding), lengths


def differ(head: Head, batch: tuple[torch.Tensor, torch.Tensor], outputs: Any) -> float:
    """The largest difference of frame and clip logits from torch's."""
    with torch.inference_mode():
        expected = head(*batch)
    return max(float(np.abs(t.numpy() - o).max()) for t, o in zip(expected, outputs, strict=True))


def test_a_head_is_made_of_standard_operators(exported: tuple[Head, ModelProto]) -> None:
    model = exported[1]
    onnx.checker.check_model(model, full_check=True)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan"}
    cells = [node for node in model.graph.node if node.op_type in ("LSTM", "GRU")]
    assert bool(cells) == (exported[0].config.encoder in ("lstm", "gru"))
    assert all(not any(node.input[SEQUENCE_LENS : SEQUENCE_LENS + 1]) for node in cells)


def test_batch_and_time_stay_open_at_both_ends(exported: tuple[Head, ModelProto]) -> None:
    graph = exported[1].graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    # What stands here is believed: fixed axes in place of them, and what a server is configured with.
    assert axes == {"features": ["B", "T", DIM], "lengths": ["B"], "frames": ["B", "T"], "clips": ["B"]}


@pytest.mark.parametrize("padding", [0.0, float("nan")])
def test_onnx_runtime_gives_torchs_logits(exported: tuple[Head, ModelProto], tmp_path: Path, padding: float) -> None:
    head, model = exported
    save_model(model, tmp_path / "head.onnx", "test", {})
    session = open_session(tmp_path / "head.onnx", "cpu")
    for batch, longest in GRID:
        features, lengths = draw_batch(batch, longest, padding)
        found = session.run({"features": features.numpy(), "lengths": lengths.numpy()})
        assert differ(head, (features, lengths), [found["frames"], found["clips"]]) < TOLERANCE


def test_the_reference_of_onnx_gives_torchs_logits(exported: tuple[Head, ModelProto]) -> None:
    head, model = exported
    features, lengths = draw_batch(2, 4, float("nan"))
    found = ReferenceEvaluator(model).run(None, {"features": features.numpy(), "lengths": lengths.numpy()})
    assert differ(head, (features, lengths), found) < TOLERANCE
