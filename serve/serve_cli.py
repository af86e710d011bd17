"""The command `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract.options import DEVICE
from serve.options import take_choices

if TYPE_CHECKING:
    from extract.session import Device


@click.command("serve")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Another needs --keys.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/serve"),
    show_default=True,
    help="Jobs, results and uploads; what is there is continued.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Lines name:sha256 of an API key; everybody sees their own videos only.",
)
@take_choices
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Videos scored at the same time.")
@click.option("--max-size", default="2GB", show_default=True, help="Of an upload.")
@click.option("--max-duration", type=float, default=3600, show_default=True, help="Of a video, in seconds.")
@click.option("--max-pixels", default="8192x8192", show_default=True, help="Of a frame: 3840x2160, or 8.3MP.")
@click.option("--sync-size", default="50MB", show_default=True, help="Of what is answered in the same request.")
@click.option("--sync-duration", type=float, default=30, show_default=True, help="Of the same, in seconds.")
@click.option("--queue", type=click.IntRange(min=1), default=100, show_default=True, help="Videos that may wait.")
@click.option(
    "--queue-each",
    type=click.IntRange(min=1),
    default=None,
    help="Videos of one key's owner that may wait; half of --queue unless given.",
)
@click.option("--keep-uploads", type=float, default=0, show_default=True, help="Hours after their job's end.")
@click.option("--keep-results", type=float, default=30, show_default=True, help="Days after their job's end.")
@DEVICE
def serve_command(
    model: Path, host: str, port: int, data: Path, keys: Path | None, choices: dict[str, Any], jobs: int | None,
    max_size: str, max_duration: float, max_pixels: str, sync_size: str, sync_duration: float, queue: int,
    queue_each: int | None, keep_uploads: float, keep_results: float, device: Device,
) -> None:  # fmt: skip
    """Score videos that are sent over HTTP, with MODEL, a folder.

    Every video that was accepted is answered, also after a restart. Open http://HOST:PORT/ for the page, and
    /openapi.json for the interface. Without --keys, this machine alone may ask.
    """
    from extract.isolation import count_decoders
    from serve.service.server import serve
    from serve.service.settings import DAY_S, HOUR_S, Settings, parse_pixels, parse_size

    settings = Settings(
        data,
        parse_size(max_size),
        max_duration,
        parse_pixels(max_pixels),
        most_queued=queue,
        most_queued_each=queue_each or (max(1, queue // 2) if keys else queue),
        jobs=jobs or count_decoders(),
        keep_uploads_s=keep_uploads * HOUR_S,
        keep_results_s=keep_results * DAY_S,
        sync_bytes=parse_size(sync_size),
        sync_s=sync_duration,
        choices=choices,
    )
    serve(settings, model, host, port, keys, device)
