"""Commands for the list of videos: manifest, audit."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("manifest")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--layout", type=click.Choice(["auto", "folders", "csv"]), default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def manifest_command(source: Path, layout: str, out: Path) -> None:
    """List the videos of a dataset: SOURCE is a folder with Real/ and Fake/, or a CSV with path and label."""
    from extract.manifest import make_manifest, write_manifest

    videos = make_manifest(source, layout)
    write_manifest(out, videos)
    real = sum(v.label == "real" for v in videos)
    missing = sum(not v.path.is_file() for v in videos)
    groups = len({v.group for v in videos if v.group})
    click.echo(f"{out}: {len(videos)} videos, {real} real, {len(videos) - real} fake, {groups} groups")
    if missing:
        click.echo(f"warning: {missing} of these files do not exist", err=True)
    if not groups:
        click.echo("warning: no column or name tells who is seen; fill in `group`, or persons leak", err=True)
    elif not source.is_file():
        click.echo("the groups were read from file names: check them", err=True)
