"""The report on one file: a page of HTML that needs nothing beside it, to read, to print and to file."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from extract.files import write_text
from serve.charts import PATTERNS, Axis, Level, draw_legend, draw_scale, draw_timeline
from serve.examiner import Exhibit
from serve.pictures import Picture, draw_crop, draw_heat, find_scale
from serve.ruling import OWN
from serve.verdict import ClipScore, Interval, Outcome, TrackScore, Verdict
from serve.words import (
    PURPOSES,
    SOURCES,
    Meaning,
    describe_place,
    describe_promise,
    describe_target,
    explain_outcome,
    explain_reason,
    format_bound,
    format_bytes,
    format_clock,
    format_prob,
    format_share,
    list_limits,
    show_signs,
)

TEMPLATES = Path(__file__).parent / "templates"
MOST_FACES = 8  # with a timeline; a crowd, or a film of many cuts, has hundreds
MOST_ROWS = 600  # of the table of clips
MOST_STRETCHES = 6  # named under a timeline
Row = tuple[str, str]


@dataclass(frozen=True)
class Source:
    """A picture inside the page."""

    data: str
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """An exhibit as the page has it; `heat` is None where no region decides."""

    letter: str
    title: str
    frame: Source
    crop: Source
    heat: Source | None
    divisor: str  # of the odds, where the heat map is darkest
    finding: str
    frame_alt: str


@dataclass(frozen=True)
class Face:
    """A face's timeline, and the same in words."""

    title: str
    text: str
    drawing: Markup


@dataclass(frozen=True)
class ClipRow:
    """A clip in the table."""

    face: str
    start: str
    end: str
    frames: str
    mean: str
    highest: str
    counted: str


def write_report(
    path: Path,
    verdict: Verdict,
    exhibits: Sequence[Exhibit],
    made_at: datetime,
    model: str = "model/",
    missing: str = "",
) -> None:
    """Renders the page into a file, whole or not at all."""
    write_text(path, render_report(verdict, exhibits, made_at, model, missing))


def render_report(
    verdict: Verdict, exhibits: Sequence[Exhibit], made_at: datetime, model: str = "model/", missing: str = ""
) -> str:
    """The page; `model` is the folder in the command that repeats the score, `missing` says why no exhibit is there."""
    name = Path(verdict.path).name or verdict.path
    lettered = list(zip((chr(ord("A") + number) for number in range(len(exhibits))), exhibits, strict=True))
    meaning: Meaning = explain_outcome(verdict)
    level = Level(verdict.threshold, *verdict.uncertain)
    facts: dict[str, Any] = {
        "name": name,
        "verdict": verdict,
        "made_at": f"{made_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "meaning": meaning,
        "reason": explain_reason(verdict.reason) if verdict.outcome is Outcome.NOT_SCORABLE else "",
        "patterns": PATTERNS,
        "prob": None if verdict.p_fake is None else format_prob(verdict.p_fake),
        "decision": _tell_decision(verdict),
        "scale": None if verdict.p_fake is None else draw_scale(verdict.p_fake, level),
        "threshold": _name_threshold(verdict),
        "rates": _list_rates(verdict),
        "promise": "" if verdict.rates is None else describe_promise(verdict.rates),
        "rates_source": _tell_source(verdict),
        "odds": _list_odds(verdict),
        "faces": _draw_faces(verdict, lettered, level),
        "more_faces": max(0, len(verdict.tracks) - MOST_FACES),
        "clips": _list_clips(verdict),
        "all_clips": sum(len(track.clips) for track in verdict.tracks),
        "exhibits": _show_exhibits(verdict, lettered),
        "exhibits_title": "Most suspicious frames" if _is_suspicious(verdict) else "Highest-scoring frames",
        "legend": draw_legend(),
        "missing": missing,
        "file": _list_file(verdict),
        "model": _list_model(verdict),
        "limits": tuple(list_limits(verdict)),
        "commands": _list_commands(verdict, model),
    }
    return _load_template().render(facts)


def _tell_decision(verdict: Verdict) -> str:
    """The score against the threshold, in a sentence."""
    if verdict.p_fake is None:
        return ""
    low, high = verdict.uncertain
    prob = f"P(fake) = {format_prob(verdict.p_fake)} at even odds"
    if low <= verdict.p_fake < high:
        return f"{prob}, within the band from {format_prob(low)} to {format_prob(high)} that is left undecided."
    if verdict.p_fake >= high:
        return f"{prob}; from {format_prob(high)} on a video is called FAKE."
    return f"{prob}; from {format_prob(high)} on a video is called FAKE, below {format_prob(low)} REAL."


def _is_suspicious(verdict: Verdict) -> bool:
    return any(frame.p_fake >= verdict.threshold for track in verdict.tracks for frame in track.frames)


def _name_threshold(verdict: Verdict) -> str:
    if verdict.preset == OWN:
        return f"{format_prob(verdict.threshold)}, chosen by whoever ran this"
    target = "" if verdict.rates is None else f", {describe_target(verdict.rates.target)}"
    return f'{format_prob(verdict.threshold)}, the preset "{verdict.preset}"{target}'


def _list_rates(verdict: Verdict) -> list[tuple[str, str, str]]:
    rates = verdict.rates
    if rates is None:
        return []
    return [
        (
            f"fakes found, of {rates.n_fake} (recall)",
            format_share(rates.recall),
            format_bound(rates.recall_bound, least=True),
        ),
        (
            f"real videos flagged, of {rates.n_real} (FPR)",
            format_share(rates.fpr),
            format_bound(rates.fpr_bound, least=False),
        ),
    ]


def _tell_source(verdict: Verdict) -> str:
    if verdict.rates is None:
        return ""
    datasets = ", ".join(verdict.model.datasets)
    return SOURCES.get(verdict.rates.source, verdict.rates.source) + (f"; from {datasets}" if datasets else "")


def _list_odds(verdict: Verdict) -> list[tuple[str, str, str]]:
    odds = verdict.odds
    if odds is None:
        return []
    return [
        ("P(fake) of this file", "not known" if odds.p_fake is None else format_prob(odds.p_fake), ""),
        ("of the videos that are flagged, fakes (PPV)", format_share(odds.ppv), _tell_least(odds.ppv_low)),
        ("of the videos that are not, real ones (NPV)", format_share(odds.npv), _tell_least(odds.npv_low)),
    ]


def _tell_least(share: float | None) -> str:
    return "" if share is None else format_bound(share, least=True)


def _draw_faces(verdict: Verdict, lettered: Sequence[tuple[str, Exhibit]], level: Level) -> list[Face]:
    if not verdict.tracks:
        return []
    end_s = max(clip.end_s for track in verdict.tracks for clip in track.clips)
    axis = Axis(max(end_s, verdict.file.duration_s if verdict.file else 0.0, 0.1))
    ordered = sorted(verdict.tracks, key=lambda track: (track.track != verdict.face, not track.counted, -track.logit))
    return [_draw_face(verdict, track, lettered, axis, level) for track in ordered[:MOST_FACES]]


def _draw_face(
    verdict: Verdict, track: TrackScore, lettered: Sequence[tuple[str, Exhibit]], axis: Axis, level: Level
) -> Face:
    times = [frame.time_s for frame in track.frames]
    part = "gave the video its score" if track.track == verdict.face else "counts towards the score"
    text = (
        f"P(fake) {format_prob(track.p_fake)}; {part if track.counted else 'does not count towards the score'}; "
        f"seen in {len(times):,} frames from {format_clock(min(times))} to {format_clock(max(times))}; "
        f"{_tell_stretches(track.intervals)}"
    )
    marks = [(letter, exhibit.time_s) for letter, exhibit in lettered if exhibit.track == track.track]
    drawing = draw_timeline(track, axis, level, marks, f"P(fake) of face {track.track} over time: {text}")
    return Face(f"Face {track.track}", text, drawing)


def _tell_stretches(intervals: Sequence[Interval]) -> str:
    if not intervals:
        return "no stretch of it is above the threshold"
    highest = sorted(sorted(intervals, key=lambda one: -one.p_fake)[:MOST_STRETCHES], key=lambda one: one.start_s)
    named = ", ".join(
        f"{format_clock(one.start_s)} to {format_clock(one.end_s)} (highest {format_prob(one.p_fake)})"
        for one in highest
    )
    more = len(intervals) - len(highest)
    return f"above the threshold {named}" + (f", and in {more} other stretches" if more else "")


def _list_clips(verdict: Verdict) -> list[ClipRow]:
    """The clips in order of time; of too many, those with the highest scores."""
    clips = [(track.track, clip) for track in verdict.tracks for clip in track.clips]
    kept = sorted(clips, key=lambda one: -one[1].logit)[:MOST_ROWS]
    return [_list_clip(track, clip) for track, clip in sorted(kept, key=lambda one: (one[1].start_s, one[0]))]


def _list_clip(track: int, clip: ClipScore) -> ClipRow:
    return ClipRow(
        str(track),
        format_clock(clip.start_s),
        format_clock(clip.end_s),
        str(len(clip.frames)),
        format_prob(clip.p_fake),
        format_prob(max(frame.p_fake for frame in clip.frames)),
        "yes" if clip.counted else "no",
    )


def _show_exhibits(verdict: Verdict, lettered: Sequence[tuple[str, Exhibit]]) -> list[Shown]:
    return [_show_exhibit(verdict, letter, exhibit) for letter, exhibit in lettered]


def _show_exhibit(verdict: Verdict, letter: str, exhibit: Exhibit) -> Shown:
    heat, time = exhibit.heat, format_clock(exhibit.time_s)
    if heat.decisive:
        finding = (
            f"Held still, the frame has P(fake) {format_prob(heat.p_whole)}; with the "
            f"{describe_place(*heat.place)} of the crop hidden, {format_prob(heat.p_hidden)}."
        )
    else:
        finding = "No single region decides: whichever is hidden, the score hardly falls."
    above = "above" if exhibit.p_fake >= verdict.threshold else "below"
    return Shown(
        letter,
        f"{letter}: {time}, face {exhibit.track}, P(fake) of the frame {format_prob(exhibit.p_fake)} "
        f"({above} the threshold)",
        _embed(exhibit.picture),
        _embed(draw_crop(exhibit.crop)),
        _embed(draw_heat(exhibit.crop, heat)) if heat.decisive else None,
        f"{math.exp(find_scale(heat)):.1f}",
        finding,
        f"The whole picture at {time}; face {exhibit.track} is marked with a thick box.",
    )


def _embed(picture: Picture) -> Source:
    return Source("data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode(), picture.width, picture.height)


def _list_file(verdict: Verdict) -> list[Row]:
    rows = [
        ("name", Path(verdict.path).name),
        ("path", verdict.path),
        ("sha256", verdict.sha256 or "not known: the file could not be read"),
    ]
    facts = verdict.file
    if facts is not None:
        rows += [
            ("size", format_bytes(facts.size_bytes)),
            ("container", facts.container),
            ("codec", facts.codec),
            ("pixels", f"{facts.width} × {facts.height}"),
            ("duration", f"{format_clock(facts.duration_s)} ({facts.duration_s:.2f} s)"),
            ("frames", f"{facts.frames:,} ({facts.frames / max(facts.duration_s, 1e-9):.4g} a second)"),
        ]
    return [*rows, ("remarks", verdict.detail or "none")]


def _list_model(verdict: Verdict) -> list[Row]:
    model = verdict.model
    weights = ", UNTRAINED: random weights" if verdict.untrained_backbone else ""
    return [
        ("model", model.id),
        ("backbone", f"{model.backbone}, {model.precision}{weights}"),
        ("head", model.head),
        ("face detector", model.detector),
        ("trained on", ", ".join(model.datasets) or "not named"),
        ("purpose", PURPOSES.get(verdict.purpose, verdict.purpose)),
        ("run by", f"unmask {model.unmask_version}, {verdict.provider}"),
    ]


def _list_commands(verdict: Verdict, model: str) -> list[str]:
    """What proves the file and the model, and scores one with the other again."""
    path = verdict.path if not verdict.path.startswith("-") else f"./{verdict.path}"
    threshold = ["--threshold", repr(verdict.threshold)] if verdict.preset == OWN else ["--preset", verdict.preset]
    prevalence = [] if verdict.odds is None else ["--prevalence", repr(verdict.odds.prevalence)]
    device = ["--device", "cuda" if verdict.provider.startswith("CUDA") else "cpu"]
    clips = [clip.counted for track in verdict.tracks for clip in track.clips]
    tracks = ["--tracks", "all" if all(clips) else "main"] if len(verdict.tracks) > 1 else []
    score = ["unmask", "score", model, path, *threshold, *prevalence, *tracks, *device, "--json"]
    check = [["sha256sum", path]] if verdict.sha256 else []
    return [shlex.join(words) for words in [*check, ["unmask", "verify", model], score]]


def show_text(value: Any) -> Any:
    """Texts as they are, with signs that cannot be seen, or that turn the direction of writing, written out."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return show_signs(value)


@cache
def _load_template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=show_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": format_share, "prob": format_prob}
    return environment.get_template("verdict.html.j2")
