"""The head: sequences of backbone features in, one logit a frame and one a clip out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from train.config import HeadConfig
from train.heads.conditioning import make_conditioner
from train.heads.encoders import make_encoder
from train.heads.pooling import ExactLinear, Pool, join_ends


class Head(nn.Module):
    """Conditioning, projection, an encoder over time, a logit a frame; the clip's logit is pooled from those.

    A prediction depends neither on padding nor on the other clips of a batch. The linear head has neither
    projection nor encoder nor dropout. Everything is in the state, the fitted conditioning too.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.condition = make_conditioner(config)
        linear = config.encoder == "linear"
        self.project = nn.Identity() if linear else nn.Linear(self.condition.width, config.projection)
        self.drop_projected = nn.Dropout(0.0 if linear else config.dropout)
        self.encode = None if linear else make_encoder(config)
        self.drop_hidden = nn.Dropout(0.0 if linear else config.dropout)
        width = self.condition.width if linear else config.hidden * (2 if config.bidirectional else 1)
        self.classify = ExactLinear(width, 1)
        self.pool = Pool(config.pooling, width)

    def fit_conditioning(self, blocks: Iterable[Tensor]) -> None:
        """Takes the constants of the conditioning from blocks (n, D) of training rows; call it before fitting.

        The blocks are read once, or not at all where the conditioning has no constants.
        """
        self.condition.fit(blocks)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, D) of any float type and lengths (B,) int64, 1 <= length <= T.

        Returns float32 frame logits (B, T), zero at t >= length, and clip logits (B,).
        """
        return self.score_conditioned(self.condition(features), lengths)

    def score_conditioned(self, conditioned: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, from rows that `condition` has seen already: it treats each alone, before or after batching."""
        inside = mark_inside(conditioned, lengths)
        # Masked behind the projection, where it costs a sixteenth: up to here every frame was by itself.
        projected = torch.where(inside.unsqueeze(-1), self.project(conditioned), 0)  # (B, T, P)
        hidden = self.drop_projected(projected)
        if self.encode is not None:
            hidden = self.encode(hidden, inside, lengths)  # (B, T, H)
        hidden = self.drop_hidden(hidden)
        frame_logits = torch.where(inside, self.classify(hidden).squeeze(-1), 0)  # (B, T)
        if self.config.bidirectional and self.config.pooling == "last":
            return frame_logits, self.classify(join_ends(hidden, lengths)).squeeze(-1)
        return frame_logits, self.pool(frame_logits, hidden, inside, lengths)


def mark_inside(features: Tensor, lengths: Tensor) -> Tensor:
    """True (B, T) where a frame of features (B, T, D) belongs to its clip, False where it is padding."""
    times = torch.arange(features.shape[1], device=features.device)  # (T,)
    return times.unsqueeze(0) < lengths.unsqueeze(1)
