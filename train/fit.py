"""Fits a head to clips: AdamW, warm-up and cosine, early stopping on validation video AUC, same seed same bytes."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extract.errors import DeviceError, UnmaskError
from extract.session import Device
from extract.specs import Spec
from train.adamw import AdamW
from train.batches import Batch, BatchReader
from train.calibrate import compute_nll
from train.config import SMOOTHED, FitConfig, HeadConfig, HeadShape
from train.dataset import ClipData
from train.fit_store import StageStore
from train.heads.head import Head
from train.measures.metrics import compute_auc
from train.predict import predict_videos
from train.samplers import Sampler


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


@dataclass(frozen=True)
class FitPlan:
    """What a fit works with, beside its data.

    `stop_after` ends it in that epoch, with the learning rate that all `config.epochs` would have there.
    """

    config: FitConfig
    shape: HeadShape = field(default_factory=HeadShape)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    stop_after: int | None = None
    store: StageStore | None = None
    on_epoch: Callable[[Epoch], None] = lambda _: None  # may raise to end it


def choose_device(device: Device) -> torch.device:
    """`auto` takes CUDA where there is one; `cuda` without one is refused."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda cannot run here: torch finds no CUDA device; use --device cpu, or a CUDA build of torch "
            "with an NVIDIA driver"
        )
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def fit_head(data: ClipData, train: NDArray[np.int64], val: NDArray[np.int64] | None, plan: FitPlan) -> FittedHead:
    """Fits a head to the clips of the `train` videos.

    With validation videos it stops after `patience` epochs without a better one (video AUC, then loss, smoothed)
    and restores the best; without, it runs to the end and keeps the last. The same seed
    on the same machine gives the same weights, also where a killed fit is continued.
    """
    with _deterministic(plan.device, plan.config.seed):
        fit = Fit(data, train, val, plan)
        fit.resume()
        while not fit.is_finished():
            fit.run_epoch()
        return fit.finish()


def rank_epochs(curve: list[Epoch]) -> tuple[float, float]:
    """How good the latest epoch is: validation AUC, then loss, each as the mean of the last SMOOTHED epochs.

    The AUC of few videos jumps from epoch to epoch, and the highest single one is often an accident of the first.
    Without validation a later epoch is better.
    """
    recent = curve[-SMOOTHED:]
    if len(recent) < SMOOTHED or recent[-1].val_auc is None:
        return (-1.0, float(len(curve)))
    aucs, losses = ([getattr(epoch, name) or 0.0 for epoch in recent] for name in ("val_auc", "val_loss"))
    return (sum(aucs) / SMOOTHED, -sum(losses) / SMOOTHED)


class Fit:
    """A fit between two epochs; `fit_head` runs one to its end."""

    def __init__(self, data: ClipData, train: NDArray[np.int64], val: NDArray[np.int64] | None, plan: FitPlan) -> None:
        self.plan, self.data, self.val = plan, data, val
        config = plan.config
        self.reader = BatchReader(data, plan.device)
        self.clips = data.list_training_clips(train)
        self.sampler = Sampler(config.sampling, data)
        balanced = config.class_weights == "balanced" and config.sampling == "shuffle"
        labels = data.labels[data.clip_video[self.clips]]
        self.weights = _balance_classes(labels).to(plan.device) if balanced else None
        self.size = config.batch_size or min(64, max(8, len(self.clips) // 16))
        self.shuffler = torch.Generator().manual_seed(config.seed)
        self.autocast = torch.autocast(plan.device.type, torch.bfloat16, enabled=_use_bf16(config, plan.device))
        head = Head(HeadConfig.of(plan.shape, data.rows.dim))
        head.fit_conditioning(self.reader.read_rows(self.clips))
        self.head = head.to(plan.device)
        self.optimiser = AdamW(self.head.parameters(), config.learning_rate, config.weight_decay)
        self.curve: list[Epoch] = []
        self.best, self.best_rank = 0, (-math.inf, -math.inf)
        self.best_state = head.state_dict()

    def is_finished(self) -> bool:
        """Whether no further epoch is to be run."""
        done = len(self.curve)
        last = min(self.plan.config.epochs, self.plan.stop_after or self.plan.config.epochs)
        return done >= last or (self.val is not None and done - self.best >= self.plan.config.patience)

    def run_epoch(self) -> None:
        """Trains and validates once."""
        number = len(self.curve) + 1
        loss = self.train_epoch(number)
        epoch = Epoch(number=number, train_loss=loss)
        if not math.isfinite(loss) or not all(weight.isfinite().all() for weight in self.head.parameters()):
            raise _explain_divergence(epoch)
        epoch = self.validate(epoch)
        self.curve.append(epoch)
        rank = rank_epochs(self.curve)
        if rank > self.best_rank:
            self.best, self.best_rank = number, rank
            self.best_state = copy.deepcopy(self.head.state_dict())
        store = self.plan.store
        if store is not None and (store.is_due() or self.is_finished()):
            self._save(store)
        self.plan.on_epoch(epoch)

    def finish(self) -> FittedHead:
        """The head of the best epoch, without gradients, which take as much memory again."""
        self.optimiser.clear_gradients()
        self.head.load_state_dict(self.best_state)
        return FittedHead(self.head.eval(), self.best, tuple(self.curve))

    def resume(self) -> None:
        """Goes on where the store's state ends."""
        state = self.plan.store.load() if self.plan.store else None
        if state is None:
            return
        self.curve = [Epoch.model_validate(epoch) for epoch in state.facts["curve"]]
        self.best, self.best_rank = state.facts["best"], tuple(state.facts["best_rank"])
        self.head.load_state_dict(_select(state.tensors, "head/"))
        self.best_state = _select(state.tensors, "best/")
        self.optimiser.load_moments(_select(state.tensors, "adam/"))
        self.shuffler.set_state(state.tensors["shuffler"])
        torch.set_rng_state(state.tensors["random"])
        if self.plan.device.type == "cuda":
            torch.cuda.set_rng_state(state.tensors["cuda"], self.plan.device)

    def validate(self, epoch: Epoch) -> Epoch:
        """Adds what the validation videos say, where there are any."""
        if self.val is None:
            return epoch
        logits, labels = predict_videos(self.head, self.data, self.reader, self.val), self.data.labels[self.val]
        if not np.isfinite(logits).all():
            raise _explain_divergence(epoch)
        losses = [compute_nll(logits[labels == c], labels[labels == c]) for c in (0, 1)]
        return epoch.model_copy(update={"val_loss": sum(losses) / 2, "val_auc": compute_auc(labels, logits)})

    def _save(self, store: StageStore) -> None:
        tensors = {f"head/{name}": tensor for name, tensor in self.head.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best_state.items()}
        tensors |= {f"adam/{name}": tensor for name, tensor in self.optimiser.list_moments().items()}
        tensors |= {"shuffler": self.shuffler.get_state(), "random": torch.get_rng_state()}
        if self.plan.device.type == "cuda":
            tensors["cuda"] = torch.cuda.get_rng_state(self.plan.device)
        curve = [epoch.model_dump() for epoch in self.curve]
        store.save(tensors, {"curve": curve, "best": self.best, "best_rank": self.best_rank})

    def train_epoch(self, number: int) -> float:
        """Takes a step with every batch; the mean loss a clip."""
        self.head.train()
        config = self.plan.config
        total = torch.zeros((), dtype=torch.float64, device=self.plan.device)
        seen = 0
        for batch in self.reader.read_shuffled(self.clips, self.size, self.sampler, config.augment, self.shuffler):
            done = number - 1 + (seen + len(batch.clips) / 2) / len(self.clips)
            self.optimiser.learning_rate = config.learning_rate * _scale_rate(config, done / config.epochs)
            total += self.step(batch) * len(batch.clips)
            seen += len(batch.clips)
        return float(total) / seen

    def step(self, batch: Batch) -> Tensor:
        """Forward, backward and an update of the weights; the loss."""
        with self.autocast:
            _, logits = self.head(batch.features, batch.lengths)
        weight = None if self.weights is None else self.weights[batch.labels]
        loss = functional.binary_cross_entropy_with_logits(logits.float(), batch.labels.float(), weight=weight)
        self.optimiser.clear_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.plan.config.max_grad_norm)
        self.optimiser.step()
        return loss.detach()


def _explain_divergence(epoch: Epoch) -> UnmaskError:
    return UnmaskError(
        f"training diverged in epoch {epoch.number} (its loss is {epoch.train_loss}); use a lower --learning-rate"
    )


def _scale_rate(config: FitConfig, progress: float) -> float:
    """The share of the learning rate at a share of all planned steps: up in a line, then down along a cosine."""
    if progress < config.warmup:
        return progress / config.warmup
    if config.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (progress - config.warmup) / (1 - config.warmup)))) / 2


def _balance_classes(labels: NDArray[np.int64]) -> Tensor:
    """Weights (2,) by label with which both classes count alike and a clip counts 1 on average."""
    counts = np.bincount(labels, minlength=2)
    return torch.tensor(len(labels) / (2.0 * counts), dtype=torch.float32)


def _use_bf16(config: FitConfig, device: torch.device) -> bool:
    """What `precision` comes to on this machine; `auto` asks what it can do, not how fast it is just now."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("amx_tile"))


def _select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextmanager
def _deterministic(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds torch and asks for reproducible kernels, and gives back its settings and its random state."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []), _same_kernels() if on_cuda else nullcontext():
        torch.manual_seed(seed)
        yield


@contextmanager
def _same_kernels() -> Iterator[None]:
    """Of CUDA; on a processor, what a head computes is reproducible anyway, and to ask loads torch's compiler."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not reproducible without it
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
