"""Commands that look into feature caches: cache info, verify, merge, diff, show."""

from __future__ import annotations

import json
from pathlib import Path

import click

from extract.options import AS_JSON

CACHE = click.Path(exists=True, path_type=Path, dir_okay=False)


@click.group("cache")
def cache_group() -> None:
    """Look into a feature cache."""


@cache_group.command("info")
@click.argument("path", type=CACHE)
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


@cache_group.command("verify")
@click.argument("path", type=CACHE)
@AS_JSON
def cache_verify_command(path: Path, as_json: bool) -> None:
    """Read all of a cache and check every checksum, table and number; exit 1 if anything is damaged."""
    from extract.cache_verify import verify_cache

    done = verify_cache(path)
    if as_json:
        click.echo(json.dumps({**vars(done), "path": str(path)}))
        return
    click.echo(f"{done.datasets} datasets, {done.stored_bytes} bytes: every checksum fits")
    click.echo(
        f"{done.videos} videos, {done.clips} clips, {done.rows} rows, {done.samples} samples: consistent, finite"
    )
    click.echo(f"content {done.content_sha256}: as written")


@cache_group.command("merge")
@click.argument("inputs", type=CACHE, nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@AS_JSON
def cache_merge_command(inputs: tuple[Path, ...], out: Path, overwrite: bool, as_json: bool) -> None:
    """Join caches of one fingerprint, such as the shards of a large job, into one."""
    from extract.cache_merge import merge_caches

    done = merge_caches(inputs, out, overwrite)
    if as_json:
        click.echo(json.dumps({**vars(done), "out": str(out)}))
        return
    click.echo(f"{out}: {done.videos} videos from {done.inputs} caches, {done.repeated} of them repeated")


@cache_group.command("diff")
@click.argument("a", type=CACHE)
@click.argument("b", type=CACHE)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Let differences pass up to here: features in their deviations, times in s, boxes in px, scores as they are.",
)
@AS_JSON
@click.pass_context
def cache_diff_command(context: click.Context, a: Path, b: Path, tolerance: float, as_json: bool) -> None:
    """Say where two caches differ; exit 1 if they do."""
    from extract.cache_diff import diff_caches

    found = diff_caches(a, b, tolerance)
    click.echo(json.dumps(found.to_json()) if as_json else "\n".join(found.describe()))
    context.exit(0 if found.equal else 1)


@cache_group.command("show")
@click.argument("arguments", metavar="[FEATURES] VIDEO", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A PNG file.")
@AS_JSON
def cache_show_command(arguments: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Draw a contact sheet of VIDEO, an id or path: frames, boxes, crops. FEATURES is features.h5 unless given."""
    if len(arguments) > 2:
        raise click.UsageError(f"found {len(arguments)} arguments, expected [FEATURES] VIDEO")
    if out.suffix.lower() != ".png":
        raise click.UsageError(f"--out {out} is not a PNG file; name it {out.with_suffix('.png')}")
    from extract.sheet import make_sheet

    sheet = make_sheet(Path(arguments[0] if len(arguments) == 2 else "features.h5"), arguments[-1], out)
    if as_json:
        click.echo(json.dumps(vars(sheet)))
        return
    click.echo(f"{out}: {sheet.video}, {sheet.clips_shown} of {sheet.clips} clips, {sheet.rows_shown} rows")
