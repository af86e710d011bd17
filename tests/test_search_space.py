"""What a sweep may vary: every proposal makes sense, and whatever leaves no choice is not asked for."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import UsageError
from train.config import HeadConfig
from train.sweep.space import SearchSpace


class RandomChooser:
    """Chooses at random, and keeps what it was asked."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.asked: list[str] = []

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append(name)
        return self._random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int:
        self.asked.append(name)
        return self._random.randrange(low, high + 1, step)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        self.asked.append(name)
        return self._random.uniform(low, high)


def some_of(names: Iterable[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(list(names)), min_size=1, unique=True).map(tuple)


SPACES = st.builds(
    SearchSpace,
    encoders=some_of(["lstm", "gru", "transformer", "linear"]),
    poolings=some_of(["mean", "max", "attention", "last"]),
    conditionings=some_of(["none", "standardise", "layernorm", "pca"]),
    bidirectional=st.booleans(),
)


def makes_sense(space: SearchSpace) -> bool:
    try:
        space.require_sense()
    except UsageError:
        return False
    return True


@given(SPACES.filter(makes_sense), st.integers(0, 1000), st.integers(2, 4096))
def test_every_proposal_is_a_head_with_options_of_the_space(space: SearchSpace, seed: int, dim: int) -> None:
    head = HeadConfig.of(space.shape_head(space.choose(RandomChooser(seed)), dim), dim)  # would refuse nonsense
    assert head.encoder in space.encoders
    assert head.pooling in space.poolings
    assert head.conditioning in space.conditionings
    assert space.bidirectional or not head.bidirectional


@given(SPACES.filter(makes_sense), st.integers(0, 1000))
def test_what_was_chosen_is_what_was_asked_for(space: SearchSpace, seed: int) -> None:
    chooser = RandomChooser(seed)
    assert list(space.choose(chooser)) == chooser.asked


def test_whatever_leaves_no_choice_is_not_asked_for() -> None:
    chooser = RandomChooser(0)
    SearchSpace().choose(chooser)
    assert not {"encoder", "pooling", "conditioning", "bidirectional"} & set(chooser.asked)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (SearchSpace(encoders=("linear", "lstm"), poolings=("last",)), "no last state to pool"),
        (SearchSpace(encoders=("linear",), bidirectional=True), "has no direction"),
        (SearchSpace(poolings=()), "poolings to try: found none"),
        (SearchSpace(encoders=("gru", "gru")), "encoders to try: found gru, gru"),
    ],
)
def test_options_that_can_never_be_tried_are_refused(space: SearchSpace, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        space.require_sense()
