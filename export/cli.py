"""The commands `export`, `inspect` and `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.options import AS_JSON, DEVICE

if TYPE_CHECKING:
    from export.certificate import Check

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("export")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--backbone", type=FILE, required=True, help="The file that filled the cache, or an fp16 or int8 one made from it."
)
@click.option("--detector", type=FILE, default=None, help="The run's detector file, where it was a FILE.onnx of yours.")
@click.option(
    "--cache",
    type=FILE,
    default=None,
    help="The run's feature cache, where it is not at its old place: its sample crops prove parity.",
)
@click.option("--videos", type=FILE, default=None, help="A manifest to measure the exported model on.")
@click.option(
    "--allow-loss", is_flag=True, help="Take a backbone that costs more than is accepted; the contract records it."
)
@click.option("--triton", type=click.Path(path_type=Path), default=None, help="Also write a Triton model repository.")
@click.option("--mobile", type=click.Path(path_type=Path), default=None, help="Also write .ort files of fixed shapes.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--overwrite", is_flag=True, help="Replace a model in --out.")
@AS_JSON
def export_command(
    run: Path, backbone: Path, detector: Path | None, cache: Path | None, videos: Path | None, allow_loss: bool,
    triton: Path | None, mobile: Path | None, out: Path, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Fuse RUN with its backbone file into the folder --out, and prove that it computes the same."""
    from export.run import ExportRequest, Watcher, export_run

    _require_places(triton, mobile)

    def say(text: str) -> None:
        click.echo(text, err=True)

    watch = Watcher(say, lambda done, total: say(f"{done} of {total}") if done == total or not done % 10 else None)
    done = export_run(run, backbone, out, ExportRequest(detector, cache, videos, allow_loss, overwrite), watch)
    if triton is not None:
        from export.triton import write_triton

        say(f"writing {triton}")
        write_triton(out, triton)
    if mobile is not None:
        from export.mobile import write_mobile

        say(f"writing {mobile}")
        write_mobile(out, mobile)
    if as_json:
        document = {"out": str(out), "purpose": done.contract.purpose, **done.certificate.model_dump(mode="json")}
        click.echo(json.dumps(document))
        return
    _print_checks(done.certificate.checks)
    footage = done.certificate.footage
    click.echo(
        f"{footage.status:12} videos of {footage.manifest}: {footage.describe()}"
        if footage
        else f"{'not measured':12} videos: name a manifest with --videos"
    )
    kind = " with an UNTRAINED backbone: its scores mean nothing" if done.contract.untrained_backbone else ""
    click.echo(f"{out}: a model for {done.contract.purpose}{kind}")


def _require_places(triton: Path | None, mobile: Path | None) -> None:
    """Refuses at once what would be refused only when the model is made."""
    if triton is not None:
        from export.triton import require_place

        require_place(triton)
    if mobile is not None:
        from export.mobile import require_free

        require_free(mobile)


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@AS_JSON
def inspect_command(model: Path, as_json: bool) -> None:
    """Print what MODEL, a folder, is: its contract, files, inputs and outputs, operators, and certificate."""
    from rich.console import Console

    from export.inspection import inspect_model

    found = inspect_model(model)
    if as_json:
        click.echo(json.dumps(found.to_document(), ensure_ascii=False))
        return
    found.print_on(Console())


@click.command("verify")
@click.argument("model", type=click.Path(path_type=Path))
@DEVICE
@AS_JSON
def verify_command(model: Path, device: Any, as_json: bool) -> None:
    """Prove MODEL, a folder, again: sha256 of every file, and parity on synthetic crops. Exit 1 if it is another."""
    from export.verify import require_verified, verify_model

    checks = verify_model(model, device)
    if as_json:
        click.echo(json.dumps({"model": str(model), "checks": [check.model_dump() for check in checks]}))
    else:
        _print_checks(checks)
    require_verified(model, checks)


def _print_checks(checks: list[Check] | tuple[Check, ...]) -> None:
    for check in checks:
        click.echo(f"{check.status:12} {check.name}: {check.describe()}")
