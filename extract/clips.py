"""From a video to clips of face crops: what the cache stores features of, and what serving scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from extract.crops import cut_crop
from extract.detectors import Detector
from extract.errors import Reason, VideoError
from extract.specs import CropSpec, SamplingSpec, TrackSpec
from extract.tracks import Tracker, choose_main
from extract.video import Frame, Video

MOST_BATCH_BYTES = 128 << 20
MOST_BATCH_FRAMES = 8


@dataclass(frozen=True)
class ClipSpecs:
    """The specs that decide which crops a video gives."""

    sampling: SamplingSpec
    crop: CropSpec
    tracks: TrackSpec


@dataclass(frozen=True)
class Clip:
    """The crops of one track in one clip."""

    track: int
    start_s: float
    end_s: float
    times_s: NDArray[np.float64]  # (n,)
    boxes: NDArray[np.float32]  # (n, 4) pixels of the upright frame
    scores: NDArray[np.float32]  # (n,)
    crops: NDArray[np.uint8]  # (n, S, S, 3)


@dataclass
class _Face:
    times_s: list[float] = field(default_factory=list)
    boxes: list[NDArray[np.float32]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    crops: list[NDArray[np.uint8]] = field(default_factory=list)


def read_clips(video: Video, specs: ClipSpecs, detector: Detector) -> Iterator[Clip]:
    """Yields the main face of each clip, as the video is decoded.

    Clips in which too few frames show a face are left out; a video without any other raises VideoError: NO_FACE
    where no sampled frame shows one, else TOO_SHORT.
    """
    sampling = specs.sampling
    spans = sampling.cut_clips(video.facts.duration_s, video.facts.frames)
    tracker = Tracker(specs.tracks, step_s=(spans[0][1] - spans[0][0]) / sampling.count)
    clips = most_frames = most_faces = 0
    for number, frames in groupby(_assign_frames(video, sampling, spans), key=itemgetter(0)):
        faces: dict[int, _Face] = defaultdict(_Face)
        seen = 0
        for batch in _batch_frames(frame for _, frame in frames):
            seen += len(batch)
            _add_faces(faces, batch, specs.crop, detector, tracker)
        most_frames = max(most_frames, seen)
        most_faces = max([most_faces, *(len(face.crops) for face in faces.values())])
        clip = _finish_clip(faces, spans[number], sampling.min_frames)
        if clip is not None:
            clips += 1
            yield clip
    if not clips:
        raise _explain_no_clip(most_frames, most_faces, sampling.min_frames)


def _assign_frames(
    video: Video, sampling: SamplingSpec, spans: list[tuple[float, float]]
) -> Iterator[tuple[int, Frame]]:
    """(clip number, frame), each frame once a clip however many of its instants fall on it."""
    instants = np.concatenate([sampling.sample_instants(*span) for span in spans])
    for served, frame in video.read_at(instants):
        for number in range(served.start // sampling.count, (served.stop - 1) // sampling.count + 1):
            yield number, frame


def _batch_frames(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Batches of equal shape that fit in memory whatever the resolution."""
    batch: list[Frame] = []
    for frame in frames:
        most = max(1, min(MOST_BATCH_FRAMES, MOST_BATCH_BYTES // frame.rgb.nbytes))
        if batch and (len(batch) >= most or batch[0].rgb.shape != frame.rgb.shape):
            yield batch
            batch = []
        batch.append(frame)
    if batch:
        yield batch


def _add_faces(
    faces: dict[int, _Face], batch: list[Frame], spec: CropSpec, detector: Detector, tracker: Tracker
) -> None:
    detections = detector.detect(np.stack([frame.rgb for frame in batch]))
    for frame, found in zip(batch, detections, strict=True):
        numbers = tracker.link(frame.time_s, found.boxes)
        for number, box, score in zip(numbers, found.boxes, found.scores, strict=True):
            face = faces[number]
            face.times_s.append(frame.time_s)
            face.boxes.append(box)
            face.scores.append(float(score))
            face.crops.append(cut_crop(frame.rgb, box, spec))


def _finish_clip(faces: dict[int, _Face], span: tuple[float, float], min_frames: int) -> Clip | None:
    if not faces:
        return None
    weighed = {n: (np.stack(face.boxes), np.array(face.scores, np.float32)) for n, face in faces.items()}
    main = choose_main(weighed)
    boxes, scores = weighed[main]
    if len(boxes) < min_frames:
        return None
    face = faces[main]
    return Clip(main, *span, np.array(face.times_s), boxes, scores, np.stack(face.crops))


def _explain_no_clip(frames: int, faces: int, min_frames: int) -> VideoError:
    if frames >= min_frames and faces == 0:
        return VideoError(Reason.NO_FACE, "no sampled frame shows a face")
    if frames < min_frames:
        return VideoError(
            Reason.TOO_SHORT, f"frames in its longest clip: {frames}; a score needs at least {min_frames}"
        )
    return VideoError(
        Reason.TOO_SHORT, f"no face is seen in more than {faces} sampled frames; a score needs at least {min_frames}"
    )
