"""The command `export`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("export")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--backbone", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option(
    "--detector",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="The run's detector file, where it was a FILE.onnx of your own.",
)
@click.option(
    "--cache",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="The run's feature cache, where it is not at its old place: its sample crops prove parity.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--overwrite", is_flag=True, help="Replace a model in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def export_command(
    run: Path, backbone: Path, detector: Path | None, cache: Path | None, out: Path, overwrite: bool, as_json: bool
) -> None:
    """Fuse RUN with its backbone file into the folder --out, and prove that it computes the same."""
    from export.run import export_run

    done = export_run(run, backbone, out, detector, cache, overwrite, lambda text: click.echo(text, err=True))
    if as_json:
        checks = [check.model_dump() for check in done.checks]
        click.echo(json.dumps({"out": str(out), "purpose": done.contract.purpose, "checks": checks}))
        return
    for check in done.checks:
        click.echo(f"{check.status:12} {check.name}: {check.describe()}")
    kind = " with an UNTRAINED backbone: its scores mean nothing" if done.contract.untrained_backbone else ""
    click.echo(f"{out}: a model for {done.contract.purpose}{kind}")
