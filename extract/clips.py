"""From a video to clips of face crops: what the cache stores features of, and what serving scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extract.crops import cut_crop
from extract.detectors import Detector
from extract.errors import Reason, VideoError
from extract.faces import FaceFinder, SeenFrame
from extract.specs import CropSpec, SamplingSpec, TrackSpec
from extract.tracks import Tracker, choose_main, choose_tracks
from extract.video import Frame, VideoFacts


class FrameSource(Protocol):
    """A video, wherever it is decoded."""

    @property
    def facts(self) -> VideoFacts:
        """What is known of it before decoding."""
        ...

    @property
    def note(self) -> str:
        """After reading: what was wrong with a file that could still be used."""
        ...

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        """Frames on screen at ascending instants, with the slice of instants each of them serves."""
        ...


@dataclass(frozen=True)
class ClipSpecs:
    """The specs that decide which crops a video gives."""

    sampling: SamplingSpec
    crop: CropSpec
    tracks: TrackSpec


@dataclass(frozen=True)
class Clip:
    """The crops of one track in one clip; `main` where it is the main face of the clip."""

    track: int
    main: bool
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


def read_clips(video: FrameSource, specs: ClipSpecs, detector: Detector) -> Iterator[Clip]:
    """Yields the main face of each clip, or all its faces by track, as the video is decoded.

    Faces seen in too few frames of a clip are left out; a video without any other raises VideoError: NO_FACE where
    there are frames enough and none shows a face, else TOO_SHORT.
    """
    sampling = specs.sampling
    spans = sampling.cut_clips(video.facts.duration_s, video.facts.frames)
    finder = FaceFinder(detector, specs.tracks)
    tracker = Tracker(specs.tracks, step_s=sampling.measure_step(spans[0][1] - spans[0][0]))
    clips = most_frames = most_faces = 0
    for number, frames in groupby(_assign_frames(video, sampling, spans), key=itemgetter(0)):
        faces: dict[int, _Face] = defaultdict(_Face)
        seen = 0
        for frame in finder.find(frame for _, frame in frames):
            seen += 1
            _add_faces(faces, frame, specs.crop, tracker)
        most_frames = max(most_frames, seen)
        most_faces = max([most_faces, *(len(face.crops) for face in faces.values())])
        for clip in _finish_clips(faces, spans[number], specs):
            clips += 1
            yield clip
    if not clips:
        raise _explain_no_clip(most_frames, most_faces, sampling.min_frames)


def _assign_frames(
    video: FrameSource, sampling: SamplingSpec, spans: list[tuple[float, float]]
) -> Iterator[tuple[int, Frame]]:
    """(clip number, frame), each frame once a clip however many of its instants fall on it."""
    instants = [sampling.sample_instants(*span) for span in spans]
    numbers = np.repeat(np.arange(len(spans)), [len(of_clip) for of_clip in instants])
    for served, frame in video.read_at(np.concatenate(instants)):
        for number in range(numbers[served.start], numbers[served.stop - 1] + 1):
            yield number, frame


def _add_faces(faces: dict[int, _Face], seen: SeenFrame, spec: CropSpec, tracker: Tracker) -> None:
    numbers = tracker.link(seen.frame.time_s, seen.faces.boxes, seen.shot)
    for number, box, score in zip(numbers, seen.faces.boxes, seen.faces.scores, strict=True):
        face = faces[number]
        face.times_s.append(seen.frame.time_s)
        face.boxes.append(box)
        face.scores.append(float(score))
        face.crops.append(cut_crop(seen.frame.rgb, box, spec))


def _finish_clips(faces: dict[int, _Face], span: tuple[float, float], specs: ClipSpecs) -> Iterator[Clip]:
    weighed = {n: (np.stack(face.boxes), np.array(face.scores, np.float32)) for n, face in faces.items()}
    main = choose_main(weighed) if weighed else None
    for number in choose_tracks(weighed, specs.tracks, specs.sampling.min_frames):
        face = faces[number]
        yield Clip(number, number == main, *span, np.array(face.times_s), *weighed[number], np.stack(face.crops))


def _explain_no_clip(frames: int, faces: int, min_frames: int) -> VideoError:
    if frames >= min_frames and faces == 0:
        return VideoError(Reason.NO_FACE, "no sampled frame shows a face")
    if frames < min_frames:
        return VideoError(
            Reason.TOO_SHORT, f"sampled frames in its longest clip: {frames}; a score needs at least {min_frames}"
        )
    return VideoError(
        Reason.TOO_SHORT, f"no face is seen in more than {faces} sampled frames; a score needs at least {min_frames}"
    )
