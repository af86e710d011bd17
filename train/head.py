"""The head: sequences of backbone features in, one logit a frame and one a clip out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.config import HeadConfig


class Head(nn.Module):
    """LayerNorm, projection, an LSTM over time, a logit a frame; the clip's logit is their mean.

    The LSTM runs forward only and the mean leaves padding out, so a prediction depends neither on padding nor
    on the other clips of a batch, without packed sequences, which some runtimes ignore.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        # No affine part: the projection would absorb it, and without it no gradient of (B, T, D) is needed.
        self.norm = nn.LayerNorm(config.dim, elementwise_affine=False)
        self.project = nn.Linear(config.dim, config.projection)
        self.drop_projected = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(config.projection, config.hidden, batch_first=True)
        self.drop_hidden = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.hidden, 1)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, D) float32 and lengths (B,) int64, 1 <= length <= T.

        Returns frame logits (B, T), meaningless at t >= length, and clip logits (B,): the mean of a clip's
        hidden states through the frames' own linear layer, which is the mean of its frame logits.
        """
        projected = self.drop_projected(self.project(self.norm(features)))  # (B, T, P)
        hidden, _ = self.lstm(projected)  # (B, T, H)
        frame_logits = self.classify(self.drop_hidden(hidden)).squeeze(-1)  # (B, T)
        total = torch.where(mark_inside(features, lengths), frame_logits, torch.zeros_like(frame_logits)).sum(
            dim=1
        )  # (B,)
        return frame_logits, total / lengths.to(frame_logits.dtype)


def mark_inside(features: Tensor, lengths: Tensor) -> Tensor:
    """True (B, T) where a frame of features (B, T, D) belongs to its clip, False where it is padding."""
    times = torch.arange(features.shape[1], device=features.device)  # (T,)
    return times.unsqueeze(0) < lengths.unsqueeze(1)
