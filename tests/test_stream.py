"""The head one frame at a time: equal to the whole clip at every step, however long, and why some heads cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.contract import KEY, Contract, read_contract
from export.fuse import CalibratedHead
from export.fused import FusedModel
from export.live import AFTER, LiveHead
from export.stream import explain_no_stream, list_states, write_stream
from extract.errors import FormatError, UnmaskError
from extract.onnx_files import load_model, save_model
from extract.session import open_session
from tests.conftest import Pipeline
from train.config import HeadConfig
from train.heads.head import Head

DIM, CLIPS, LONG = 12, 2, 1000
TOLERANCE = 2e-5
KINDS: list[dict[str, Any]] = [
    {"encoder": "lstm", "layers": 2, "pooling": "mean", "conditioning": "layernorm"},
    {"encoder": "lstm", "pooling": "max", "conditioning": "standardise"},
    {"encoder": "gru", "layers": 2, "pooling": "last", "conditioning": "pca"},
    {"encoder": "gru", "pooling": "mean", "conditioning": "none"},
]


@pytest.fixture(scope="module")
def contract(pipeline: Pipeline) -> Contract:
    """That of the small pipeline."""
    return FusedModel(pipeline.model / "scorer.onnx", "cpu").contract


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind['encoder']}-{kind['pooling']}")
def streamed(
    request: pytest.FixtureRequest, contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CalibratedHead, Path]:
    """A calibrated head with fitted conditioning, and its file."""
    torch.manual_seed(3)
    head = Head(HeadConfig(dim=DIM, **{"projection": 8, "hidden": 8, "components": 6, **request.param})).eval()
    head.fit_conditioning([torch.randn(60, DIM) * 2 + 1])
    path = tmp_path_factory.mktemp("stream") / "head_stream.onnx"
    write_stream(head, contract.model_copy(update={"head": head.config}), path)
    return CalibratedHead(head, contract.calibration).eval(), path


def draw_rows(frames: int) -> NDArray[np.float32]:
    return np.random.default_rng(frames).normal(1, 2, (CLIPS, frames, DIM)).astype(np.float32)


def score_whole(head: CalibratedHead, rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        found = head(torch.from_numpy(rows), torch.full((len(rows),), rows.shape[1]))
    return [tensor.numpy() for tensor in found]


def test_every_step_is_the_clip_as_far_as_it_was_seen(streamed: tuple[CalibratedHead, Path]) -> None:
    head, path = streamed
    rows, live = draw_rows(20), LiveHead(path, CLIPS, "cpu")
    for frame in range(rows.shape[1]):
        step = live.step(rows[:, frame])
        logit, prob, frame_prob = score_whole(head, rows[:, : frame + 1])
        assert np.abs(step.logit - logit).max() < TOLERANCE
        assert np.abs(step.prob - prob).max() < TOLERANCE
        assert np.abs(step.frame_prob - frame_prob[:, frame]).max() < TOLERANCE


def test_a_thousand_steps_end_where_the_clip_head_does(streamed: tuple[CalibratedHead, Path]) -> None:
    head, path = streamed
    rows, live = draw_rows(LONG), LiveHead(path, CLIPS, "cpu")
    steps = [live.step(rows[:, frame]) for frame in range(LONG)]
    logit, _, frame_prob = score_whole(head, rows)
    assert np.abs(steps[-1].logit - logit).max() < TOLERANCE
    assert np.abs(np.stack([step.frame_prob for step in steps], axis=1) - frame_prob).max() < TOLERANCE


def test_a_restart_forgets_what_was_seen(streamed: tuple[CalibratedHead, Path]) -> None:
    rows, live = draw_rows(6), LiveHead(streamed[1], CLIPS, "cpu")
    first = live.step(rows[:, 0])
    for frame in range(1, 6):
        live.step(rows[:, frame])
    live.restart()
    again = live.step(rows[:, 0])
    assert np.array_equal(again.logit, first.logit)
    assert not np.array_equal(live.step(rows[:, 0]).logit, first.logit)


def test_a_stream_file_documents_itself_and_carries_the_contract(streamed: tuple[CalibratedHead, Path]) -> None:
    head, path = streamed
    graph = onnx.load(str(path)).graph
    states = list_states(head.head.config)
    assert [value.name for value in graph.input] == ["features", *states]
    assert [value.name for value in graph.output] == ["logit", "prob", "frame_prob", *(f"{s}{AFTER}" for s in states)]
    assert all(value.doc_string for value in (*graph.input, *graph.output))
    assert {node.domain for node in graph.node} == {""}
    assert read_contract(open_session(path, "cpu")).head == head.head.config


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"encoder": "linear"}, "a linear head keeps no state"),
        ({"encoder": "transformer", "hidden": 8}, "a transformer head keeps no state"),
        ({"encoder": "gru", "bidirectional": True}, "reads each clip from its end too"),
        ({"encoder": "lstm", "pooling": "attention"}, "attention pooling weighs each frame against all others"),
        ({"encoder": "lstm", "pooling": "max", "layers": 3}, ""),
    ],
)
def test_heads_that_cannot_be_fed_frame_by_frame_say_why(kind: dict[str, Any], reason: str) -> None:
    found = explain_no_stream(HeadConfig(dim=DIM, **kind))
    assert found.find(reason) >= 0
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    "features", [np.zeros((3, DIM), np.float32), np.zeros((CLIPS, DIM + 1), np.float32), np.zeros((CLIPS, DIM))]
)
def test_features_of_another_shape_are_refused(
    streamed: tuple[CalibratedHead, Path], features: NDArray[np.float32]
) -> None:
    with pytest.raises(UnmaskError, match=r"features are .* expected float32 \(2, 12\)"):
        LiveHead(streamed[1], CLIPS, "cpu").step(features)


def test_a_score_that_is_not_finite_is_refused(streamed: tuple[CalibratedHead, Path]) -> None:
    live = LiveHead(streamed[1], CLIPS, "cpu")
    with pytest.raises(UnmaskError, match="not finite"):
        live.step(np.full((CLIPS, DIM), np.nan, np.float32))


def test_a_stream_without_a_contract_is_refused(streamed: tuple[CalibratedHead, Path], tmp_path: Path) -> None:
    model = load_model(streamed[1])
    save_model(model, tmp_path / "bare.onnx", f"not.{KEY}", {})
    with pytest.raises(FormatError, match="carries no contract"):
        LiveHead(tmp_path / "bare.onnx", 1, "cpu")
