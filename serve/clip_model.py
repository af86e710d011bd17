"""Clips of any length scored in bounded memory: several at once, or one that is too long for that in parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from export.bundle import FEATURES, HEAD, ModelFolder, require_recorded
from export.fused import ClipScores, FusedModel
from extract.backbones import Backbone
from extract.session import CUDA, Device, Session, open_session

# Crops that one run of the scorer may hold, padding included. On a CPU more are no faster, and 32 of ResNeXt-50 take
# 1 GB; a GPU is filled by many clips at once.
MOST_CROPS = {"cpu": 32, "cuda": 256}
MOST_PADDING = 0.25  # of a run's crops: a short clip stacked with long ones would be embedded as if it were long

Crops = NDArray[np.uint8]


class ClipModel:
    """A model folder's scorer, and its parts for clips that one run must not hold."""

    def __init__(self, folder: ModelFolder, model: FusedModel, most_crops: int | None = None) -> None:
        self._folder = folder
        self._model = model
        self._device: Device = "cuda" if model.provider == CUDA else "cpu"
        self.most_crops = most_crops or MOST_CROPS[self._device]

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether clips of such lengths may share a run."""
        room = len(lengths) * max(lengths)
        return room <= self.most_crops and room - sum(lengths) <= MOST_PADDING * room

    def score(self, clips: Sequence[Crops]) -> list[ClipScores]:
        """The scores (B = 1 each) of clips (T, S, S, 3) that fit together, or of a single one; not always finite."""
        lengths = [len(crops) for crops in clips]
        if len(clips) == 1 and lengths[0] > self.most_crops:
            return [self._score_in_parts(clips[0])]
        stacked = np.zeros((len(clips), max(lengths), *clips[0].shape[1:]), np.uint8)
        for place, crops in zip(stacked, clips, strict=True):
            place[: len(crops)] = crops
        found = self._model.run_unchecked(stacked, np.array(lengths, np.int64))
        return [
            ClipScores(found.logit[[i]], found.prob[[i]], found.frame_prob[[i], :length])
            for i, length in enumerate(lengths)
        ]

    def _score_in_parts(self, crops: Crops) -> ClipScores:
        """The backbone a batch at a time, then the head: the same graph, cut where its tensors are small."""
        features = self._backbone.embed(crops)[None]
        return ClipScores(**self._head.run({"features": features, "lengths": np.array([len(crops)], np.int64)}))

    @cached_property
    def _backbone(self) -> Backbone:
        return Backbone(require_recorded(self._folder, FEATURES), self._device)

    @cached_property
    def _head(self) -> Session:
        return open_session(require_recorded(self._folder, HEAD), self._device)
