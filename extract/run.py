"""Extraction: every video of a manifest through detector and backbone once, into a cache that survives a kill."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from extract.backbones import Backbone
from extract.cache import OK, ClipRows, SamplePicker, VideoRecord, VideoResult, open_cache
from extract.clips import ClipSpecs, read_clips
from extract.detectors import Detector
from extract.errors import Reason, VideoError
from extract.files import hash_file
from extract.manifest import ManifestVideo
from extract.parts import FileState, PartStore, label_record
from extract.specs import CropSpec, Fingerprint, SamplingSpec, TrackSpec
from extract.video import open_video

OnVideo = Callable[[VideoRecord], None]


@dataclass(frozen=True)
class Extraction:
    """How a run ended: videos taken from an earlier run, and the statuses of all."""

    out: Path
    reused: int
    status_counts: dict[str, int]


@dataclass(frozen=True)
class Extractor:
    """The parts that turn a video into features."""

    detector: Detector
    backbone: Backbone
    sampling: SamplingSpec = field(default_factory=SamplingSpec)

    @property
    def fingerprint(self) -> Fingerprint:
        """What decides the features."""
        return Fingerprint(
            backbone=self.backbone.spec,
            detector=self.detector.spec,
            sampling=self.sampling,
            crop=CropSpec(size_px=self.backbone.spec.crop_px),
            tracks=TrackSpec(),
        )

    def extract_video(self, video: ManifestVideo) -> VideoResult:
        """Features of one video, or the reason why it has none."""
        state = FileState.read(video.path)
        fingerprint = self.fingerprint
        specs = ClipSpecs(fingerprint.sampling, fingerprint.crop, fingerprint.tracks)
        clips: list[ClipRows] = []
        picker = SamplePicker(video.id)
        status, detail, digest = OK, "", ""
        try:
            digest = hash_file(video.path) if video.path.is_file() else ""
            opened = open_video(video.path)
            for clip in read_clips(opened, specs, self.detector):
                features = self.backbone.embed(clip.crops).astype(np.float16)
                columns = (clip.times_s, clip.boxes, clip.scores, features)
                clips.append(ClipRows(clip.track, 0, clip.start_s, clip.end_s, *columns))
                picker.add(clip.crops)
            detail = opened.note
        except VideoError as error:
            status, detail = str(error.reason), error.detail
        except OSError as error:
            status, detail = str(Reason.DECODE_ERROR), f"{video.path} cannot be read: {error.strerror}"
        record = VideoRecord(
            id=video.id, size=state.size, mtime_ns=state.mtime_ns, sha256=digest, status=status, detail=detail,
            path="", label="", group="", pair="", dataset="", method="", split="", protocol="",
        )  # fmt: skip
        record = label_record(record, video)
        return VideoResult(record, tuple(clips), picker.samples) if status == OK else VideoResult(record)


def extract_manifest(
    videos: Sequence[ManifestVideo],
    extractor: Extractor,
    out: Path,
    part_s: float = 60.0,
    on_video: OnVideo | None = None,
) -> Extraction:
    """Fills `out` with the features of all videos; run again after a kill, it continues.

    A video counts as finished while its file's size and time stay the same. Raises MismatchError where `out` was
    begun with other specs or weights.
    """
    store = PartStore(out, extractor.fingerprint, _describe_software(extractor), part_s)
    finished = store.find_finished()
    # In order of id, as they will stand in the cache: assembling then reads each part once, front to back.
    todo = [v for v in sorted(videos, key=lambda v: v.id) if finished.get(v.id) != FileState.read(v.path)]
    try:
        for video in todo:
            result = extractor.extract_video(video)
            store.add(result)
            if on_video is not None:
                on_video(result.record)
    finally:
        store.flush()  # an interrupted run keeps what it has
    if store.is_complete(videos):
        store.discard_parts()
    else:
        store.assemble(videos)
    with open_cache(out) as cache:
        statuses = [record.status for record in cache.videos]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    return Extraction(out, len(videos) - len(todo), counts)


def _describe_software(extractor: Extractor) -> dict[str, str]:
    packages = ("unmask", "av", "numpy", "opencv-python-headless")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "backbone_provider": extractor.backbone.provider,
        "detector_provider": extractor.detector.provider,
    }
