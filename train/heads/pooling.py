"""Pooling: the logits of a clip's frames become the clip's logit, so that the evidence adds up to the verdict."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.config import Pooling


class ExactLinear(nn.Linear):
    """A linear layer that autocast leaves in float32."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name for it
        with torch.autocast(input.device.type, enabled=False):
            return functional.linear(input.float(), self.weight, self.bias)


class Pool(nn.Module):
    """Frame logits (B, T), zero at padding -> clip logits (B,): their mean, largest, weighted mean, or last.

    The weights of `attention` are learned from the hidden states (B, T, H) of the frames.
    """

    def __init__(self, kind: Pooling, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.attend = ExactLinear(width, 1) if kind == "attention" else None

    def forward(self, frame_logits: Tensor, hidden: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
        if self.kind == "max":
            return torch.where(inside, frame_logits, -math.inf).amax(dim=1)
        if self.kind == "last":
            return frame_logits.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)
        if self.kind == "attention":
            return (self.weigh(hidden, inside) * frame_logits).sum(dim=1)
        return frame_logits.sum(dim=1) / lengths

    def weigh(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """The weight of each frame (B, T); those of a clip sum to one, padding has none."""
        assert self.attend is not None  # only `attention` has weights
        return torch.where(inside, self.attend(hidden).squeeze(-1), -math.inf).softmax(dim=1)


def join_ends(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Hidden states both ways (B, T, 2H) -> the last that each direction comes to (B, 2H): the end, and the start."""
    onward, homeward = hidden.chunk(2, dim=-1)  # (B, T, H)
    last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, onward.shape[-1])
    return torch.cat([onward.gather(1, last).squeeze(1), homeward[:, 0]], dim=-1)
