"""Encoders: a padded batch of projected frames in, what each frame means among the others of its clip out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.config import ATTENTION_HEADS, HeadConfig

MLP_RATIO = 2  # few clips are learned from: half the usual width of 4
SLOWEST_WAVE = 10_000.0  # Vaswani et al. 2017, section 3.5

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def make_encoder(config: HeadConfig) -> nn.Module:
    """(B, T, P), inside (B, T), lengths (B,) -> (B, T, H), or (B, T, 2H) both ways; padding in is zero or finite."""
    if config.encoder == "transformer":
        return Transformer(config)
    return BothWays(config) if config.bidirectional else Recurrent(config)


class Recurrent(nn.Module):
    """An LSTM or GRU from the first frame to the last: padding, which comes after, cannot reach it."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        between = config.dropout if config.layers > 1 else 0.0  # torch warns of dropout between one layer
        self.cells = CELLS[config.encoder](
            config.projection, config.hidden, config.layers, batch_first=True, dropout=between
        )

    def forward(self, frames: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
        hidden: Tensor = self.cells(frames)[0]
        return hidden


class BothWays(nn.Module):
    """In each layer a cell onward and a cell over the clip turned round within its length, side by side.

    No packed sequences: what exporters make of them, some runtimes ignore.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        cell = CELLS[config.encoder]
        widths = [config.projection] + [2 * config.hidden] * (config.layers - 1)
        self.onward = nn.ModuleList(cell(width, config.hidden, batch_first=True) for width in widths)
        self.homeward = nn.ModuleList(cell(width, config.hidden, batch_first=True) for width in widths)
        self.drop_between = nn.Dropout(config.dropout)

    def forward(self, frames: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
        order = _find_turned(inside, lengths)
        for number, (onward, homeward) in enumerate(zip(self.onward, self.homeward, strict=True)):
            if number:
                frames = self.drop_between(frames)
            turned = _reorder(homeward(_reorder(frames, order))[0], order)
            frames = torch.cat([onward(frames)[0], turned], dim=-1)
        return frames


def _find_turned(inside: Tensor, lengths: Tensor) -> Tensor:
    """Which row of (B * T, ...) stands at each place when clips are turned round within their lengths: (B * T,).

    Padding stays where it is, so that doing it twice undoes it.
    """
    batch, longest = inside.shape
    times = torch.arange(longest, device=inside.device)  # (T,)
    turned = torch.where(inside, lengths.unsqueeze(1) - 1 - times, times)  # (B, T)
    return (turned + longest * torch.arange(batch, device=inside.device).unsqueeze(1)).flatten()


def _reorder(frames: Tensor, order: Tensor) -> Tensor:
    return frames.flatten(0, 1).index_select(0, order).view_as(frames)


class Transformer(nn.Module):
    """Blocks of self-attention, normalised before each step, over frames that carry the wave of their position."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        same = config.projection == config.hidden
        self.widen = nn.Identity() if same else nn.Linear(config.projection, config.hidden)
        self.blocks = nn.ModuleList(AttentionBlock(config.hidden, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, frames: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.widen(frames)
        hidden = hidden + make_positions(hidden)
        seen = inside[:, None, None, :]  # (B, heads, from, to): no frame looks at padding
        for block in self.blocks:
            hidden = block(hidden, seen)
        normalised: Tensor = self.norm(hidden)
        return normalised


class AttentionBlock(nn.Module):
    """Each frame takes from the others what it asks for, then is changed by itself; both are added to it."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_frames = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)  # query, key and value
        self.join = nn.Linear(width, width)
        self.norm_joined = nn.LayerNorm(width)
        self.change = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, frames: Tensor, seen: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (ATTENTION_HEADS, -1)).transpose(1, 2)  # (B, heads, T, H / heads)
            for part in self.ask(self.norm_frames(frames)).chunk(3, dim=-1)
        )
        taken = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        frames = frames + self.drop(self.join(taken.transpose(1, 2).flatten(2)))
        changed: Tensor = frames + self.drop(self.change(self.norm_joined(frames)))
        return changed


def make_positions(hidden: Tensor) -> Tensor:
    """Sines and cosines (T, H) of the position at wavelengths from 2 pi up, for any T, as float32."""
    half = hidden.shape[-1] // 2
    rates = torch.exp(torch.arange(half, device=hidden.device) * (-math.log(SLOWEST_WAVE) / half))  # (H / 2,)
    angles = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(1) * rates  # (T, H / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
