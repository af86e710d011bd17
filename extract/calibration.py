"""Real face crops that 8-bit backbones are calibrated on: a cache's samples, or crops cut from a manifest's videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.clips import ClipSpecs, read_clips
from extract.detectors import Detector, open_detector
from extract.errors import MismatchError, UnmaskError, UsageError, VideoError
from extract.manifest import ManifestVideo, read_manifest
from extract.specs import BackboneSpec, CropSpec, EvenSampling, TrackSpec
from extract.video import open_video

FEWEST = 16  # crops; with fewer, a rare activation's range is a matter of luck
MOST_VIDEOS = 64
CROPS_A_VIDEO = 4


@dataclass(frozen=True)
class CalibrationCrops:
    """Crops (n, S, S, 3) of no test video, and where they come from."""

    crops: NDArray[np.uint8]
    source: str
    videos: int

    def describe(self) -> dict[str, Any]:
        """What the backbone file says of them."""
        return {"source": self.source, "crops": len(self.crops), "videos": self.videos}

    def require_fit(self, spec: BackboneSpec) -> None:
        """Refuses crops of another size than the backbone's, and too few of them."""
        size_px = self.crops.shape[1]
        if size_px != spec.crop_px:
            raise MismatchError(
                f"{self.source} holds crops of {size_px} pixels, but {spec.name} takes {spec.crop_px}; calibrate on a "
                "cache that this backbone filled, or on videos"
            )
        if len(self.crops) < FEWEST:
            raise UnmaskError(
                f"{self.source} gives {len(self.crops)} crops, and 8 bits are calibrated on {FEWEST} at least; give "
                "more videos that show a face"
            )


def read_calibration(path: Path, spec: BackboneSpec, detector: str = "retinaface") -> CalibrationCrops:
    """Crops of a feature cache (its samples) or of the videos of a manifest, where `detector` finds the faces."""
    if not path.is_file():
        raise UsageError(f"no such file: {path}; calibrate on a features.h5 or a videos.csv")
    return _read_samples(path) if path.suffix in (".h5", ".hdf5") else _cut_crops(path, spec, detector)


def _read_samples(path: Path) -> CalibrationCrops:
    from extract.cache import open_cache

    with open_cache(path) as cache:
        crops, _ = cache.read_samples()
        videos = len(np.unique(cache.samples.video))
    return CalibrationCrops(crops, path.name, videos)


def _cut_crops(manifest: Path, spec: BackboneSpec, detector: str) -> CalibrationCrops:
    finder = open_detector(detector, "cpu")
    specs = ClipSpecs(
        EvenSampling(count=CROPS_A_VIDEO, clips=1, min_frames=1),
        CropSpec(size_px=spec.crop_px),
        TrackSpec.suit(finder.spec),
    )
    found = [crops for video in _choose_videos(read_manifest(manifest)) for crops in _read_crops(video, specs, finder)]
    if not found:
        raise UnmaskError(f"no video of {manifest} shows a face to calibrate on; give other videos")
    return CalibrationCrops(np.concatenate(found), manifest.name, len(found))


def _read_crops(video: ManifestVideo, specs: ClipSpecs, finder: Detector) -> Iterator[NDArray[np.uint8]]:
    try:
        yield next(read_clips(open_video(video.path), specs, finder)).crops
    except VideoError:
        return  # it calibrates nothing, as extraction would have no features of it


def _choose_videos(videos: Sequence[ManifestVideo]) -> list[ManifestVideo]:
    """Up to MOST_VIDEOS of those that no test is made with, spread evenly over the manifest."""
    usable = [video for video in videos if video.split != "test"]
    if not usable:
        raise UnmaskError("every video of the manifest is a test video, which must not calibrate; give others")
    chosen = np.unique(np.linspace(0, len(usable) - 1, MOST_VIDEOS).round().astype(int))
    return [usable[place] for place in chosen]
