"""What a run is asked to be: the head's shape and the way it is fitted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from extract.specs import Spec

Purpose = Literal["demo", "research", "production"]


class HeadConfig(Spec):
    """The shape of a head; `dim` is the backbone's D. Conditioning of the raw features is part of the head."""

    dim: int = Field(ge=1)
    projection: int = Field(default=128, ge=1)
    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    conditioning: Literal["layernorm"] = "layernorm"


class FitConfig(Spec):
    """How a head is fitted; `patience` counts epochs without a better one on validation.

    Without a `batch_size` it is a sixteenth of the training clips, 8 to 64: few clips need as many steps as many do.
    """

    epochs: int = Field(default=60, ge=1)
    patience: int = Field(default=15, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)
