"""Videos to features with all stages at work at once: decoder processes, detection, cropping, one backbone.

A thread for each decoder process takes a video through detection and cropping, clip by clip; the crops of all videos
meet in the embedder, which fills the backbone's batches. What waits between two stages is bounded in bytes, so that a
fast stage stops for a slow one. With the length of a video only its features grow (50 MB an hour and face at 2048-d).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from extract.backbones import Backbone
from extract.clips import Clip, ClipSpecs, read_clips
from extract.detectors import Detections, Detector
from extract.embedder import Embedder
from extract.errors import Reason, VideoError
from extract.files import hash_file
from extract.isolation import LIMIT_S, DecoderProcess, IsolatedVideo, count_decoders
from extract.manifest import ManifestVideo
from extract.parts import FileState, make_record
from extract.results import OK, ORIGINAL_VIEW, ClipRows, SamplePicker, VideoRecord, VideoResult
from extract.session import count_processors
from extract.specs import CropSpec, EvenSampling, Fingerprint, SamplingSpec, TrackSpec
from extract.video import Frame, VideoFacts

AHEAD = 4  # videos begun beyond those being decoded, so that no stage runs dry


@dataclass(frozen=True)
class Extractor:
    """The parts that turn a video into features; `decoders` processes feed them."""

    detector: Detector
    backbone: Backbone
    sampling: SamplingSpec = field(default_factory=EvenSampling)
    tracks: TrackSpec = field(default_factory=TrackSpec)
    decoders: int = field(default_factory=count_decoders)
    decode_limit_s: float = LIMIT_S

    @property
    def fingerprint(self) -> Fingerprint:
        """What decides the features."""
        return Fingerprint(
            backbone=self.backbone.spec,
            detector=self.detector.spec,
            sampling=self.sampling,
            crop=CropSpec(size_px=self.backbone.spec.crop_px),
            tracks=self.tracks,
        )

    @property
    def clip_specs(self) -> ClipSpecs:
        """What decides the crops."""
        fingerprint = self.fingerprint
        return ClipSpecs(fingerprint.sampling, fingerprint.crop, fingerprint.tracks)


@dataclass
class StageTimes:
    """Seconds that the stages were at work, added up over threads and processes, which may wait for each other."""

    decode_s: float = 0.0
    detect_s: float = 0.0
    crop_s: float = 0.0
    backbone_s: float = 0.0
    write_s: float = 0.0

    def add(self, other: StageTimes) -> None:
        """Adds the times of some more work."""
        for name, seconds in vars(other).items():
            setattr(self, name, getattr(self, name) + seconds)


@dataclass(frozen=True)
class _Read:
    """A video that has been read to its end, and whose features may still be on their way."""

    record: VideoRecord
    clips: tuple[tuple[ClipRows, Future[NDArray[np.float16]]], ...]  # the rows are without features
    picker: SamplePicker
    times: StageTimes

    def finish(self) -> VideoResult:
        """Waits for the features."""
        if self.record.status != OK:
            return VideoResult(self.record)
        clips = tuple(replace(rows, features=future.result()) for rows, future in self.clips)
        return VideoResult(self.record, clips, self.picker.samples)


class Pipeline:
    """Takes videos and gives their results in whatever order they are done; to be used in a `with` statement."""

    def __init__(self, extractor: Extractor, busy: StageTimes) -> None:
        """`busy` is told how long the stages were at work."""
        self._busy = busy
        self._extractor = extractor
        self._embedder = Embedder(extractor.backbone)
        self._tasks: SimpleQueue[tuple[ManifestVideo, Future[_Read]] | None] = SimpleQueue()
        self._closing = Event()
        threads = max(1, count_processors() // extractor.decoders)
        self._decoders = [DecoderProcess(extractor.decode_limit_s, threads) for _ in range(extractor.decoders)]
        self._threads = [Thread(target=self._work, args=(decoder,), daemon=True) for decoder in self._decoders]
        for thread in self._threads:
            thread.start()

    def run(self, videos: Sequence[ManifestVideo]) -> Iterator[VideoResult]:
        """The results of some videos, as they come; one that cannot be used says why."""
        waiting = deque(videos)
        begun: set[Future[_Read]] = set()
        while waiting or begun:
            while waiting and len(begun) < len(self._decoders) + AHEAD:
                future: Future[_Read] = Future()
                begun.add(future)
                self._tasks.put((waiting.popleft(), future))
            done, begun = wait(begun, return_when=FIRST_COMPLETED)
            for future in done:
                read = future.result()
                result = read.finish()
                self._busy.add(read.times)
                self._busy.backbone_s = self._embedder.busy_s
                yield result

    def close(self) -> None:
        """Ends the threads and their processes, in the middle of a video if need be."""
        self._closing.set()
        for decoder in self._decoders:
            self._tasks.put(None)
            decoder.abort()
        self._embedder.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, decoder: DecoderProcess) -> None:
        while (task := self._tasks.get()) is not None and not self._closing.is_set():
            video, future = task
            try:
                future.set_result(self._read(video, decoder))
            except BaseException as error:
                future.set_exception(error)
        decoder.close()

    def _read(self, video: ManifestVideo, decoder: DecoderProcess) -> _Read:
        """Takes one video through decoding, detection and cropping, and its crops to the embedder."""
        state = FileState.read(video.path)
        times = StageTimes()
        clips: list[tuple[ClipRows, Future[NDArray[np.float16]]]] = []
        picker = SamplePicker(video.id)
        status, detail, digest = OK, "", ""
        try:
            digest = _hash_video(video.path)
            source = _TimedSource(decoder.open(video.path), times)
            for clip in self._time_clips(source, times):
                picker.add(clip.crops)
                clips.append((_keep_rows(clip), self._embedder.submit(clip.crops)))
            detail = source.note
        except VideoError as error:
            status, detail = str(error.reason), error.detail
        return _Read(make_record(video, state, digest, status, detail), tuple(clips), picker, times)

    def _time_clips(self, source: _TimedSource, times: StageTimes) -> Iterator[Clip]:
        """The clips of a video; what is neither decoding nor detecting counts as cropping."""
        detector = TimedDetector(self._extractor.detector, times)
        clips = read_clips(source, self._extractor.clip_specs, detector)
        while not self._closing.is_set():
            begun = time.perf_counter()
            elsewhere_s = source.waited_s + times.detect_s
            clip = next(clips, None)
            times.crop_s += time.perf_counter() - begun - (source.waited_s + times.detect_s - elsewhere_s)
            if clip is None:
                return
            yield clip


def _hash_video(path: Path) -> str:
    """sha256 of a file; nothing where there is none, which decoding will say better."""
    try:
        return hash_file(path) if path.is_file() else ""
    except OSError as error:
        raise VideoError(Reason.DECODE_ERROR, f"{path} cannot be read: {error.strerror}") from error


def _keep_rows(clip: Clip) -> ClipRows:
    """What is stored of a clip; its crops go on to the backbone, and nothing here holds them back."""
    nothing = np.empty((0, 0), np.float16)
    return ClipRows(clip.track, ORIGINAL_VIEW, clip.start_s, clip.end_s, clip.times_s, clip.boxes, clip.scores, nothing)


class _TimedSource:
    """A video being decoded elsewhere, and how long its reader waited for it."""

    def __init__(self, video: IsolatedVideo, times: StageTimes) -> None:
        self.facts: VideoFacts = video.facts
        self.waited_s = 0.0
        self._video = video
        self._times = times

    @property
    def note(self) -> str:
        """What was wrong with a file that could still be used."""
        return self._video.note

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        """The frames on screen at ascending instants."""
        frames = self._video.read_at(instants)
        while True:
            begun = time.perf_counter()
            found = next(frames, None)
            self.waited_s += time.perf_counter() - begun
            if found is None:
                break
            yield found
        self._times.decode_s += self._video.busy_s


class TimedDetector:
    """A detector that counts its own time."""

    def __init__(self, detector: Detector, times: StageTimes) -> None:
        self.spec = detector.spec
        self.provider = detector.provider
        self.path = detector.path
        self._detector = detector
        self._times = times

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        """Faces of each RGB frame of a batch (N, H, W, 3)."""
        begun = time.perf_counter()
        found = self._detector.detect(frames)
        self._times.detect_s += time.perf_counter() - begun
        return found
