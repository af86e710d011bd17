"""Scores a live source while it goes on: each face has a clip that grows, and a score of the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.bundle import FEATURES, STREAM, ModelFolder, open_model_folder, require_detector, require_recorded
from export.contract import Contract, read_contract
from export.live import LiveHead, Memory
from extract.backbones import Backbone
from extract.crops import cut_crop
from extract.detectors import Detections, Detector, open_detector_of_spec
from extract.errors import FormatError, Reason, UsageError, VideoError
from extract.faces import FaceFinder, SeenFrame
from extract.live_video import LiveFrame
from extract.session import Device, open_session
from extract.specs import MOST_FPS, EvenSampling, RateSampling, SamplingSpec, require_same
from extract.tracks import Tracker, choose_main
from serve.conclusion import Conclusion, conclude
from serve.ruling import Ruling, as_prob
from serve.scorer import Keep, describe_model, warn_of_tracks
from serve.verdict import DEMONSTRATION, UNTRAINED, ClipScore, ModelFacts, Outcome

FORMAT = "unmask-watch/1"
WINDOW_S = 30.0
NO_FACE = "no face"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class LiveModel:
    """The parts of an exported model that score a stream."""

    contract: Contract
    facts: ModelFacts
    detector: Detector
    backbone: Backbone
    head: LiveHead

    @classmethod
    def open(cls, path: Path, device: Device = "auto") -> LiveModel:
        """Opens a model folder; an UnmaskError for one that is damaged, or whose head cannot be fed frame by frame."""
        folder = open_model_folder(path)
        _require_stream(folder)
        for name in (FEATURES, STREAM):
            require_recorded(folder, name)
        head, backbone = LiveHead(path / STREAM, 1, device), Backbone(path / FEATURES, device)
        contract = read_contract(open_session(folder.scorer, "cpu"))
        again = "export the model again"
        require_same(head.contract, contract, f"{path / STREAM} carries another contract", again)
        require_same(backbone.spec, contract.backbone, f"{path / FEATURES} is not the backbone of the contract", again)
        spec = contract.fingerprint.detector
        require_detector(folder, spec)
        detector = open_detector_of_spec(spec, folder.detector, device)
        return cls(contract, describe_model(folder, contract), detector, backbone, head)

    @property
    def notices(self) -> tuple[str, ...]:
        """What must stand beside every score."""
        demo = (DEMONSTRATION,) if self.contract.purpose == "demo" else ()
        return demo + ((UNTRAINED,) if self.contract.untrained_backbone else ())


def _require_stream(folder: ModelFolder) -> None:
    if (folder.path / STREAM).is_file():
        return
    why = folder.certificate.streaming
    if not why:
        raise FormatError(f"{folder.path} has no {STREAM}, which its certificate promises; export it again")
    raise UsageError(
        f"{folder.path} cannot watch a stream: {why}; use `unmask score` on recorded files, or train a one-way lstm or "
        "gru head with mean, max or last pooling and export that"
    )


def choose_sampling(trained: SamplingSpec, fps: float | None = None) -> tuple[SamplingSpec, str]:
    """The sampling of a stream, the contract's unless `fps` is given, and what must be said of it."""
    step_s = trained.measure_step(trained.clip_s)
    if fps is None or abs(fps * step_s - 1) < 1e-9:
        if isinstance(trained, EvenSampling) and trained.clips is not None:
            return trained, (
                f"the head was trained on {trained.clips} clip(s) of {trained.count} frames a video, whatever its "
                f"length; a stream is cut into clips of {trained.clip_s:g} s, whose time step it may not know"
            )
        return trained, ""
    fewest = trained.min_frames / trained.clip_s
    if not fewest <= fps <= MOST_FPS:
        raise UsageError(
            f"{fps:g} frames a second: expected {fewest:g} to {MOST_FPS:g}, so that a clip of {trained.clip_s:g} s has "
            f"the {trained.min_frames} frames that a score needs"
        )
    sampling = RateSampling(fps=fps, clip_s=trained.clip_s, min_frames=trained.min_frames)
    return sampling, (
        f"the head was trained at {1 / step_s:g} frames a second and is fed {fps:g}: its error rates there are unknown"
    )


@dataclass(frozen=True)
class FaceUpdate:
    """A face on the frame. `p_fake` is that of the last seconds, on `frames` frames; None before there are enough."""

    track: int
    box: Box
    p_fake: float | None
    frame_p_fake: float
    frames: int


@dataclass(frozen=True)
class ClipEnd:
    """A clip of a face that is complete, as scoring a file would cut it."""

    track: int
    start_s: float
    end_s: float
    frames: int
    logit: float
    p_fake: float
    counted: bool


@dataclass(frozen=True)
class Update:
    """What is known after a frame.

    `p_fake` is that of the last seconds, by the face that gave it, and None where no face has a score; then `reason`
    says why. `faces` are those on this frame, `clips` those that ended before it. `lag_s` is how far the score is
    behind the source's own clock, which started with its first frame.
    """

    time_s: float
    outcome: Outcome
    reason: str | None
    detail: str
    p_fake: float | None
    face: int | None
    faces: tuple[FaceUpdate, ...]
    dropped: int
    lag_s: float
    latency_s: float  # from the decoder to here
    clips: tuple[ClipEnd, ...]

    def to_documents(self) -> Iterator[dict[str, Any]]:
        """A line for every clip that ended, and one for the frame."""
        yield from ({"kind": "clip", **asdict(clip)} for clip in self.clips)
        fields = {name: value for name, value in asdict(self).items() if name not in ("clips", "latency_s")}
        yield {"kind": "frame", **fields}


@dataclass(frozen=True)
class Summary:
    """What there is to say at the end: the score is that of the whole, the highest that of any `window_s` in it."""

    ended: str
    note: str
    seconds: float
    frames: int
    frames_per_s: float
    dropped: int
    tracks: int
    outcome: Outcome
    reason: str | None
    detail: str
    p_fake: float | None
    face: int | None
    highest_p_fake: float | None
    highest_at_s: float | None
    clips: tuple[ClipEnd, ...]

    def to_documents(self) -> Iterator[dict[str, Any]]:
        """A line for every clip that the end has cut off, and one for the whole."""
        yield from ({"kind": "clip", **asdict(clip)} for clip in self.clips)
        yield {"kind": "summary", **{name: value for name, value in asdict(self).items() if name != "clips"}}


@dataclass
class StageSeconds:
    """Seconds that the stages of scoring took."""

    detect: float = 0.0
    crop: float = 0.0
    backbone: float = 0.0
    head: float = 0.0


@dataclass
class _Growing:
    """A face's clip that has not ended."""

    memory: Memory
    logit: float = 0.0
    boxes: list[NDArray[np.float32]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class Watcher:
    """Takes the frames of one stream in order and tells after each what is known.

    Clips are cut as scoring cuts a file that is a whole number of them long, and count by the same rule.
    """

    def __init__(
        self,
        model: LiveModel,
        ruling: Ruling | None = None,
        sampling: SamplingSpec | None = None,
        tracks: Keep | None = None,
        window_s: float = WINDOW_S,
    ) -> None:
        if not window_s > 0:
            raise UsageError(f"a window of {window_s:g} s was asked for, expected more than 0")
        spec = model.contract.fingerprint.tracks
        self.model = model
        self.ruling = ruling or Ruling.choose(model.contract)
        self.sampling = sampling or model.contract.fingerprint.sampling
        self.window_s = window_s
        self.keep: Keep = tracks or spec.keep
        self.remark = warn_of_tracks(self.keep, spec.keep)
        self.frames = 0
        self.seconds = StageSeconds()
        self._crop = model.contract.fingerprint.crop
        # Interpolated boxes would have to wait for the next frame.
        self._finder = FaceFinder(model.detector, spec.model_copy(update={"interpolate_iou": None}))
        self._tracker = Tracker(spec, step_s=self.sampling.measure_step(self.sampling.clip_s))
        self._clip = 0
        self._growing: dict[int, _Growing] = {}
        self._ended: list[ClipEnd] = []  # about 2 MB a day and face
        self._recent: deque[ClipEnd] = deque()
        self._now_s = self._begun_s = self._done_s = 0.0
        self._dropped = 0
        self._saw_face = False
        self._highest: tuple[float, float] | None = None

    def take(self, live: LiveFrame, dropped: int = 0) -> Update:
        """Scores the next frame; `dropped` is how many were left out before it."""
        if not self.frames:
            self._begun_s = live.decoded_s - live.frame.time_s
        clips = self._turn_to(live.clip)
        self._now_s, self._dropped = live.frame.time_s, dropped
        self.frames += 1
        seen = self._find(live)
        numbers = self._tracker.link(seen.frame.time_s, seen.faces.boxes, seen.shot)
        probs = self._grow(seen, numbers)
        while self._recent and self._recent[0].end_s <= self._now_s - self.window_s:
            self._recent.popleft()
        known = [*self._recent, *self._list_growing(self._now_s)]
        outcome, reason, detail, conclusion = self._judge(known, bool(self._growing))
        p_fake = None if conclusion is None else as_prob(conclusion.logit)
        if p_fake is not None and (self._highest is None or p_fake > self._highest[0]):
            self._highest = p_fake, self._now_s
        self._done_s = time.monotonic()
        return Update(
            time_s=self._now_s,
            outcome=outcome,
            reason=reason,
            detail=detail,
            p_fake=p_fake,
            face=None if conclusion is None else conclusion.face,
            faces=_describe_faces(numbers, seen.faces, probs, known, conclusion),
            dropped=dropped,
            lag_s=max(0.0, self._done_s - self._begun_s - self._now_s),
            latency_s=self._done_s - live.decoded_s,
            clips=clips,
        )

    def finish(self, ended: str, note: str = "") -> Summary:
        """Ends the clips that still grow, and judges the whole."""
        clips = self._end_clips(self._now_s)
        outcome, reason, detail, conclusion = self._judge(self._ended, self._saw_face)
        taken_s = self._done_s - self._begun_s
        return Summary(
            ended=ended,
            note=note,
            seconds=self._now_s,
            frames=self.frames,
            frames_per_s=self.frames / taken_s if taken_s > 0 else 0.0,
            dropped=self._dropped,
            tracks=len({clip.track for clip in self._ended}),
            outcome=outcome,
            reason=reason,
            detail=detail,
            p_fake=None if conclusion is None else as_prob(conclusion.logit),
            face=None if conclusion is None else conclusion.face,
            highest_p_fake=None if self._highest is None else self._highest[0],
            highest_at_s=None if self._highest is None else self._highest[1],
            clips=clips,
        )

    def _turn_to(self, clip: int) -> tuple[ClipEnd, ...]:
        """Ends the clips of all faces where the next frame lies in another."""
        if clip == self._clip:
            return ()
        ended = self._end_clips((self._clip + 1) * self.sampling.clip_s)
        self._clip = clip
        return ended

    def _end_clips(self, end_s: float) -> tuple[ClipEnd, ...]:
        ended = tuple(self._list_growing(end_s))
        self._ended += ended
        self._recent.extend(ended)
        self._growing = {}
        return ended

    def _find(self, live: LiveFrame) -> SeenFrame:
        begun = time.perf_counter()
        (seen,) = self._finder.find([live.frame])
        self.seconds.detect += time.perf_counter() - begun
        self._saw_face |= len(seen.faces.boxes) > 0
        return seen

    def _grow(self, seen: SeenFrame, numbers: list[int]) -> NDArray[np.float32]:
        """Feeds each face's crop to its clip; P(fake) (n,) of this frame alone."""
        if not numbers:
            return np.empty(0, np.float32)
        begun = time.perf_counter()
        crops = np.stack([cut_crop(seen.frame.rgb, box, self._crop) for box in seen.faces.boxes])
        cropped = time.perf_counter()
        features = self.model.backbone.embed(crops)
        embedded = time.perf_counter()
        clips = [self._growing.setdefault(number, _Growing(self.model.head.begin())) for number in numbers]
        scores, memories = self.model.head.step_each(features, [clip.memory for clip in clips])
        for i, clip in enumerate(clips):
            clip.memory, clip.logit = memories[i], float(scores.logit[i])
            clip.boxes.append(seen.faces.boxes[i])
            clip.scores.append(float(seen.faces.scores[i]))
        self.seconds.crop += cropped - begun
        self.seconds.backbone += embedded - cropped
        self.seconds.head += time.perf_counter() - embedded
        return scores.frame_prob

    def _list_growing(self, end_s: float) -> Iterator[ClipEnd]:
        """The clips so far of all faces that have frames enough."""
        weighed = {n: (np.stack(clip.boxes), np.array(clip.scores, np.float32)) for n, clip in self._growing.items()}
        main = choose_main(weighed) if weighed else None
        start_s = self._clip * self.sampling.clip_s
        for number, clip in sorted(self._growing.items()):
            if len(clip.boxes) < self.sampling.min_frames:
                continue
            counted = self.keep == "all" or number == main
            yield ClipEnd(number, start_s, end_s, len(clip.boxes), clip.logit, as_prob(clip.logit), counted)

    def _judge(self, clips: list[ClipEnd], sees_face: bool) -> tuple[Outcome, str | None, str, Conclusion | None]:
        """Outcome, reason, detail and the rest, of some clips; without any, it matters whether a face was seen."""
        if not clips:
            few = f"a face needs {self.sampling.min_frames} frames of a clip before it has a score"
            reason, detail = (Reason.TOO_SHORT, few) if sees_face else (Reason.NO_FACE, NO_FACE)
            return Outcome.NOT_SCORABLE, str(reason), detail, None
        scores = ((c.track, ClipScore(c.start_s, c.end_s, c.logit, c.p_fake, c.counted, ())) for c in clips)
        try:
            conclusion = conclude(scores, self.ruling)
        except VideoError as error:
            return Outcome.NOT_SCORABLE, str(error.reason), error.detail, None
        several = len(conclusion.tracks) > 1
        detail = "; ".join(remark for remark in (conclusion.remark, self.remark if several else "") if remark)
        return conclusion.outcome, None, detail, conclusion


def _describe_faces(
    numbers: list[int],
    faces: Detections,
    probs: NDArray[np.float32],
    known: list[ClipEnd],
    conclusion: Conclusion | None,
) -> tuple[FaceUpdate, ...]:
    if conclusion is not None:
        rolling: Mapping[int, float] = {track.track: track.p_fake for track in conclusion.tracks}
    else:  # none of them counts
        logits = {number: [clip.logit for clip in known if clip.track == number] for number in numbers}
        rolling = {number: as_prob(float(np.mean(found))) for number, found in logits.items() if found}
    return tuple(
        FaceUpdate(
            number,
            _as_box(box),
            rolling.get(number),
            float(prob),
            sum(clip.frames for clip in known if clip.track == number),
        )
        for number, box, prob in zip(numbers, faces.boxes, probs, strict=True)
    )


def _as_box(box: NDArray[np.float32]) -> Box:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1


class Show(Protocol):
    """Where a stream's score is shown."""

    def begin(self, header: dict[str, Any]) -> None:
        """Before the first frame."""
        ...

    def show(self, update: Update) -> None:
        """After each frame."""
        ...

    def end(self, summary: Summary) -> None:
        """After the last."""
        ...


class Feed(Protocol):
    """A source of frames."""

    note: str

    @property
    def dropped(self) -> int:
        """How many were left out so far."""
        ...

    def __iter__(self) -> Iterator[LiveFrame]:
        """The frames, in order."""
        ...


def describe_watch(watcher: Watcher, source: str, remarks: tuple[str, ...] = ()) -> dict[str, Any]:
    """The header: what is watched, with what, and what must be known of it."""
    model, ruling = watcher.model, watcher.ruling
    return {
        "kind": "header",
        "format": FORMAT,
        "source": source,
        "notices": list(model.notices),
        "remarks": [remark for remark in remarks if remark],
        "fps": 1 / watcher.sampling.measure_step(watcher.sampling.clip_s),
        "clip_s": watcher.sampling.clip_s,
        "window_s": watcher.window_s,
        "preset": ruling.preset,
        "threshold": ruling.value,
        "uncertain": [ruling.low, ruling.high],
        "tracks": watcher.keep,
        "model": asdict(model.facts),
        "provider": model.backbone.provider,
        "purpose": model.contract.purpose,
        "untrained_backbone": model.contract.untrained_backbone,
    }


def follow(feed: Feed, watcher: Watcher, show: Show, most_s: float | None = None) -> None:
    """Scores a feed until it ends, `most_s` seconds of it are over, or Ctrl-C; then shows the summary.

    Raises VideoError where it broke, after the summary of what there was before.
    """
    ended, failure = "the source ended", None
    try:
        for live in feed:
            if most_s is not None and live.frame.time_s >= most_s:
                ended = f"{most_s:g} s are over"
                break
            show.show(watcher.take(live, feed.dropped))
    except KeyboardInterrupt:
        ended = "interrupted"
    except VideoError as error:
        if not watcher.frames:
            raise
        ended, failure = f"the source broke off: {error.detail}", error
    show.end(watcher.finish(ended, feed.note))
    if failure is not None:
        raise failure
