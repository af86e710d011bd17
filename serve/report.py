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
from serve.explanation import FaceWords, explain
from serve.pictures import Picture, draw_crop, draw_heat, find_scale
from serve.ruling import OWN
from serve.verdict import ClipScore, TrackScore, Verdict
from serve.words import describe_place, format_clock, format_prob, show_signs

TEMPLATES = Path(__file__).parent / "templates"
MOST_FACES = 8  # with a timeline; a crowd, or a film of many cuts, has hundreds
MOST_ROWS = 600  # of the table of clips


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
    told = explain(verdict)
    level = Level(verdict.threshold, *verdict.uncertain)
    facts: dict[str, Any] = {
        "name": name,
        "verdict": verdict,
        "told": told,
        "made_at": f"{made_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "patterns": PATTERNS,
        "scale": None if verdict.p_fake is None else draw_scale(verdict.p_fake, level),
        "faces": _draw_faces(verdict, told.faces[:MOST_FACES], lettered, level),
        "more_faces": max(0, len(verdict.tracks) - MOST_FACES),
        "clips": _list_clips(verdict),
        "all_clips": sum(len(track.clips) for track in verdict.tracks),
        "exhibits": _show_exhibits(verdict, lettered),
        "exhibits_title": "Most suspicious frames" if _is_suspicious(verdict) else "Highest-scoring frames",
        "legend": draw_legend(),
        "missing": missing,
        "commands": _list_commands(verdict, model),
    }
    return _load_template().render(facts)


def _is_suspicious(verdict: Verdict) -> bool:
    return any(frame.p_fake >= verdict.threshold for track in verdict.tracks for frame in track.frames)


def _draw_faces(
    verdict: Verdict, words: Sequence[FaceWords], lettered: Sequence[tuple[str, Exhibit]], level: Level
) -> list[Face]:
    if not verdict.tracks:
        return []
    end_s = max(clip.end_s for track in verdict.tracks for clip in track.clips)
    axis = Axis(max(end_s, verdict.file.duration_s if verdict.file else 0.0, 0.1))
    tracks = {track.track: track for track in verdict.tracks}
    return [_draw_face(tracks[face.track], face, lettered, axis, level) for face in words]


def _draw_face(
    track: TrackScore, words: FaceWords, lettered: Sequence[tuple[str, Exhibit]], axis: Axis, level: Level
) -> Face:
    marks = [(letter, exhibit.time_s) for letter, exhibit in lettered if exhibit.track == track.track]
    label = f"P(fake) of face {track.track} over time: {words.all_text}"
    return Face(f"Face {track.track}", words.all_text, draw_timeline(track, axis, level, marks, label))


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
    return environment.get_template("verdict.html.j2")
