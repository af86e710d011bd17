"""Conditioning: raw backbone features brought to one scale, each row by itself, with constants the head carries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from extract.backbones import raise_small
from extract.errors import UnmaskError
from train.config import HeadConfig

BLOCK_ROWS = 4096  # rows that are held in float32 at a time
LEAST_SPREAD = 1e-6  # of a mean; float16 cannot show less

Float64 = NDArray[np.float64]


class Conditioner(nn.Module):
    """The conditioning that changes nothing; the others are made of it.

    A row (D,) becomes a row (width,) and never depends on another, so rows may be conditioned before they are
    gathered into clips.
    """

    def __init__(self, dim: int, width: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.width = width or dim

    def fit(self, blocks: Iterable[Tensor]) -> None:
        """Sets the constants from blocks (n, D) of training rows, read once; without constants it reads nothing."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) of any float type -> (..., width) float32; under autocast, float16 may stay."""
        return features.float()


class NormaliseRow(Conditioner):
    """LayerNorm of each row; no affine part, as the layer behind it would absorb that."""

    def forward(self, features: Tensor) -> Tensor:
        # Half the memory to move; under autocast the next layer rounds to bfloat16, which keeps fewer digits anyway.
        rounded_anyway = features.dtype == torch.float16 and torch.is_autocast_enabled(features.device.type)
        return functional.layer_norm(features if rounded_anyway else features.float(), (self.dim,))


class Standardise(Conditioner):
    """Mean 0 and deviation 1 of each feature over the training rows; a dead unit stays small."""

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,)

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, blocks: Iterable[Tensor]) -> None:
        moments = measure_moments(blocks, self.dim, joint=False)
        if moments.count < 2:
            raise UnmaskError(
                f"standardising needs at least 2 training rows, there are {moments.count}; use --conditioning layernorm"
            )
        deviation = np.sqrt(moments.scatter / moments.count)
        _require_spread(moments, deviation)
        self.mean.copy_(torch.from_numpy(moments.mean))
        self.deviation.copy_(torch.from_numpy(raise_small(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) * (1 / self.deviation)  # D divisions, not B * T * D


class Whiten(Conditioner):
    """The first principal components of the training rows, each of deviation 1; one without variance stays small."""

    mean: Tensor  # (D,)
    matrix: Tensor  # (D, k)

    def __init__(self, dim: int, components: int) -> None:
        super().__init__(dim, components)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim, components))

    def fit(self, blocks: Iterable[Tensor]) -> None:
        moments = measure_moments(blocks, self.dim, joint=True)
        if moments.count <= self.width:
            raise UnmaskError(
                f"PCA to {self.width} components needs more training rows than that, there are {moments.count}; "
                "use fewer --components or another --conditioning"
            )
        covariance = moments.scatter / (moments.count - 1)
        _require_spread(moments, np.sqrt(np.diag(covariance)))
        self.mean.copy_(torch.from_numpy(moments.mean))
        self.matrix.copy_(torch.from_numpy(_find_whitening(covariance, self.width)))

    def forward(self, features: Tensor) -> Tensor:
        # A weak component is a small difference of large numbers: bfloat16 would leave little of it.
        with torch.autocast(features.device.type, enabled=False):
            return (features.float() - self.mean) @ self.matrix


def make_conditioner(config: HeadConfig) -> Conditioner:
    """The conditioning a head asks for; its constants change nothing until they are fitted (PCA: it only cuts)."""
    if config.conditioning == "standardise":
        return Standardise(config.dim)
    if config.conditioning == "pca":
        return Whiten(config.dim, config.components)
    return NormaliseRow(config.dim) if config.conditioning == "layernorm" else Conditioner(config.dim)


@dataclass(frozen=True)
class Moments:
    """Number of rows, their mean (D,), and their scatter: sums of squares (D,) or of products (D, D) about the mean."""

    count: int
    mean: Float64
    scatter: Float64


def measure_moments(blocks: Iterable[Tensor], dim: int, joint: bool) -> Moments:
    """Moments of blocks of rows (n, D), read once; `joint` asks for products, else for squares.

    Products are formed in float32, about the first block's mean so that little cancels, and added up in float64.
    """
    count, reference = 0, np.zeros(dim)
    total, products = np.zeros(dim), np.zeros((dim, dim) if joint else dim)
    for rows in (part for block in blocks for part in torch.split(block, BLOCK_ROWS) if len(part)):
        if not count:
            # Rounded to the rows' own type: a feature that never changes then differs from it by nothing at all.
            origin = rows.float().mean(dim=0).to(rows.dtype).float()  # (D,)
            reference = origin.double().cpu().numpy()
        centred = rows.float() - origin  # (n, D)
        count += len(rows)
        total += centred.sum(dim=0, dtype=torch.float64).cpu().numpy()
        products += (centred.T @ centred if joint else centred.square().sum(dim=0)).cpu().numpy()
    shift = total / max(count, 1)
    scatter = products - count * (np.outer(shift, shift) if joint else shift**2)
    if not joint:
        scatter = np.maximum(scatter, 0)
    return Moments(count, reference + shift, scatter)


def _require_spread(moments: Moments, deviation: Float64) -> None:
    if (deviation <= LEAST_SPREAD * np.abs(moments.mean)).all():
        raise UnmaskError(
            f"the {moments.count} training rows are all alike, so they have no scale to condition by; "
            "look at the backbone and extract again, or use --conditioning layernorm"
        )


def _find_whitening(covariance: Float64, components: int) -> Float64:
    """(D, k): the strongest directions, strongest first, each over its deviation; its largest entry is positive."""
    from scipy.linalg import eigh

    dim = len(covariance)
    variances, directions = eigh(covariance, subset_by_index=[dim - components, dim - 1])  # ascending
    variances, directions = variances[::-1], directions[:, ::-1]
    largest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(components)])
    deviations = raise_small(np.sqrt(np.maximum(variances, 0)))
    return np.asarray(directions * signs / deviations, np.float64)
