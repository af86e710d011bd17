"""In which order an epoch shows its clips: all once, both classes alike, or fakes beside their originals."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from extract.errors import UnmaskError, UsageError
from train.dataset import ClipData


class Sampler:
    """Draws the order of an epoch, or of a block of one, from clips that are given.

    `shuffle`: every clip once. `balanced`: as many clips, half of them real; the rarer class comes several times,
    the other in part. `paired`: the same with a real and a fake clip side by side, the real one of the same `pair`
    where there is any.
    """

    def __init__(self, kind: str, data: ClipData) -> None:
        self.kind = kind
        self._label = torch.from_numpy(data.labels[data.clip_video])  # (C,)
        self._pair = np.unique(data.pairs, return_inverse=True)[1][data.clip_video]  # (C,)
        if kind != "shuffle" and data.rows.most_bytes is not None:
            raise UsageError(
                f"--sampling {kind} needs all features in memory, and those of {data.path} do not fit; give more with "
                "--memory, or use --sampling shuffle, whose classes weigh alike too"
            )
        if kind == "paired" and not (data.pairs != "").any():
            raise UnmaskError(
                f"{data.path} names no pairs of a real video and its fakes; fill in the column `pair` of the manifest, "
                "or use --sampling balanced"
            )
        unnamed = np.flatnonzero(np.unique(data.pairs) == "")
        self._unnamed = int(unnamed[0]) if unnamed.size else -1

    def draw(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """The order in which to show `clips` (n,); clips of one class alone are shuffled."""
        fakes = clips[self._label[clips] == 1]
        reals = clips[self._label[clips] == 0]
        if self.kind == "shuffle" or not len(fakes) or not len(reals):
            return clips[torch.randperm(len(clips), generator=generator)]
        half = (len(clips) + 1) // 2
        shown = _repeat_shuffled(fakes, half, generator)
        partners = _repeat_shuffled(reals, half, generator)
        if self.kind == "paired":
            partners = self._find_originals(shown, reals, partners, generator)
        couples = torch.stack([partners, shown], dim=1)  # (half, 2)
        return couples[torch.randperm(half, generator=generator)].flatten()

    def _find_originals(self, fakes: Tensor, reals: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """A real clip of each fake's pair, one of `others` where there is none."""
        by_pair: dict[int, list[int]] = defaultdict(list)
        for clip in reals.tolist():
            by_pair[int(self._pair[clip])].append(clip)
        by_pair.pop(self._unnamed, None)
        draws = torch.rand(len(fakes), generator=generator).tolist()
        found = others.clone()
        for place, (clip, draw) in enumerate(zip(fakes.tolist(), draws, strict=True)):
            originals = by_pair.get(int(self._pair[clip]))
            if originals:
                found[place] = originals[int(draw * len(originals))]
        return found


def _repeat_shuffled(clips: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of some clips: each as often as any other, or once more."""
    rounds = -(-count // len(clips))
    drawn = [clips[torch.randperm(len(clips), generator=generator)] for _ in range(rounds)]
    return torch.cat(drawn)[:count]
