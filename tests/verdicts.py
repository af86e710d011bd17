"""Verdicts made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serve.intervals import find_intervals
from serve.verdict import (
    ClipScore,
    FileFacts,
    FrameScore,
    ModelFacts,
    Odds,
    Outcome,
    Rates,
    TrackScore,
    Verdict,
)

RATES = Rates(
    target="recall=0.95",
    recall=22 / 23,
    fpr=0.125,
    recall_bound=0.7361,
    fpr_bound=0.2511,
    guaranteed=False,
    n_fake=23,
    n_real=40,
    source="validation",
)
ODDS = Odds(prevalence=0.01, p_fake=0.05, ppv=0.071, ppv_low=0.0291, npv=0.9995, npv_low=0.9961)
BOX = (10.0, 12.0, 50.0, 60.0)


def make_clip(probs: Sequence[float], start_s: float = 0.0, step_s: float = 0.5, counted: bool = True) -> ClipScore:
    """A clip with frames of these probabilities, whose mean is the clip's."""
    mean = min(max(sum(probs) / len(probs), 1e-6), 1 - 1e-6)
    frames = tuple(FrameScore(start_s + step_s * number, prob, BOX) for number, prob in enumerate(probs))
    return ClipScore(start_s, start_s + step_s * len(probs), math.log(mean / (1 - mean)), mean, counted, frames)


def make_track(number: int, *clips: ClipScore, threshold: float = 0.5) -> TrackScore:
    """A face with its clips."""
    logit = sum(clip.logit for clip in clips) / len(clips)
    frames = [frame for clip in clips for frame in clip.frames]
    counted = any(clip.counted for clip in clips)
    prob = 1 / (1 + math.exp(-logit))
    return TrackScore(number, logit, prob, counted, clips, find_intervals(frames, threshold))


def make_verdict(**changes: Any) -> Verdict:
    """A FAKE of 0.8 by a threshold of 0.5, with one face; everything else as it is asked for."""
    track = make_track(0, make_clip([0.7, 0.8, 0.9, 0.8]))
    made = Verdict(
        path="/films/clip.mp4",
        sha256="ab" * 32,
        outcome=Outcome.FAKE,
        reason=None,
        detail="",
        p_fake=0.8,
        logit=track.logit,
        threshold=0.5,
        uncertain=(0.4, 0.6),
        preset="security",
        rates=RATES,
        odds=None,
        face=0,
        tracks=(track,),
        file=FileFacts(12_345_678, "mov,mp4", "h264", 1280, 720, 250, 10.0),
        model=ModelFacts("cd" * 32, "tiny", "fp32", "lstm, mean pooling", "mtcnn", ("toy", "DFDC"), "0.1.0"),
        provider="CPUExecutionProvider",
        purpose="research",
        untrained_backbone=False,
    )
    return replace(made, **changes)


def make_unscorable(reason: str, **changes: Any) -> Verdict:
    """A file without a score."""
    nothing: dict[str, Any] = {"p_fake": None, "logit": None, "face": None, "tracks": (), "file": None}
    return make_verdict(outcome=Outcome.NOT_SCORABLE, reason=reason, detail="it was so", **nothing, **changes)
