"""Commands of the first stage that run networks: backbone, detector, extract; and doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="`cuda` that cannot run on CUDA fails; it never falls back.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command("backbone")
@click.argument("source")
@click.option("--weights", default="imagenet", show_default=True, help="imagenet, random:SEED, or a file.")
@click.option("--mean", default=None, help="For an ONNX file: R,G,B mean its pictures were centred with.")
@click.option("--std", default=None, help="For an ONNX file: R,G,B deviation they were divided by.")
@click.option("--crop-px", type=int, default=None, help="For an ONNX file that leaves the picture's size open.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@AS_JSON
def backbone_command(
    source: str, weights: str, mean: str | None, std: str | None, crop_px: int | None, out: Path, as_json: bool
) -> None:
    """Make backbone.onnx from SOURCE: resnext50_32x4d, efficientnet_lite0, or your own ONNX file."""
    from extract.backbone_files import IMAGENET_MEAN, IMAGENET_STD, make_backbone, wrap_backbone

    if source.endswith(".onnx"):
        spec = wrap_backbone(
            Path(source), out, _parse_triple(mean, IMAGENET_MEAN), _parse_triple(std, IMAGENET_STD), crop_px
        )
    else:
        spec = make_backbone(source, weights, out)
    if as_json:
        click.echo(spec.model_dump_json())
        return
    kind = "" if spec.trained else " (UNTRAINED: random weights, its scores mean nothing)"
    click.echo(f"{out}: {spec.name}, {spec.dim}-d features of {spec.crop_px} px crops, {spec.weights}{kind}")


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
    told = Preprocessing(rgb, _parse_triple(mean, usual.mean), _parse_triple(std, usual.std))
    spec = make_detector(source, out, weights, told if (mean, std, rgb) != (None, None, False) else None)
    click.echo(spec.model_dump_json() if as_json else f"{out}: {spec.name}, sha256 {spec.sha256}")


@click.command("extract")
@click.argument("manifest", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option("--backbone", type=click.Path(exists=True, path_type=Path, dir_okay=False), required=True)
@click.option(
    "--detector", default="retinaface", show_default=True, help="retinaface, retinaface-mobile, mtcnn or FILE.onnx."
)
@click.option("--sampling", default="even:32", show_default=True, help="Instants looked at in each clip.")
@click.option("--clips", type=click.IntRange(min=1), default=None, help="Clips a video; default one for every 10 s.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--part-s", type=float, default=60.0, show_default=True, help="Seconds of work a kill may cost.")
@DEVICE
@AS_JSON
def extract_command(
    manifest: Path, backbone: Path, detector: str, sampling: str, clips: int | None, out: Path, part_s: float,
    device: Any, as_json: bool,
) -> None:  # fmt: skip
    """Fill a feature cache: faces of the videos in MANIFEST through the backbone, once."""
    from extract.backbones import Backbone
    from extract.detectors import open_detector
    from extract.manifest import read_manifest
    from extract.progress import track_videos
    from extract.run import Extractor, extract_manifest
    from extract.specs import SamplingSpec

    videos = read_manifest(manifest)
    sampling_spec = SamplingSpec.parse(sampling, clips)
    extractor = Extractor(open_detector(detector, device), Backbone(backbone, device), sampling_spec)
    with track_videos("extracting", len(videos)) as on_video:
        done = extract_manifest(videos, extractor, out, part_s, on_video)
    if as_json:
        click.echo(json.dumps({"out": str(out), "reused": done.reused, "status_counts": done.status_counts}))
        return
    counts = ", ".join(f"{number} {status}" for status, number in done.status_counts.items())
    click.echo(f"{out}: {sum(done.status_counts.values())} videos ({counts}), {done.reused} already finished")


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


def _parse_triple(text: str | None, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if text is None:
        return default
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not three numbers such as 0.485,0.456,0.406") from error
    return first, second, third
