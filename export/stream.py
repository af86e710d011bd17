"""`head_stream.onnx`: the head one frame at a time, its state handed in and out: a live score costs one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from export.contract import KEY, Contract
from export.fuse import spoil
from export.live import AFTER
from extract.backbone_files import export_module
from extract.onnx_files import save_model
from train.calibrate import Calibration
from train.config import HeadConfig
from train.heads.encoders import Recurrent
from train.heads.head import Head

POOLINGS = ("mean", "max", "last")
CELLS = ("hidden", "cell")
MEANINGS = {
    "features": "float32 (B, D): backbone features of the next frame of B clips",
    "hidden": "float32 (L, B, H): state of the cells; zeros before the first frame",
    "cell": "float32 (L, B, H): the cells' memory; zeros before the first frame",
    "pooled": "float32 (B,): the frames' logits so far, pooled; zeros before the first frame",
    "count": "float32 (B,): frames so far; zeros before the first frame",
    "logit": "float32 (B,): calibrated logit of the clip as far as it was seen",
    "prob": "float32 (B,): sigmoid(logit), the probability at even odds that the clip is fake",
    "frame_prob": "float32 (B,): the same for this frame alone",
}


def explain_no_stream(config: HeadConfig) -> str:
    """Why a head cannot be fed frame by frame; nothing where it can."""
    if config.encoder not in ("lstm", "gru"):
        return f"a {config.encoder} head keeps no state from frame to frame; only lstm and gru heads do"
    if config.bidirectional:
        return "a bidirectional head reads each clip from its end too, which a stream has not come to"
    if config.pooling not in POOLINGS:
        return f"{config.pooling} pooling weighs each frame against all others of its clip, the later ones too"
    return ""


def list_states(config: HeadConfig) -> list[str]:
    """The names of the states, in order."""
    cells = ["hidden", "cell"] if config.encoder == "lstm" else ["hidden"]
    return cells if config.pooling == "last" else [*cells, "pooled", "count"]


def write_stream(head: Head, contract: Contract, out: Path) -> None:
    """Writes the calibrated head for one frame at a time, B open; `explain_no_stream` has nothing against it."""
    config, states = head.config, list_states(head.config)
    # A tensor each: of one that stands in two places the exporter makes one input that feeds both.
    cells = [torch.zeros(config.layers, 2, config.hidden) for name in states if name in CELLS]
    pools = [torch.zeros(2) for name in states if name not in CELLS]
    axes = ({0: "B"}, tuple([{1: "B"}] * len(cells) + [{0: "B"}] * len(pools)))
    model = export_module(
        SteppingHead(head, contract.calibration).eval(),
        (torch.zeros(2, config.dim), *cells, *pools),
        ["features", *states],
        ["logit", "prob", "frame_prob", *(f"{name}{AFTER}" for name in states)],
        axes,
    )
    meanings = MEANINGS | {f"{name}{AFTER}": f"{name} for the next frame" for name in states}
    save_model(model, out, KEY, contract.model_dump(mode="json"), meanings)


class SteppingHead(nn.Module):
    """A recurrent head with its calibration: (B, D) and states -> logit, prob, frame_prob (B,), and states."""

    def __init__(self, head: Head, calibration: Calibration) -> None:
        super().__init__()
        self.head = head
        self.slope = calibration.slope
        self.intercept = calibration.intercept

    def forward(self, features: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One frame of every clip."""
        cells, pools = self._part(states)
        encoder = self.head.encode
        assert isinstance(encoder, Recurrent)  # `explain_no_stream` has seen to it
        projected = self.head.project(self.head.condition(features)).unsqueeze(1)  # (B, 1, P)
        before = cells if len(cells) > 1 else cells[0]
        hidden, after = encoder.cells(projected, before)  # (B, 1, H)
        frame_logit = self.head.classify(hidden.squeeze(1)).squeeze(-1)  # (B,)
        pooled = self._pool(frame_logit, pools)
        spoilt = spoil(features)  # (B,)
        logit = (pooled[0] if pooled else frame_logit) * self.slope + self.intercept + spoilt
        frame_prob = torch.sigmoid(frame_logit * self.slope + self.intercept + spoilt)
        return (logit, torch.sigmoid(logit), frame_prob, *(after if len(cells) > 1 else (after,)), *pooled)

    def _part(self, states: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        number = 2 if self.head.config.encoder == "lstm" else 1
        return tuple(states[:number]), tuple(states[number:])

    def _pool(self, frame_logit: Tensor, pools: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if not pools:
            return ()
        pooled, count = pools
        after = count + 1
        if self.head.config.pooling == "mean":
            return pooled + (frame_logit - pooled) / after, after  # a sum would lose the last bits of a long stream
        return torch.where(count == 0, frame_logit, torch.maximum(pooled, frame_logit)), after
