"""Commands that look into feature caches: cache info, verify, merge, diff, show."""

from __future__ import annotations

import json
from pathlib import Path

import click

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group("cache")
def cache_group() -> None:
    """Look into a feature cache."""


@cache_group.command("info")
@click.argument("path", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@AS_JSON
def cache_info_command(path: Path, as_json: bool) -> None:
    """Say what a cache holds and what it was made with."""
    from extract.cache import summarise_cache

    summary = summarise_cache(path)
    if as_json:
        click.echo(json.dumps(summary))
        return
    for key, value in summary.items():
        click.echo(f"{key:20} {json.dumps(value) if isinstance(value, dict) else value}")
