"""Commands for the list of videos: manifest, audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from extract.options import AS_JSON

LAYOUTS = ("auto", "folders", "celeb-df", "ffpp", "dfdc", "csv")
SPLITS = ("official", "identity-disjoint", "none")


@click.command("manifest")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True, help="How SOURCE lies on disk."
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="official",
    show_default=True,
    help="official: the dataset's own lists, where it has any; identity-disjoint: Celeb-DF only.",
)
@click.option("--compression", type=click.Choice(["raw", "c23", "c40"]), help="FaceForensics++: this one only.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it says something else.")
@AS_JSON
def manifest_command(
    source: Path, layout: str, split: Any, compression: str | None, out: Path, overwrite: bool, as_json: bool
) -> None:
    """List the videos of a dataset: SOURCE is its folder, one with Real/ and Fake/, or a CSV with path and label."""
    from extract.datasets.layouts import make_manifest
    from extract.datasets.listing import Choice
    from extract.manifest import write_manifest

    listing = make_manifest(source, layout, Choice(split, compression or ""))
    write_manifest(out, listing.videos, overwrite)
    if as_json:
        click.echo(json.dumps({"manifest": str(out), **listing.summarise()}))
    else:
        click.echo("\n".join([f"{out}: {listing.describe()[0]}", *listing.describe()[1:]]))
    for note in listing.notes:
        click.echo(f"warning: {note}", err=True)


@click.command("audit")
@click.argument("manifest", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.argument("features", type=click.Path(exists=True, path_type=Path, dir_okay=False), required=False)
@click.option(
    "--similarity", type=click.FloatRange(0, 1), help="Call features near duplicates from here on; default 0.85."
)
@AS_JSON
def audit_command(manifest: Path, features: Path | None, similarity: float | None, as_json: bool) -> None:
    """Look for leaks across the splits of MANIFEST, in the cache FEATURES too where it is named: exit 1."""
    from rich.console import Console

    from extract.audit.leaks import audit_manifest
    from extract.audit.report import describe, tabulate
    from extract.errors import UnmaskError
    from extract.manifest import read_manifest

    audit = audit_manifest(read_manifest(manifest), features, similarity)
    if as_json:
        click.echo(json.dumps(audit.as_document()))
    else:
        if audit.findings:
            Console().print(tabulate(audit))
        click.echo("\n".join(describe(audit)))
    if audit.findings:
        raise UnmaskError(audit.summary)
