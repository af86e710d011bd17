"""Fits a head to clips: AdamW, balanced classes, early stopping on validation video AUC, same seed same bytes."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extract.errors import DeviceError, UnmaskError
from extract.session import Device
from extract.specs import Spec
from train.calibrate import compute_nll
from train.config import FitConfig, HeadConfig
from train.dataset import BatchReader, ClipData
from train.head import Head
from train.metrics import compute_auc
from train.predict import predict_videos

SMOOTHED = 5  # epochs of validation that are averaged to tell a better one from a lucky one


class Epoch(Spec):
    """One epoch: mean loss a clip in training; on validation, class-balanced loss a video and video AUC."""

    number: int
    train_loss: float
    val_loss: float | None = None
    val_auc: float | None = None


@dataclass(frozen=True)
class FittedHead:
    """A head in evaluation mode with the weights of its best epoch, and the curve that led there."""

    head: Head
    best_epoch: int
    curve: tuple[Epoch, ...]


def choose_device(device: Device) -> torch.device:
    """`auto` takes CUDA where there is one; `cuda` without one is refused."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda cannot run here: torch finds no CUDA device; use --device cpu, or a CUDA build of torch "
            "with an NVIDIA driver"
        )
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def fit_head(
    data: ClipData,
    train: NDArray[np.int64],
    val: NDArray[np.int64] | None,
    config: FitConfig,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    head_config: HeadConfig | None = None,
) -> FittedHead:
    """Fits a head to the clips of the `train` videos.

    With validation videos it stops after `patience` epochs without a better one (video AUC, then loss, smoothed)
    and restores the best; without, it runs for just `config.epochs` and keeps the last. The same seed
    on the same machine gives the same weights.
    """
    reader = BatchReader(data, device)
    clips = torch.from_numpy(data.list_clips(train))
    weights = _balance_classes(data.labels[data.clip_video[clips.numpy()]]).to(device)
    shuffler = torch.Generator().manual_seed(config.seed)
    with _deterministic(device, config.seed):
        head = Head(head_config or HeadConfig(dim=data.features.shape[1])).to(device)
        optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        curve: list[Epoch] = []
        best, best_rank, best_state = 0, (-math.inf, -math.inf), head.state_dict()
        for number in range(1, config.epochs + 1):
            order = clips[torch.randperm(len(clips), generator=shuffler)]
            loss = _train_epoch(head, optimiser, reader, order, weights, config)
            if not math.isfinite(loss):
                raise UnmaskError(
                    f"training diverged in epoch {number} (its loss is {loss}); use a lower --learning-rate"
                )
            epoch = Epoch(number=number, train_loss=loss)
            if val is not None:
                epoch = _validate(epoch, head, data, reader, val)
            curve.append(epoch)
            rank = (0.0, float(number)) if val is None else _rank_latest(curve)
            on_epoch(epoch)
            if rank > best_rank:
                best, best_rank, best_state = number, rank, copy.deepcopy(head.state_dict())
            if number - best >= config.patience:
                break
        head.load_state_dict(best_state)
    return FittedHead(head.eval(), best, tuple(curve))


def _rank_latest(curve: list[Epoch]) -> tuple[float, float]:
    """How good the latest epoch is: validation AUC, then loss, each as the mean of the last SMOOTHED epochs.

    The AUC of few videos jumps from epoch to epoch, and the highest single one is often an accident of the first.
    """
    recent = curve[-SMOOTHED:]
    if len(recent) < SMOOTHED:
        return (-1.0, float(len(recent)))
    aucs, losses = ([getattr(epoch, name) or 0.0 for epoch in recent] for name in ("val_auc", "val_loss"))
    return (sum(aucs) / SMOOTHED, -sum(losses) / SMOOTHED)


def _train_epoch(
    head: Head,
    optimiser: torch.optim.Optimizer,
    reader: BatchReader,
    order: Tensor,
    weights: Tensor,
    config: FitConfig,
) -> float:
    head.train()
    total = torch.zeros((), dtype=torch.float64, device=reader.device)
    size = config.batch_size or min(64, max(8, len(order) // 16))
    for batch in torch.split(order, size):
        features, lengths, labels = reader.read_batch(batch)
        _, logits = head(features, lengths)
        loss = functional.binary_cross_entropy_with_logits(logits, labels.float(), weight=weights[labels])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(head.parameters(), config.max_grad_norm)
        optimiser.step()
        total += loss.detach() * len(batch)
    return float(total) / len(order)


def _validate(epoch: Epoch, head: Head, data: ClipData, reader: BatchReader, val: NDArray[np.int64]) -> Epoch:
    logits, labels = predict_videos(head, data, reader, val), data.labels[val]
    losses = [compute_nll(logits[labels == c], labels[labels == c]) for c in (0, 1)]
    return epoch.model_copy(update={"val_loss": sum(losses) / 2, "val_auc": compute_auc(labels, logits)})


def _balance_classes(labels: NDArray[np.int64]) -> Tensor:
    """Weights (2,) by label with which both classes count alike and a clip counts 1 on average."""
    counts = np.bincount(labels, minlength=2)
    return torch.tensor(len(labels) / (2.0 * counts), dtype=torch.float32)


@contextmanager
def _deterministic(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds torch and asks it for reproducible kernels, and gives back its settings and its random state."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not reproducible without it
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
