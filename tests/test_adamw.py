"""AdamW: the steps of torch's own class, without what that loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from train.adamw import AdamW


def make_weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((5, 3), (7,), (2, 2))]


def set_gradients(weights: list[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights[:2]:  # the third is never taught
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_its_steps_are_those_of_torch_to_the_bit() -> None:
    ours, theirs = make_weights(), make_weights()
    one, other = AdamW(ours, 0.1, 0.01), torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.01, fused=True)
    for step in range(20):
        one.learning_rate = other.param_groups[0]["lr"] = 0.1 / (1 + step)
        set_gradients(ours, step)
        set_gradients(theirs, step)
        one.step()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(ours[2], make_weights()[2])


def test_it_goes_on_from_its_moments() -> None:
    whole, first = make_weights(), make_weights()
    one, other = AdamW(whole, 0.1, 0.01), AdamW(first, 0.1, 0.01)
    for optimiser, weights in ((one, whole), (other, first)):
        set_gradients(weights, 1)
        optimiser.step()
    again = AdamW(first, 0.1, 0.01)
    again.load_moments({name: tensor.clone() for name, tensor in other.list_moments().items()})
    for optimiser, weights in ((one, whole), (again, first)):
        set_gradients(weights, 2)
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, first, strict=True))


def test_moments_of_other_weights_are_not_taken() -> None:
    optimiser = AdamW(make_weights(), 0.1, 0.01)
    with pytest.raises(KeyError):
        optimiser.load_moments({})


def test_gradients_are_forgotten() -> None:
    weights = make_weights()
    set_gradients(weights, 0)
    AdamW(weights, 0.1, 0.01).clear_gradients()
    assert all(weight.grad is None for weight in weights)


def test_a_process_that_fits_loads_no_compiler() -> None:
    code = """
import sys
import numpy as np
from tests.train_data import CacheRecipe, make_cache
from train.config import FitConfig
from train.dataset import select_usable
from train.fit import FitPlan, fit_head
data = select_usable(make_cache(CacheRecipe(groups=4)))
videos = np.arange(len(data.records))
fit_head(data, videos[:10], videos[10:], FitPlan(FitConfig(epochs=1)))
print(sorted({"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
