"""The command that fills a feature cache: extract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.options import AS_JSON, DEVICE

if TYPE_CHECKING:
    from extract.run import Extraction, Redo


@click.command("extract")
@click.argument("manifest", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option("--backbone", type=click.Path(exists=True, path_type=Path, dir_okay=False), required=True)
@click.option(
    "--detector", default="retinaface", show_default=True, help="retinaface, retinaface-mobile, mtcnn or FILE.onnx."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--sampling", default="even:32", show_default=True, help="even:COUNT in each clip, or rate:FPS.")
@click.option(
    "--clips", type=click.IntRange(min=1), default=None, help="Clips a video, for even:COUNT; default one for 10 s."
)
@click.option("--tracks", type=click.Choice(["main", "all"]), default="main", show_default=True, help="Faces to keep.")
@click.option("--retry", multiple=True, metavar="REASON", help="Redo videos of this status, such as TIMED_OUT.")
@click.option("--rehash", is_flag=True, help="Know finished videos by content, not by size and time of the file.")
@click.option("--part-s", type=float, default=60.0, show_default=True, help="How often finished videos are written.")
@click.option("--decoders", type=click.IntRange(min=1), default=None, help="Decoder processes; default by processors.")
@click.option(
    "--decode-limit-s", type=click.FloatRange(min=0, max=3600, min_open=True), default=60.0, show_default=True,
    help="Longest wait for a frame, and for ten seconds of footage.",
)  # fmt: skip
@click.option("--shard", default=None, metavar="I/N", help="Only the I-th of N parts; join them with `cache merge`.")
@click.option("--runner", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--ray-address", default=None, help="A Ray cluster; without it, Ray runs on this machine.")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Ray workers; default one a machine.")
@DEVICE
@AS_JSON
def extract_command(
    manifest: Path, backbone: Path, detector: str, out: Path, sampling: str, clips: int | None, tracks: Any,
    retry: tuple[str, ...], rehash: bool, part_s: float, decoders: int | None, decode_limit_s: float,
    shard: str | None, runner: str, ray_address: str | None, workers: int | None, device: Any, as_json: bool,
) -> None:  # fmt: skip
    """Fill a feature cache: faces of the videos in MANIFEST through the backbone, once."""
    from extract.backbones import Backbone
    from extract.detectors import open_detector
    from extract.isolation import count_decoders
    from extract.manifest import read_manifest
    from extract.pipeline import Extractor
    from extract.progress import track_videos
    from extract.run import RunConfig, extract_manifest, run_locally, select_shard
    from extract.specs import SamplingSpec, TrackSpec

    if runner == "local" and (ray_address or workers):
        raise click.UsageError("--ray-address and --workers go with --runner ray")
    redo = _parse_redo(retry, rehash)
    videos = read_manifest(manifest)
    videos = videos if shard is None else select_shard(videos, shard)
    finder = open_detector(detector, device)
    extractor = Extractor(
        finder,
        Backbone(backbone, device),
        SamplingSpec.parse(sampling, clips),
        TrackSpec.suit(finder.spec, tracks),
        decoders or count_decoders(),
        decode_limit_s,
    )
    run = run_locally
    if runner == "ray":
        from extract.ray_runner import RayRunner

        run = RayRunner(ray_address, workers, device, decoders)
    with track_videos("extracting") as watcher:
        done = extract_manifest(videos, extractor, out, RunConfig(part_s, redo, run), watcher)
    click.echo(json.dumps(_as_document(done)) if as_json else _describe(done))


def _parse_redo(retry: tuple[str, ...], rehash: bool) -> Redo:
    from extract.errors import Reason
    from extract.run import Redo

    return Redo(Reason.parse_retry(retry), rehash)


def _as_document(done: Extraction) -> dict[str, Any]:
    return {
        "out": str(done.out),
        "failures": str(done.failures),
        "reused": done.reused,
        "status_counts": done.status_counts,
        "wall_s": round(done.wall_s, 3),
        "busy_s": {name.removesuffix("_s"): round(seconds, 3) for name, seconds in vars(done.busy).items()},
    }


def _describe(done: Extraction) -> str:
    counts = ", ".join(f"{number} {status}" for status, number in done.status_counts.items())
    lines = [f"{done.out}: {sum(done.status_counts.values())} videos ({counts}), {done.reused} already finished"]
    if set(done.status_counts) - {"OK"}:
        lines.append(f"{done.failures}: each video without features, with its reason")
    busy = ", ".join(
        f"{name.removesuffix('_s')} {seconds / done.wall_s:.0%}" for name, seconds in vars(done.busy).items()
    )
    lines.append(f"{done.wall_s:.1f} s; at work: {busy} of that time")
    return "\n".join(lines)
