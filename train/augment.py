"""Random changes of a clip in time: which of its frames are looked at, and in which order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.config import AugmentConfig


def pick_frames(
    lengths: Tensor, config: AugmentConfig, least: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Frames (B, T) of clips of `lengths` (B,), as indices into each clip, and how many of them count (B,).

    What lies past a clip's new length repeats one of its frames. No clip gets fewer than `least` frames, provided it
    had so many. The changes follow one another: speed, window, dropping, direction.
    """
    index, count = _change_rate(lengths, config.rate, least, generator)
    index, count = _cut_window(index, count, config.window, least, generator)
    index, count = _drop_frames(index, count, config.drop, least, generator)
    return _turn_round(index, count, config.reverse, generator), count


def list_frames(lengths: Tensor) -> Tensor:
    """All frames (B, T) of clips of `lengths` (B,), each padded with its own last one."""
    times = torch.arange(int(lengths.max()), device=lengths.device)  # (T,)
    return torch.minimum(times.unsqueeze(0), lengths.unsqueeze(1) - 1)


def _change_rate(lengths: Tensor, most: float, least: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Steps of 1 / `most` to `most` frames, log-uniform, from a random place; slower clips repeat frames."""
    if most == 1:
        return list_frames(lengths), lengths
    reach = math.log(most)
    step = torch.exp((2 * torch.rand(len(lengths), generator=generator, dtype=torch.float64) - 1) * reach)
    most_steps = (lengths - 1).clamp(min=1) / (lengths.clamp(max=least) - 1).clamp(min=1)  # leaves `least` frames
    step = torch.minimum(step, most_steps)
    count = torch.minimum(lengths, ((lengths - 1) / step + 1e-6).floor().long() + 1)
    slack = (lengths - 1) - (count - 1) * step  # what the steps leave over
    first = torch.rand(len(lengths), generator=generator, dtype=torch.float64) * slack.clamp(min=0)
    places = first.unsqueeze(1) + list_frames(count) * step.unsqueeze(1)  # (B, T)
    return torch.minimum(places.round().long(), lengths.unsqueeze(1) - 1), count


def _cut_window(
    index: Tensor, count: Tensor, share: float, least: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if share == 1:
        return index, count
    drawn = share + (1 - share) * torch.rand(len(count), generator=generator)
    kept = torch.minimum(count, (count * drawn).round().long().clamp(min=least))
    first = (torch.rand(len(count), generator=generator) * (count - kept + 1)).long()
    return index.gather(1, first.unsqueeze(1) + list_frames(kept)), kept


def _drop_frames(
    index: Tensor, count: Tensor, most: float, least: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Leaves out a share of the frames, 0 to `most`, wherever they are."""
    if most == 0:
        return index, count
    share = most * torch.rand(len(count), generator=generator)
    kept = torch.minimum(count, (count * (1 - share)).round().long().clamp(min=least))
    keys = torch.rand(index.shape, generator=generator)
    outside = torch.arange(index.shape[1]) >= count.unsqueeze(1)
    chosen = keys.masked_fill(outside, 2.0).argsort(dim=1)[:, : int(kept.max())]  # (B, T') in random order
    beyond = torch.arange(chosen.shape[1]) >= kept.unsqueeze(1)
    ordered = chosen.masked_fill(beyond, index.shape[1]).sort(dim=1).values
    return index.gather(1, ordered.gather(1, list_frames(kept))), kept


def _turn_round(index: Tensor, count: Tensor, share: float, generator: torch.Generator) -> Tensor:
    if share == 0:
        return index
    turned = torch.rand(len(count), generator=generator) < share
    forward = list_frames(count)
    places = torch.where(turned.unsqueeze(1), count.unsqueeze(1) - 1 - forward, forward)
    return index.gather(1, places)
