"""Scores files with an exported model: the library's `Scorer.open("model/").score("clip.mp4")`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.bundle import ModelFolder, open_model_folder, require_detector
from export.contract import Contract
from export.fused import ClipScores, FusedModel
from export.verify import require_replay
from extract.clips import Clip, ClipSpecs, read_clips
from extract.detectors import Detector, open_detector_of_spec
from extract.errors import CancelledError, VideoError
from extract.isolation import CANCEL_S, Cancel, DecoderProcess, IsolatedVideo, count_decoders
from extract.limits import MediaLimits
from extract.session import Device, count_processors
from extract.video import Frame, VideoFacts
from serve.batcher import ClipBatcher
from serve.clip_model import ClipModel
from serve.conclusion import Conclusion, conclude
from serve.decoders import DecoderPool
from serve.ruling import Ruling, as_prob
from serve.source import SourceFile
from serve.verdict import ClipScore, FileFacts, FrameScore, ModelFacts, Outcome, Verdict

Keep = Literal["main", "all"]
Progress = Callable[[float, float], None]  # seconds of footage read, of so many

NOTHING = np.empty((0, 0, 0, 3), np.uint8)
WAITING_BYTES = 32 << 20  # of crops of one file that wait for the scorer, or one clip if that is larger


@dataclass(frozen=True)
class _Sent:
    """A clip whose crops wait for the scorer; nothing here holds them back."""

    clip: Clip
    crops_bytes: int
    scores: Future[ClipScores]


class Scorer:
    """An exported model ready to score files; several threads may use it at once. Close it, or use it in a `with`.

    Every face is followed and scored. Which of them count towards the video's score is the contract's choice, unless
    `tracks` says otherwise.
    """

    def __init__(
        self,
        folder: ModelFolder,
        model: FusedModel,
        detector: Detector,
        ruling: Ruling | None = None,
        tracks: Keep | None = None,
        decoders: DecoderPool | None = None,
    ) -> None:
        self.folder = folder
        self.contract: Contract = model.contract
        self.ruling = ruling or Ruling.choose(self.contract)
        prints = self.contract.fingerprint
        self.tracks: Keep = tracks or prints.tracks.keep
        if self.tracks != prints.tracks.keep:  # what the threshold does with other faces, nobody has measured
            self.ruling = replace(self.ruling, known=None)
        self.provider = model.provider
        self.facts = describe_model(folder, self.contract)
        self._remark = warn_of_tracks(self.tracks, prints.tracks.keep)
        self._detector = detector
        self._specs = ClipSpecs(prints.sampling, prints.crop, prints.tracks.model_copy(update={"keep": "all"}))
        self._batcher = ClipBatcher(ClipModel(folder, model))
        self._decoders = decoders or make_decoders()

    @classmethod
    def open(
        cls,
        path: str | Path,
        device: Device = "auto",
        *,
        preset: str | None = None,
        threshold: float | None = None,
        prevalence: float | None = None,
        tracks: Keep | None = None,
        jobs: int = 1,
        limits: MediaLimits | None = None,
    ) -> Scorer:
        """Opens a model folder and has it prove itself on synthetic crops.

        Raises an UnmaskError for one that is damaged, cannot run on `device`, or does not give the numbers of its
        certificate here. `jobs` says how many files are meant to be scored at once, `limits` what a file may cost.
        """
        decoders = make_decoders(jobs, limits)
        try:
            decoders.launch()  # it starts while the model is loaded
            folder = open_model_folder(Path(path))
            model = FusedModel(folder.scorer, device)
            spec = model.contract.fingerprint.detector
            require_detector(folder, spec)
            ruling = Ruling.choose(model.contract, preset, threshold, prevalence)
            detector = open_detector_of_spec(spec, folder.detector, device)
            require_replay(folder, model)
            return cls(folder, model, detector, ruling, tracks, decoders)
        except BaseException:
            decoders.close()
            raise

    def score(self, path: str | Path, progress: Progress | None = None, cancel: Cancel | None = None) -> Verdict:
        """The verdict on one file; a file that cannot be scored gets a verdict that says why, never an error.

        `progress` is told how far the footage was read, from the calling thread. Raises CancelledError soon after
        `cancel` is set.
        """
        source = SourceFile(Path(path))
        sha256 = facts = None
        with self._decoders.lend() as decoder:
            try:
                video = _WatchedVideo(decoder.open(source.path, cancel), progress)
                sha256 = source.hash(cancel)
                facts = _describe_file(source, video.facts)
                conclusion = conclude(self._score_clips(video, cancel), self.ruling)
                source.require_unchanged()
            except VideoError as error:
                return self._refuse(source.path, sha256 or source.hash_small(cancel), error, facts)
        return self._report(source.path, sha256, conclusion, facts, video.note)

    def score_many(
        self, paths: Iterable[str | Path], jobs: int | None = None, cancel: Cancel | None = None
    ) -> Generator[Verdict, None, None]:
        """Verdicts as they come, `jobs` files at a time; their clips are stacked in the scorer's runs.

        Closing it early stops what is being read.
        """
        stop = _Either(Event(), cancel)
        waiting, jobs = iter(paths), jobs or count_decoders()
        with ThreadPoolExecutor(jobs, thread_name_prefix="score") as pool:
            running = {pool.submit(self.score, path, None, stop) for path in islice(waiting, jobs)}
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    running |= {pool.submit(self.score, path, None, stop) for path in islice(waiting, len(done))}
                    for future in done:
                        yield future.result()
            finally:
                stop.own.set()

    @contextmanager
    def read(self, path: Path, cancel: Cancel | None = None) -> Iterator[IsolatedVideo]:
        """A file opened once more in a decoder of its own; raises VideoError where it cannot be."""
        with self._decoders.lend() as decoder:
            yield decoder.open(path, cancel)

    def close(self) -> None:
        """Ends its threads and processes."""
        self._decoders.close()
        self._batcher.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _score_clips(self, video: _WatchedVideo, cancel: Cancel | None) -> Iterator[tuple[int, ClipScore]]:
        """Every clip of every face with its scores; a few clips wait for the scorer while the next are read."""
        sent: deque[_Sent] = deque()
        try:
            for clip in read_clips(video, self._specs, self._detector):
                sent.append(_Sent(replace(clip, crops=NOTHING), clip.crops.nbytes, self._batcher.submit(clip.crops)))
                while len(sent) > 1 and sum(one.crops_bytes for one in sent) > WAITING_BYTES:
                    yield self._receive(sent.popleft(), cancel)
            while sent:
                yield self._receive(sent.popleft(), cancel)
        finally:
            for one in sent:  # nobody wants them any more
                one.scores.cancel()

    def _receive(self, sent: _Sent, cancel: Cancel | None) -> tuple[int, ClipScore]:
        clip, scores = sent.clip, _await(sent.scores, cancel)
        frames = tuple(
            FrameScore(float(time_s), float(prob), _as_box(box))
            for time_s, prob, box in zip(clip.times_s, scores.frame_prob[0], clip.boxes, strict=True)
        )
        counted = clip.main or self.tracks == "all"
        score = ClipScore(clip.start_s, clip.end_s, float(scores.logit[0]), float(scores.prob[0]), counted, frames)
        return clip.track, score

    def _refuse(self, path: Path, sha256: str | None, error: VideoError, facts: FileFacts | None) -> Verdict:
        return self._make_verdict(
            path, sha256, facts, outcome=Outcome.NOT_SCORABLE, reason=str(error.reason), detail=error.detail
        )

    def _report(
        self, path: Path, sha256: str | None, conclusion: Conclusion, facts: FileFacts | None, note: str
    ) -> Verdict:
        several = len(conclusion.tracks) > 1
        remarks = (conclusion.remark, self._remark if several else "", note)
        return self._make_verdict(
            path,
            sha256,
            facts,
            outcome=conclusion.outcome,
            detail="; ".join(remark for remark in remarks if remark),
            logit=conclusion.logit,
            conclusion=conclusion,
        )

    def _make_verdict(
        self,
        path: Path,
        sha256: str | None,
        facts: FileFacts | None,
        *,
        outcome: Outcome,
        detail: str,
        reason: str | None = None,
        logit: float | None = None,
        conclusion: Conclusion | None = None,
    ) -> Verdict:
        ruling = self.ruling
        return Verdict(
            path=str(path),
            sha256=sha256,
            outcome=outcome,
            reason=reason,
            detail=detail,
            p_fake=None if logit is None else as_prob(logit),
            logit=logit,
            threshold=ruling.value,
            uncertain=(ruling.low, ruling.high),
            preset=ruling.preset,
            rates=ruling.rates,
            odds=ruling.weigh(logit),
            face=conclusion.face if conclusion else None,
            tracks=conclusion.tracks if conclusion else (),
            file=facts,
            model=self.facts,
            provider=self.provider,
            purpose=self.contract.purpose,
            untrained_backbone=self.contract.untrained_backbone,
        )


def make_decoders(jobs: int = 1, limits: MediaLimits | None = None) -> DecoderPool:
    """Decoders for `jobs` files at once, which share the processors; two more are kept for those who look at a file."""
    threads = max(1, count_processors() // jobs)
    return DecoderPool(lambda: DecoderProcess(threads=threads, limits=limits or MediaLimits()), most_idle=jobs + 2)


class _Either:
    """Set when the caller's own cancel is, or ours."""

    def __init__(self, own: Event, other: Cancel | None) -> None:
        self.own = own
        self._other = other

    def is_set(self) -> bool:
        return self.own.is_set() or (self._other is not None and self._other.is_set())


class _WatchedVideo:
    """A video whose reader is told how far it is."""

    def __init__(self, video: IsolatedVideo, progress: Progress | None) -> None:
        self.facts: VideoFacts = video.facts
        self._video = video
        self._progress = progress

    @property
    def note(self) -> str:
        """What was wrong with a file that could still be used."""
        return self._video.note

    def read_at(self, instants: NDArray[np.float64]) -> Iterator[tuple[slice, Frame]]:
        """The frames on screen at ascending instants."""
        for served, frame in self._video.read_at(instants):
            if self._progress is not None:
                self._progress(frame.time_s, self.facts.duration_s)
            yield served, frame


def _await(scores: Future[ClipScores], cancel: Cancel | None) -> ClipScores:
    while cancel is not None and not scores.done():
        wait([scores], CANCEL_S)
        if cancel.is_set():
            raise CancelledError("scoring was cancelled")
    return scores.result()


def describe_model(folder: ModelFolder, contract: Contract) -> ModelFacts:
    """Which model speaks."""
    head = contract.head
    ways = ", both ways" if head.bidirectional else ""
    return ModelFacts(
        id=folder.scorer_sha256,
        backbone=contract.backbone.name,
        precision=contract.backbone.precision,
        head=f"{head.encoder}{ways}, {head.pooling} pooling",
        detector=contract.fingerprint.detector.name,
        datasets=contract.training.datasets,
        unmask_version=contract.unmask_version,
    )


def warn_of_tracks(taken: Keep, chosen: Keep) -> str:
    """What to say where other faces count than those that the threshold was chosen on."""
    if taken == chosen:
        return ""
    if taken == "all":
        return "every face counts, but the threshold was chosen on main faces alone: false alarms are more frequent"
    return "main faces alone count, but the threshold was chosen on every face: more fakes are missed"


def _describe_file(source: SourceFile, facts: VideoFacts) -> FileFacts:
    return FileFacts(
        size_bytes=source.size_bytes,
        container=facts.container,
        codec=facts.codec,
        width=facts.width,
        height=facts.height,
        frames=facts.frames,
        duration_s=facts.duration_s,
    )


def _as_box(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1
