"""AdamW on torch's own function for it: torch's class of that name loads a compiler with its first step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of each weight, under the names that torch's class gives them


class AdamW:
    """Takes the steps that `torch.optim.AdamW(fused=True)` takes, to the bit.

    The compiler behind that class is a hundred megabytes and seconds of every process that trains.
    """

    def __init__(self, weights: Iterable[Tensor], learning_rate: float, weight_decay: float) -> None:
        self.learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._weights = list(weights)
        self._moments = [
            {
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
            }
            for weight in self._weights
        ]

    def clear_gradients(self) -> None:
        """Forgets all gradients, and gives back their memory."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Updates every weight that has a gradient."""
        taught = [(w, w.grad, m) for w, m in zip(self._weights, self._moments, strict=True) if w.grad is not None]
        averages, squares, steps = ([moments[name] for _, _, moments in taught] for name in MOMENTS)
        adamw(
            [weight for weight, _, _ in taught],
            [gradient for _, gradient, _ in taught],
            averages,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self.learning_rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def list_moments(self) -> dict[str, Tensor]:
        """What the next step follows from, by `NUMBER/NAME`."""
        return {f"{number}/{name}": m[name] for number, m in enumerate(self._moments) for name in MOMENTS}

    def load_moments(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `list_moments` gave."""
        for name, moment in self.list_moments().items():
            moment.copy_(tensors[name])
