"""Options that several commands take."""

from __future__ import annotations

import click

DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="`cuda` that cannot run on CUDA fails; it never falls back.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
