"""The command `watch`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from extract.options import DEVICE
from serve.options import PRESET, THRESHOLD, TRACKS

if TYPE_CHECKING:
    from extract.session import Device
    from serve.watch import Show


@click.command("watch")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document a line: header, frames, clips, summary.")
@PRESET
@THRESHOLD
@click.option("--window", "window_s", type=float, default=30.0, show_default=True, help="Seconds that the score is of.")
@click.option("--fps", type=float, default=None, help="Frames a second to score; the contract's unless given.")
@TRACKS
@click.option("--realtime", is_flag=True, help="Read a file no faster than it plays.")
@click.option("--for", "most_s", type=click.FloatRange(min=0, min_open=True), default=None, help="Seconds of footage.")
@DEVICE
def watch_command(
    model: Path,
    source: str,
    as_json: bool,
    preset: str | None,
    threshold: float | None,
    window_s: float,
    fps: float | None,
    tracks: Literal["main", "all"] | None,
    realtime: bool,
    most_s: float | None,
    device: Device,
) -> None:
    """Score SOURCE while it goes on: a camera's number, a file, a FIFO, or - for standard input.

    The score is that of the last seconds. A camera's frames are dropped where this machine is too slow for them, those
    of files and pipes wait. Ctrl-C ends it with a summary.
    """
    from extract.live_feed import LiveFeed
    from extract.live_video import LiveInstants, LiveOrder, LiveSource
    from serve.ruling import Ruling
    from serve.watch import LiveModel, Watcher, choose_sampling, describe_watch, follow

    place = LiveSource.parse(source)
    opened = LiveModel.open(model, device)
    sampling, remark = choose_sampling(opened.contract.fingerprint.sampling, fps)
    ruling = Ruling.choose(opened.contract, preset, threshold)
    watcher = Watcher(opened, ruling, sampling, tracks, window_s)
    with ExitStack() as stack:
        feed = stack.enter_context(LiveFeed(LiveOrder(place, LiveInstants.of(sampling), realtime)))
        show = _choose_show(as_json, stack)
        show.begin(describe_watch(watcher, place.title, (remark, watcher.remark)))
        follow(feed, watcher, show, most_s)


def _choose_show(as_json: bool, stack: ExitStack) -> Show:
    from rich.console import Console

    from serve.watch_screen import JsonShow, LineShow, PanelShow

    console = Console()
    if as_json or not console.is_terminal:
        return JsonShow() if as_json else LineShow()
    panel = PanelShow(console)
    stack.callback(panel.close)
    return panel
