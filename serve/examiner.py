"""Evidence for a verdict: the frames that speak most for a fake, read again, and where on the face they do so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle import FEATURES, HEAD, ModelFolder
from export.contract import Contract
from export.fused import ClipScores
from export.probes import MOST_REPLAY_ERROR
from extract.backbones import Backbone
from extract.clips import FrameSource
from extract.crops import cut_crop
from extract.errors import CancelledError, MismatchError, UnmaskError
from extract.files import hash_file
from extract.isolation import Cancel
from extract.session import Device, Session, open_session
from serve.occlusion import HeatMap, hide_regions
from serve.pictures import Mark, Picture, draw_frame
from serve.verdict import ClipScore, FrameScore, TrackScore, Verdict

LEAST_GAP_S = 0.5  # between two frames of a face: nearer ones show the same
# A region hidden in one frame of a clip is still in the memory of the head: on five UADFV clips, the largest drop was
# 0.03 to 0.19 in log-odds. Hidden in every frame it was 0.07 to 2.0, for 32 times the work. The frame held still gives
# 0.09 to 2.5, and a map whose correlation with that of every frame is 0.72 to 0.90.
MOST_STILL = 32
SAME_S = 1e-6

Crops = NDArray[np.uint8]  # (T, S, S, 3)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One frame of a face: the whole picture with every face in it, the crop that was scored, and what matters there.

    `p_fake` is the frame's probability as the verdict has it.
    """

    time_s: float
    track: int
    p_fake: float
    picture: Picture
    crop: NDArray[np.uint8]  # (S, S, 3)
    heat: HeatMap


@dataclass(frozen=True)
class Moment:
    """A frame of a clip of a face."""

    track: TrackScore
    clip: ClipScore
    frame: FrameScore


class Examiner:
    """A model's parts, with which the score of a single frame can be taken apart; they are loaded when needed."""

    def __init__(self, folder: ModelFolder, contract: Contract, device: Device = "auto") -> None:
        self._folder = folder
        self._contract = contract
        self._device = device

    def examine(
        self, path: Path, verdict: Verdict, video: FrameSource, most: int = 3, cancel: Cancel | None = None
    ) -> tuple[Exhibit, ...]:
        """Exhibits for a verdict on `path`, at most so many, in order of time; `video` is that file, opened again.

        One clip is held at a time. Raises MismatchError where the file, or the model, is not the one of the verdict,
        VideoError where the file cannot be read any more, and CancelledError soon after `cancel` is set.
        """
        moments = choose_moments(verdict.tracks, verdict.threshold, most)
        if moments:
            self._require_same(path, verdict)
        by_clip: dict[tuple[int, float], list[Moment]] = defaultdict(list)
        for moment in moments:
            by_clip[moment.track.track, moment.clip.start_s].append(moment)
        found: list[Exhibit] = []
        for of_clip in by_clip.values():
            found += self._examine_clip(path, verdict, video, of_clip, cancel)
        return tuple(sorted(found, key=lambda exhibit: (exhibit.time_s, exhibit.track)))

    def _require_same(self, path: Path, verdict: Verdict) -> None:
        if verdict.model.id != self._folder.scorer_sha256:
            raise MismatchError(
                f"the verdict on {path} is by the model {verdict.model.id[:12]}..., {self._folder.path} holds "
                f"{self._folder.scorer_sha256[:12]}...; score the file again"
            )
        if verdict.sha256 is not None and hash_file(path) != verdict.sha256:
            raise _explain_change(path, "its sha256 is another")

    def _examine_clip(
        self, path: Path, verdict: Verdict, video: FrameSource, moments: list[Moment], cancel: Cancel | None
    ) -> list[Exhibit]:
        clip, track = moments[0].clip, moments[0].track.track
        places = [clip.frames.index(moment.frame) for moment in moments]
        crops, pictures = self._read(path, verdict, video, clip, dict.fromkeys(places, track))
        features = self._backbone.embed(crops)
        self._require_score(path, clip, self._score(features[None]))

        def score_still(hidden: Crops) -> NDArray[np.float64]:
            if cancel is not None and cancel.is_set():
                raise CancelledError("nobody waits for the evidence any more")
            return self._score_still(hidden, len(crops))

        return [
            Exhibit(
                clip.frames[place].time_s,
                track,
                clip.frames[place].p_fake,
                pictures[place],
                crops[place],
                hide_regions(crops[place], score_still),
            )
            for place in places
        ]

    def _read(
        self, path: Path, verdict: Verdict, video: FrameSource, clip: ClipScore, shown: dict[int, int]
    ) -> tuple[Crops, dict[int, Picture]]:
        """The crops of a clip, cut where they were cut, and the whole pictures at some of its places."""
        instants = np.array([frame.time_s for frame in clip.frames])
        spec = self._contract.fingerprint.crop
        crops, pictures = np.empty((len(instants), spec.size_px, spec.size_px, 3), np.uint8), {}
        for place, (served, frame) in enumerate(video.read_at(instants)):
            if served != slice(place, place + 1) or abs(frame.time_s - instants[place]) > SAME_S:
                raise _explain_change(path, f"at {instants[served.start]:.3f} s it shows another frame than then")
            crops[place] = cut_crop(frame.rgb, np.array(clip.frames[place].box, np.float32), spec)
            if place in shown:
                pictures[place] = draw_frame(frame.rgb, _mark_faces(verdict.tracks, frame.time_s, shown[place]))
        return crops, pictures

    def _require_score(self, path: Path, clip: ClipScore, found: ClipScores) -> None:
        """The scorer and its parts give the same numbers, as export proved, within the limit of another machine."""
        limit = MOST_REPLAY_ERROR[self._contract.backbone.precision]
        # A sigmoid's slope is at most 1/4, and rounding grows with the logit.
        error = abs(float(found.logit[0]) - clip.logit) / (4 * max(1.0, abs(clip.logit)))
        if not error <= limit:
            raise _explain_change(
                path,
                f"its clip from {clip.start_s:.1f} s has the logit {float(found.logit[0]):.4f}, "
                f"in the verdict {clip.logit:.4f}",
            )

    def _score_still(self, crops: Crops, frames: int) -> NDArray[np.float64]:
        """Calibrated logits (N,) of clips in each of which one of the crops (N, S, S, 3) is held still."""
        features = self._backbone.embed(crops)[:, None]
        return self._score(np.repeat(features, min(frames, MOST_STILL), axis=1)).logit.astype(np.float64)

    def _score(self, features: NDArray[np.float32]) -> ClipScores:
        lengths = np.full(len(features), features.shape[1], np.int64)
        return ClipScores(**self._head.run({"features": features, "lengths": lengths}))

    @cached_property
    def _backbone(self) -> Backbone:
        return Backbone(self._folder.path / FEATURES, self._device)

    @cached_property
    def _head(self) -> Session:
        return open_session(self._folder.path / HEAD, self._device)


def choose_moments(tracks: Sequence[TrackScore], threshold: float, most: int) -> list[Moment]:
    """The frames with the highest scores, those of a face some time apart; of several suspicious faces, each a turn."""
    waiting = [Moment(track, clip, frame) for track in tracks for clip in track.clips for frame in clip.frames]
    gap_s = {track.track: _choose_gap(track, most) for track in tracks}
    turns: dict[int, int] = defaultdict(int)
    chosen: list[Moment] = []

    def rank(moment: Moment) -> tuple[bool, int, float]:
        suspicious = moment.frame.p_fake >= threshold
        return suspicious, -turns[moment.track.track] if suspicious else 0, moment.frame.p_fake

    while waiting and len(chosen) < most:
        best = max(waiting, key=rank)
        chosen.append(best)
        track = best.track.track
        turns[track] += 1
        waiting = [
            moment
            for moment in waiting
            if moment.track.track != track or abs(moment.frame.time_s - best.frame.time_s) >= gap_s[track]
        ]
    return chosen


def _choose_gap(track: TrackScore, most: int) -> float:
    times = [frame.time_s for frame in track.frames]
    return max(LEAST_GAP_S, (max(times) - min(times)) / (2 * most))


def _mark_faces(tracks: Sequence[TrackScore], time_s: float, own: int) -> list[Mark]:
    """Every face that was scored at an instant, the one that is shown last, so that nothing covers it."""
    marks = [
        Mark(track.track, frame.box, track.track == own)
        for track in tracks
        for frame in track.frames
        if abs(frame.time_s - time_s) <= SAME_S
    ]
    return sorted(marks, key=lambda mark: mark.own)


def _explain_change(path: Path, how: str) -> UnmaskError:
    return MismatchError(f"{path} is not the file that was scored: {how}; score it again")
