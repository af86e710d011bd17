"""Options on what decides, which scoring takes wherever it runs; a command gets them as `choices` of `Scorer.open`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

Command = Callable[..., Any]
PRESET = click.option(
    "--preset", default=None, help="Which of the model's thresholds decides; its default one unless given."
)
THRESHOLD = click.option(
    "--threshold", type=float, default=None, help="A threshold of your own, without an UNCERTAIN band."
)
PREVALENCE = click.option(
    "--prevalence", type=float, default=None, help="Share of fakes to expect: what is an alarm worth there?"
)
TRACKS = click.option(
    "--tracks",
    type=click.Choice(["main", "all"]),
    default=None,
    help="Faces that count; the model's choice unless given. All are scored.",
)


def take_choices(command: Command) -> Command:
    """Adds all of them to a command."""

    @wraps(command)
    def run(*arguments: Any, preset: Any, threshold: Any, prevalence: Any, tracks: Any, **others: Any) -> Any:
        choices = {"preset": preset, "threshold": threshold, "prevalence": prevalence, "tracks": tracks}
        return command(*arguments, choices=choices, **others)

    for option in (TRACKS, PREVALENCE, THRESHOLD, PRESET):
        run = option(run)
    return run
