"""From the scores of clips to what is said of the video: faces joined, aggregated as the contract says, and decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from extract.errors import Reason, VideoError
from serve.intervals import find_intervals
from serve.ruling import Ruling, as_prob
from serve.verdict import ClipScore, Outcome, TrackScore
from train.aggregate import aggregate_video

MOST_NAMED = 3  # faces, in a remark


@dataclass(frozen=True)
class Conclusion:
    """The score of a video, the face that gave it, and what a reader must know beside them."""

    outcome: Outcome
    logit: float
    face: int
    tracks: tuple[TrackScore, ...]
    remark: str


def conclude(clips: Iterable[tuple[int, ClipScore]], ruling: Ruling) -> Conclusion:
    """Judges the clips of a video, each with its track; a VideoError where none of them counts."""
    by_track: dict[int, list[ClipScore]] = defaultdict(list)
    for track, clip in clips:
        by_track[track].append(clip)
    tracks = tuple(_join_track(track, of_track, ruling) for track, of_track in sorted(by_track.items()))
    counted = [track for track in tracks if track.counted]
    if not counted:
        raise VideoError(Reason.TOO_SHORT, "the main face is seen in too few sampled frames; only others have a score")
    judged = [(clip.logit, track.track) for track in counted for clip in track.clips if clip.counted]
    logit = aggregate_video(*zip(*judged, strict=True))
    outcome, remark = ruling.decide(logit), ""
    suspects = [suspect for track in tracks for suspect in _suspect(track, ruling)]
    if suspects:
        outcome = Outcome.UNCERTAIN if outcome is Outcome.REAL else outcome
        remark = _name_suspects(suspects)
    return Conclusion(outcome, logit, max(counted, key=lambda track: track.logit).track, tracks, remark)


def _join_track(track: int, clips: list[ClipScore], ruling: Ruling) -> TrackScore:
    counted = [clip for clip in clips if clip.counted]
    logit = aggregate_video([clip.logit for clip in counted or clips], [track] * len(counted or clips))
    frames = [frame for clip in clips for frame in clip.frames]
    intervals = find_intervals(frames, ruling.value)
    return TrackScore(track, logit, as_prob(logit), bool(counted), tuple(clips), intervals)


@dataclass(frozen=True)
class _Suspect:
    """A face that passes the threshold in the clips in which it does not count."""

    track: int
    p_fake: float
    start_s: float


def _suspect(track: TrackScore, ruling: Ruling) -> list[_Suspect]:
    """A face may be the main one of some clips and be seen beside another in the rest."""
    beside = [clip for clip in track.clips if not clip.counted]
    if not beside:
        return []
    prob = as_prob(aggregate_video([clip.logit for clip in beside], [0] * len(beside)))
    return [_Suspect(track.track, prob, beside[0].start_s)] if prob >= ruling.value else []


def _name_suspects(suspects: list[_Suspect]) -> str:
    """The highest of them: nobody knows how often a face that does not count passes by mistake."""
    highest = sorted(suspects, key=lambda one: -one.p_fake)[:MOST_NAMED]
    named = ", ".join(f"face {one.track} (P(fake) {one.p_fake:.2f}, from {one.start_s:.1f} s)" for one in highest)
    more = f" and {len(suspects) - MOST_NAMED} more" if len(suspects) > MOST_NAMED else ""
    return (
        f"beside the main face, {named}{more} reached the threshold, which was chosen for faces that count; look "
        "there, or count every face with --tracks all"
    )
