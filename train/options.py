"""Options by which a head and its fitting are chosen on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from extract.errors import UsageError
from train.config import AugmentConfig, FitConfig, HeadShape

Command = TypeVar("Command", bound=Callable[..., Any])

FIT, SHAPE = FitConfig(), HeadShape()
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(0, (1 << 31) - 1)
HEAD_OPTIONS = (
    click.option(
        "--head", "encoder", type=click.Choice(["lstm", "gru", "transformer", "linear"]), default=SHAPE.encoder,
        show_default=True, help="linear is the baseline that ignores order: the mean of single frames.",
    ),
    click.option("--bidirectional", is_flag=True, help="lstm and gru: read each clip backwards too."),
    click.option("--layers", type=click.IntRange(1, 3), default=SHAPE.layers, show_default=True),
    click.option("--projection", type=POSITIVE, default=SHAPE.projection, show_default=True, help="Numbers a frame."),
    click.option("--hidden", type=POSITIVE, default=SHAPE.hidden, show_default=True),
    click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=SHAPE.dropout, show_default=True),
    click.option(
        "--pooling", type=click.Choice(["mean", "max", "attention", "last"]), default=SHAPE.pooling,
        show_default=True, help="From the logits of frames to that of the clip.",
    ),
    click.option(
        "--conditioning", type=click.Choice(["none", "standardise", "layernorm", "pca"]),
        default=SHAPE.conditioning, show_default=True, help="Of the features; fitted on training data.",
    ),
    click.option("--components", type=POSITIVE, default=SHAPE.components, show_default=True, help="Of PCA."),
)  # fmt: skip
FIT_OPTIONS = (
    click.option("--seed", type=SEED, default=FIT.seed, show_default=True),
    click.option("--epochs", type=POSITIVE, default=FIT.epochs, show_default=True, help="At most so many."),
    click.option("--patience", type=POSITIVE, default=FIT.patience, show_default=True, help="Epochs without a better."),
    click.option("--batch-size", type=POSITIVE, default=None, help="Clips; 8 to 64 by their number, unless given."),
    click.option(
        "--learning-rate", type=click.FloatRange(min=0, min_open=True), default=FIT.learning_rate, show_default=True
    ),
    click.option("--schedule", type=click.Choice(["cosine", "constant"]), default=FIT.schedule, show_default=True),
    click.option(
        "--warmup", type=click.FloatRange(0, 1, max_open=True), default=FIT.warmup, show_default=True,
        help="Share of all steps in which the learning rate rises.",
    ),
    click.option("--weight-decay", type=click.FloatRange(min=0), default=FIT.weight_decay, show_default=True),
    click.option(
        "--max-grad-norm", type=click.FloatRange(min=0, min_open=True), default=FIT.max_grad_norm, show_default=True
    ),
    click.option(
        "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default=FIT.precision, show_default=True,
        help="Of training; a head is always stored and judged in fp32.",
    ),
    click.option(
        "--sampling", type=click.Choice(["shuffle", "balanced", "paired"]), default=FIT.sampling, show_default=True,
        help="paired: fakes beside a real clip of their pair.",
    ),
    click.option(
        "--class-weights", type=click.Choice(["balanced", "none"]), default=FIT.class_weights, show_default=True
    ),
    click.option(
        "--augment", type=str, default="", metavar="KIND=VALUE,...",
        help="Changes in time, such as window=0.7,drop=0.2,rate=1.25,reverse=0.5.",
    ),
)  # fmt: skip
MEMORY = click.option("--memory", default=None, metavar="SIZE", help="What this process may take, such as 4GB.")


def add_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds several options in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def make_configs(told: dict[str, Any]) -> tuple[HeadShape, FitConfig]:
    """The head and the fit that the options of a command say."""
    shape = {name: told[name] for name in HeadShape.model_fields}
    fit = {name: told[name] for name in FitConfig.model_fields if name != "augment"}
    try:
        return HeadShape(**shape), FitConfig(augment=parse_augment(told["augment"]), **fit)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"--{name} {first['input']}: {first['msg'].lower()}") from error


def parse_augment(text: str) -> AugmentConfig:
    """Reads `window=0.7,drop=0.2`; nothing is no change."""
    example = "write for example window=0.7,drop=0.2,rate=1.25,reverse=0.5"
    told: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.strip().partition("=")
        if name not in AugmentConfig.model_fields:
            raise UsageError(f"--augment {part!r} is not understood; {example}")
        try:
            told[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--augment {part!r} has no number; {example}") from error
    try:
        return AugmentConfig(**told)
    except ValueError as error:
        raise UsageError(f"--augment {text!r} is out of range; {example}") from error
