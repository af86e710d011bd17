"""What a run is asked to be: the head's shape and the way it is fitted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from extract.errors import UsageError
from extract.specs import Spec

Purpose = Literal["demo", "research", "production"]
Encoder = Literal["lstm", "gru", "transformer", "linear"]
Pooling = Literal["mean", "max", "attention", "last"]
Conditioning = Literal["none", "standardise", "layernorm", "pca"]
ATTENTION_HEADS = 4
SMOOTHED = 5  # epochs of validation that are averaged to tell a better one from a lucky one


class HeadShape(Spec):
    """What is chosen of a head. Conditioning of the raw features is part of it.

    `linear` is the baseline that ignores order: a logit of each frame by itself, and their mean; it has no
    projection, hidden size or layers. `components` belongs to PCA alone.
    """

    encoder: Encoder = "lstm"
    conditioning: Conditioning = "layernorm"
    components: int = Field(default=64, ge=1)
    projection: int = Field(default=128, ge=1)
    hidden: int = Field(default=128, ge=1)
    layers: int = Field(default=1, ge=1, le=3)
    bidirectional: bool = False
    pooling: Pooling = "mean"
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _require_sense(self) -> HeadShape:
        if self.bidirectional and self.encoder not in ("lstm", "gru"):
            raise UsageError(f"a {self.encoder} head has no direction; bidirectional goes with lstm and gru")
        if self.encoder == "linear" and self.pooling == "last":
            raise UsageError("a linear head ignores order, so pooling `last` says nothing; use mean, max or attention")
        if self.encoder == "transformer" and self.hidden % (2 * ATTENTION_HEADS):
            raise UsageError(f"a transformer's hidden size is a multiple of {2 * ATTENTION_HEADS}, not {self.hidden}")
        return self


class HeadConfig(HeadShape):
    """A head for features of `dim` numbers, the backbone's D."""

    dim: int = Field(ge=1)

    @classmethod
    def of(cls, shape: HeadShape, dim: int) -> HeadConfig:
        """The head of a shape for a backbone."""
        return cls(dim=dim, **shape.model_dump())

    @model_validator(mode="after")
    def _require_features(self) -> HeadConfig:
        if self.conditioning == "pca" and self.components > self.dim:
            raise UsageError(f"PCA to {self.components} components needs as many features; the backbone has {self.dim}")
        return self


class AugmentConfig(Spec):
    """Random changes of a training clip in time; each is off at its default.

    `window`: a stretch of at least this share of the clip is kept; `drop`: share of frames left out at most;
    `rate`: speed changes by up to this factor either way, by repeating and skipping frames; `reverse`: how often
    a clip runs backwards. At least `min_frames` of the cache's sampling are always left.
    """

    window: float = Field(default=1.0, gt=0, le=1)
    drop: float = Field(default=0.0, ge=0, lt=1)
    rate: float = Field(default=1.0, ge=1, le=4)
    reverse: float = Field(default=0.0, ge=0, le=1)


class FitConfig(Spec):
    """How a head is fitted; `patience` counts epochs without a better one on validation.

    The learning rate rises over the first `warmup` of all steps and falls along a cosine to nothing at the last of
    `epochs`. Without a `batch_size` it is a sixteenth of the training clips, 8 to 64: few clips need as many steps
    as many do. `bf16` computes in bfloat16 what can be; `auto` does where the processor multiplies it.
    """

    epochs: int = Field(default=60, ge=1)
    patience: int = Field(default=15, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=1e-2, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    sampling: Literal["shuffle", "balanced", "paired"] = "shuffle"
    class_weights: Literal["balanced", "none"] = "balanced"
    augment: AugmentConfig = AugmentConfig()
    seed: int = Field(default=0, ge=0, lt=1 << 31)
