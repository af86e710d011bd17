"""Commands that make the files of networks, and look at the machine: backbone, detector, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from extract.options import AS_JSON


def _print_networks(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from extract.networks import list_networks

    click.echo("\n".join(list_networks()))
    ctx.exit()


@click.command("backbone")
@click.argument("source")
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    help="imagenet, imagenet:NAME where there are several, random:SEED, or a file.",
)
@click.option("--mean", default=None, help="For an ONNX file: R,G,B mean its pictures were centred with.")
@click.option("--std", default=None, help="For an ONNX file: R,G,B deviation they were divided by.")
@click.option("--crop-px", type=int, default=None, help="For an ONNX file that leaves the picture's size open.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="fp16 is half the size and meant for GPUs, int8 a quarter and faster on CPUs. Such a file fills a cache of "
    "its own, or takes its parent's place at export.",
)
@click.option(
    "--calibrate",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    default=None,
    help="For int8: real crops, from a features.h5 or a videos.csv.",
)
@click.option(
    "--detector", default="retinaface", show_default=True, help="What finds the faces of a videos.csv to calibrate on."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_networks,
    help="Print the names of all networks and exit.",
)
@AS_JSON
def backbone_command(
    source: str, weights: str, mean: str | None, std: str | None, crop_px: int | None, precision: Any,
    calibrate: Path | None, detector: str, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Make backbone.onnx from SOURCE: a network's name, your own ONNX file, or a backbone.onnx.

    Networks are efficientnet_lite0 and every classifier of torchvision, such as resnext50_32x4d or vit_b_16; their
    features are what the classifying layer received.
    """
    from extract.backbone_files import Calibrate, Source, build_backbone

    told = Source(source, weights, _parse_triple(mean), _parse_triple(std), crop_px)
    made = build_backbone(told, out, precision, None if calibrate is None else Calibrate(calibrate, detector))
    click.echo(json.dumps(made.to_document()) if as_json else f"{out}: {made}")


@click.command("detector")
@click.argument("source")
@click.option("--weights", default=None, help="For retinaface: a FILE or random:SEED instead of the download.")
@click.option("--mean", default=None, help="For a raw FILE.onnx: mean of its channels, 0 to 255.")
@click.option("--std", default=None, help="For a raw FILE.onnx: deviation of its channels, 0 to 255.")
@click.option("--rgb", is_flag=True, help="For a raw FILE.onnx: its channels are RGB, not BGR.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@AS_JSON
def detector_command(
    source: str, weights: str | None, mean: str | None, std: str | None, rgb: bool, out: Path, as_json: bool
) -> None:
    """Make detector.onnx from SOURCE: retinaface, retinaface-mobile, or a raw RetinaFace FILE.onnx."""
    from extract.detector_files import make_detector
    from extract.detector_sources import Preprocessing

    usual = Preprocessing()
    told = Preprocessing(rgb, _parse_triple(mean) or usual.mean, _parse_triple(std) or usual.std)
    spec = make_detector(source, out, weights, told if (mean, std, rgb) != (None, None, False) else None)
    click.echo(spec.model_dump_json() if as_json else f"{out}: {spec.name}, sha256 {spec.sha256}")


@click.command("doctor")
@AS_JSON
def doctor_command(as_json: bool) -> None:
    """Check this machine: packages, ONNX Runtime's devices, weights at hand."""
    from extract.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps(findings))
        return
    for section, entries in findings.items():
        click.echo(section)
        for name, text in entries.items():
            click.echo(f"  {name:28} {text}")


def _parse_triple(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not three numbers such as 0.485,0.456,0.406") from error
    return first, second, third
