"""What a sweep may vary: the choices of a head and its fitting, of which every combination makes sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from extract.errors import UsageError
from extract.specs import Spec
from train.config import Conditioning, Encoder, HeadShape, Pooling

T = TypeVar("T")
Chosen = dict[str, Any]  # what a trial chose, by name; whatever leaves no choice is not in it
# What a linear head pools with has a name of its own: its options are others.
LINEAR_POOLING = "linear_pooling"
DIRECTED = ("lstm", "gru")


class Chooser(Protocol):
    """Whoever chooses; a trial of Optuna does."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of some choices."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int:
        """A whole number, both ends included."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number, its logarithm spread evenly where `log` asks for it."""
        ...


class SearchSpace(Spec):
    """The options of each choice, and the ends of each range."""

    encoders: tuple[Encoder, ...] = ("lstm",)
    poolings: tuple[Pooling, ...] = ("mean",)
    conditionings: tuple[Conditioning, ...] = ("layernorm",)
    bidirectional: bool = False  # whether to try both directions too
    projection: tuple[int, ...] = (64, 128, 256, 512)
    hidden: tuple[int, int] = (64, 256)
    hidden_step: int = 64
    layers: tuple[int, int] = (1, 2)
    learning_rate: tuple[float, float] = (1e-4, 1e-2)
    weight_decay: tuple[float, float] = (1e-5, 1e-1)
    dropout: tuple[float, float] = (0.0, 0.5)

    def require_sense(self) -> None:
        """Refuses options of which some can never be tried."""
        for name in ("encoders", "poolings", "conditionings"):
            options = getattr(self, name)
            if not options or len(set(options)) < len(options):
                raise UsageError(f"{name} to try: found {', '.join(options) or 'none'}, expected each of them once")
        if "linear" in self.encoders and self.poolings == ("last",):
            raise UsageError("a linear head has no last state to pool; give it another pooling, or leave it out")
        if self.bidirectional and not set(self.encoders) & set(DIRECTED):
            raise UsageError(f"a {' or '.join(self.encoders)} head has no direction; leave out --bidirectional")

    def choose(self, chooser: Chooser) -> Chosen:
        """Asks for every choice there is."""
        asked = _Asked(chooser)
        encoder = asked.pick("encoder", self.encoders)
        if encoder == "linear":
            asked.pick(LINEAR_POOLING, self._list_linear_poolings())
        else:
            asked.pick("pooling", self.poolings)
            asked.pick("projection", self.projection)
            asked.count("hidden", self.hidden, self.hidden_step)
            asked.count("layers", self.layers, 1)
        if encoder in DIRECTED and self.bidirectional:
            asked.pick("bidirectional", (False, True))
        asked.pick("conditioning", self.conditionings)
        asked.measure("dropout", self.dropout, log=False)
        asked.measure("learning_rate", self.learning_rate, log=True)
        asked.measure("weight_decay", self.weight_decay, log=True)
        return asked.chosen

    def shape_head(self, chosen: Mapping[str, Any], dim: int) -> HeadShape:
        """The head that was chosen, for features of `dim` numbers."""
        encoder = chosen.get("encoder", self.encoders[0])
        linear = encoder == "linear"
        poolings = self._list_linear_poolings() if linear else self.poolings
        given = {name: chosen[name] for name in ("projection", "hidden", "layers", "bidirectional") if name in chosen}
        return HeadShape(
            encoder=encoder,
            pooling=chosen.get(LINEAR_POOLING if linear else "pooling", poolings[0]),
            conditioning=chosen.get("conditioning", self.conditionings[0]),
            components=min(HeadShape().components, dim),
            dropout=chosen["dropout"],
            **given,
        )

    def _list_linear_poolings(self) -> tuple[Pooling, ...]:
        return tuple(pooling for pooling in self.poolings if pooling != "last")


class _Asked:
    """Asks a chooser where there is a choice, and keeps the answers."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self.chosen: Chosen = {}

    def pick(self, name: str, options: Sequence[T]) -> T:
        """One of some options."""
        if len(options) == 1:
            return options[0]
        picked: T = self._chooser.suggest_categorical(name, list(options))
        self.chosen[name] = picked
        return picked

    def count(self, name: str, ends: tuple[int, int], step: int) -> None:
        """A whole number."""
        self.chosen[name] = self._chooser.suggest_int(name, *ends, step=step)

    def measure(self, name: str, ends: tuple[float, float], log: bool) -> None:
        """A number."""
        self.chosen[name] = self._chooser.suggest_float(name, *ends, log=log)
