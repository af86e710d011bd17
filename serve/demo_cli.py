"""The command `demo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("data/demo"), show_default=True)
@click.option("--detector", default=None, help="retinaface-mobile where it can be had, else mtcnn, unless given.")
@click.option("--backbone", default=None, help="resnext50_32x4d where its weights can be had, else efficientnet_lite0.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo_command(out: Path, detector: str | None, backbone: str | None, seed: int) -> None:
    """Make labelled clips from footage that installed packages carry, and run every stage on them."""
    from rich.console import Console

    from serve.demo import run_demo

    run_demo(out, detector, backbone, seed, Console())
