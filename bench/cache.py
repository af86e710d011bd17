"""What the feature cache costs at the scale of a large dataset: writing, assembling, opening, reading, resuming."""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import click
import numpy as np

from bench.turns import measure
from extract.cache import ClipRows, SamplePicker, VideoRecord, VideoResult, open_cache
from extract.cache_verify import verify_cache
from extract.manifest import ManifestVideo
from extract.parts import FileState, PartStore
from extract.run import extract_manifest
from extract.specs import BackboneSpec, DetectorSpec, Fingerprint

ROWS = 32
CROP_PX = 32


@click.command()
@click.option("--videos", type=click.IntRange(min=20), default=100_000, show_default=True)
@click.option("--dim", type=click.IntRange(min=1), default=64, show_default=True, help="Numbers in a feature.")
@click.option("--part-videos", type=click.IntRange(min=1), default=60, show_default=True, help="Videos in a part.")
@click.option(
    "--shuffle", type=click.IntRange(min=1), default=32, show_default=True, help="Videos that may overtake one another."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of indented JSON.")
def main(videos: int, dim: int, part_videos: int, shuffle: int, as_json: bool) -> None:
    """Prints one JSON document; the videos are empty files, their features random numbers.

    The flatness compares the last tenth of the videos with the first, by the medians of all adds and of those that
    wrote a part.
    """
    with TemporaryDirectory() as folder:
        manifest = make_files(Path(folder), videos)
        out = Path(folder) / "features.h5"
        document = {
            "benchmark": "cache",
            "videos": videos,
            "rows_per_video": ROWS,
            "dim": dim,
            "part_videos": part_videos,
            "shuffle": shuffle,
            **measure_run(manifest, out, dim, part_videos, shuffle),
            **measure_reading(out),
            "machine": {"processors": os.cpu_count(), "system": platform.platform(), "h5py": version("h5py")},
        }
    click.echo(json.dumps(document, indent=None if as_json else 2))


def make_files(folder: Path, count: int) -> list[ManifestVideo]:
    """A manifest of empty files, a thousand in each folder."""
    videos = []
    for number in range(count):
        path = folder / "videos" / f"{number // 1000:04d}" / f"id{number % 59}_{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        name = path.relative_to(folder).as_posix()
        videos.append(ManifestVideo(name, path, "fake" if number % 2 else "real", "train", f"id{number % 59}"))
    return videos


def measure_run(
    manifest: Sequence[ManifestVideo], out: Path, dim: int, part_videos: int, shuffle: int
) -> dict[str, object]:
    """A run from nothing, and then the same command again."""
    clock = iter(range(10**9))  # a second for each look at it
    results = ResultSource(dim)
    order = shuffle_within(range(len(manifest)), shuffle)
    begun = time.perf_counter()
    with PartStore(out, make_fingerprint(dim), {}, part_videos, lambda: float(next(clock))) as store:
        seconds = []
        for number in order:
            result = results.make(manifest[number])
            started = time.perf_counter()
            store.add(result)
            seconds.append(time.perf_counter() - started)
        store.flush()
    parts = len(list(store.out.with_name(f"{out.name}.parts").glob("*.h5")))
    with PartStore(out, make_fingerprint(dim), {}) as store:
        held_mib = read_peak_mib()
        assemble_s, _ = measure(lambda: store.assemble(manifest))
    run_s = time.perf_counter() - begun
    resume_s, complete = measure(lambda: resume(manifest, out, dim))
    tenth = len(seconds) // 10
    first, last = seconds[:tenth], seconds[-tenth:]
    return {
        "parts": parts,
        "add_us_per_video": {
            "median": round(statistics.median(seconds) * 1e6, 1),
            "mean": round(statistics.fmean(seconds) * 1e6, 1),
            "flatness": round(statistics.median(last) / statistics.median(first), 2),
            "flatness_of_parts": round(find_part_s(last, part_videos) / find_part_s(first, part_videos), 2),
        },
        "assemble_s": round(assemble_s, 2),
        "assemble_us_per_video": round(assemble_s / len(manifest) * 1e6, 1),
        "peak_mib": {"before_assembling": held_mib, "after_assembling": read_peak_mib()},
        "run_s": round(run_s, 2),
        "resume_finished_s": round(resume_s, 3),
        "resume_share_of_run": round(resume_s / run_s, 4),
        "resume_found_complete": complete,
        "file_mib": out.stat().st_size >> 20,
    }


def find_part_s(seconds: Sequence[float], part_videos: int) -> float:
    """Median seconds of the adds that wrote a part: the slowest ones, as many as there are parts."""
    return statistics.median(sorted(seconds)[-max(1, len(seconds) // part_videos) :])


def measure_reading(out: Path) -> dict[str, object]:
    """Opening with all records, reading result by result, and verifying."""

    def open_records() -> int:
        with open_cache(out) as cache:
            return len(cache.videos)

    def read_each() -> int:
        with open_cache(out) as cache:
            return sum(len(result.clips) for result in cache.read_results(range(cache.video_count)))

    open_s, videos = measure(open_records)
    read_s, _ = measure(read_each)
    verify_s, _ = measure(lambda: verify_cache(out))
    return {
        "open_s": round(open_s, 3),
        "read_us_per_video": round(read_s / videos * 1e6, 1),
        "verify_s": round(verify_s, 2),
    }


def resume(manifest: Sequence[ManifestVideo], out: Path, dim: int) -> bool:
    """A second run of the same command; True where it found nothing to do."""
    idle = SimpleNamespace(provider="none")
    extractor: Any = SimpleNamespace(fingerprint=make_fingerprint(dim), backbone=idle, detector=idle)
    return extract_manifest(manifest, extractor, out).reused == len(manifest)


class ResultSource:
    """Results as extraction gives them, without its work: one clip, other numbers in each."""

    def __init__(self, dim: int) -> None:
        rng = np.random.default_rng(0)
        self._dim = dim
        self._noise = rng.standard_normal(ROWS * dim * 64).astype(np.float16)
        self._crops = rng.integers(0, 256, (ROWS, CROP_PX, CROP_PX, 3), np.uint8)
        self._made = 0

    def make(self, video: ManifestVideo) -> VideoResult:
        """The next result."""
        self._made += 1
        start = self._made * 977 % (len(self._noise) - ROWS * self._dim)
        features = self._noise[start : start + ROWS * self._dim].reshape(ROWS, self._dim).copy()
        times_s = np.linspace(0.1, 9.9, ROWS)
        boxes = np.tile(np.array([10, 20, 90, 100], np.float32), (ROWS, 1)) + self._noise[:ROWS, None].astype(
            np.float32
        )
        clip = ClipRows(0, 0, 0.0, 10.0, times_s, boxes, np.full(ROWS, 0.99, np.float32), features)
        state = FileState.read(video.path)
        record = VideoRecord(
            video.id, str(video.path), state.size, state.mtime_ns, f"{self._made * 0x9E3779B97F4A7C15:064x}"[-64:],
            video.label, video.group, "", "", "", video.split, "", "OK", "",
        )  # fmt: skip
        picker = SamplePicker(video.id)
        picker.add(self._crops)
        return VideoResult(record, (clip,), picker.samples)


def shuffle_within(numbers: Sequence[int], most: int) -> list[int]:
    """The numbers in an order in which none comes more than `most` places from its own."""
    rng = random.Random(0)
    blocks = [list(numbers[start : start + most]) for start in range(0, len(numbers), most)]
    return [number for block in blocks for number in rng.sample(block, len(block))]


def make_fingerprint(dim: int) -> Fingerprint:
    """A fingerprint of things that do not exist."""
    backbone = BackboneSpec(
        name="none", sha256="0" * 64, weights="none", weights_sha256="0" * 64, dim=dim, crop_px=CROP_PX, trained=False
    )
    return Fingerprint(backbone=backbone, detector=DetectorSpec(kind="mtcnn", name="none", package="none"))


def read_peak_mib() -> int:
    """Most memory the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
