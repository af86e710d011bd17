"""A verdict explained: every sentence and row that stands beside a score, for reports and for the web page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serve.ruling import OWN
from serve.verdict import Interval, Outcome, TrackScore, Verdict
from serve.words import (
    EVEN_ODDS,
    PURPOSES,
    SOURCES,
    UNKNOWN_RATES,
    describe_promise,
    describe_scale,
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

MOST_STRETCHES = 6  # named of one face
Row = tuple[str, ...]
Fact = tuple[str, str]


@dataclass(frozen=True)
class Table:
    """Rows under a title; the first cell of a row names it."""

    title: str
    columns: Row
    rows: tuple[Row, ...]
    note: str


@dataclass(frozen=True)
class FaceWords:
    """What is said of a face beside its timeline; of many stretches above the threshold, the highest are named."""

    track: int
    text: str
    stretches: tuple[str, ...]

    @property
    def all_text(self) -> str:
        """The whole in one sentence."""
        if not self.stretches:
            return f"{self.text}; no stretch of it is above the threshold"
        return f"{self.text}; above the threshold {', '.join(self.stretches)}"


@dataclass(frozen=True)
class Explanation:
    """A verdict in words; what there is nothing to say of is empty. The faces come in the order of their weight."""

    says: str
    decision: str
    reason: str
    caution: str
    scale: str
    threshold: str
    rates: Table | None
    unknown_rates: str
    odds: Table | None
    even_odds: str
    faces: tuple[FaceWords, ...]
    file: tuple[Fact, ...]
    model: tuple[Fact, ...]
    limits: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """The same as JSON-ready values, with signs that steer a reader's screen written out."""
        shown: dict[str, Any] = _show(asdict(self))
        return shown


def explain(verdict: Verdict) -> Explanation:
    """Says in words what a verdict is, what it rests on, and what it cannot tell."""
    meaning = explain_outcome(verdict)
    scored, rates, odds = verdict.p_fake is not None, _list_rates(verdict), _list_odds(verdict)
    return Explanation(
        says=meaning.says,
        decision=_tell_decision(verdict),
        reason=explain_reason(verdict.reason) if verdict.outcome is Outcome.NOT_SCORABLE else "",
        caution=meaning.caution,
        scale="" if verdict.p_fake is None else describe_scale(verdict.p_fake, verdict.threshold, *verdict.uncertain),
        threshold=_tell_threshold(verdict) if scored else "",
        rates=rates if scored else None,
        unknown_rates="" if rates or not scored else UNKNOWN_RATES,
        odds=odds if scored else None,
        even_odds="" if odds or not scored else EVEN_ODDS,
        faces=tuple(_tell_face(verdict, track) for track in _order_faces(verdict)),
        file=tuple(_list_file(verdict)),
        model=tuple(_list_model(verdict)),
        limits=tuple(list_limits(verdict)),
    )


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


def _tell_threshold(verdict: Verdict) -> str:
    """Which it is, what it was chosen for, whether that holds, and what lies around it."""
    value, rates, (low, high) = format_prob(verdict.threshold), verdict.rates, verdict.uncertain
    if verdict.preset == OWN:
        said = f"The threshold is {value}, chosen by whoever ran this."
    elif rates is None:
        said = f'The threshold is {value}, the preset "{verdict.preset}".'
    else:
        target, promise = describe_target(rates.target), describe_promise(rates)
        said = f'The threshold is {value}, the preset "{verdict.preset}", {target}. {promise}'
    if low == high:
        return said
    return f"{said} From {format_prob(low)} to {format_prob(high)} around it the outcome is UNCERTAIN."


def _list_rates(verdict: Verdict) -> Table | None:
    rates = verdict.rates
    if rates is None:
        return None
    found, flagged = f"fakes found, of {rates.n_fake} (recall)", f"real videos flagged, of {rates.n_real} (FPR)"
    datasets = ", ".join(verdict.model.datasets)
    source = SOURCES.get(rates.source, rates.source) + (f"; from {datasets}" if datasets else "")
    low, high = verdict.uncertain
    return Table(
        "What this threshold did in tests",
        ("", "in tests", "on new videos like them, with 95\xa0% confidence"),
        (
            (found, format_share(rates.recall), format_bound(rates.recall_bound, least=True)),
            (flagged, format_share(rates.fpr), format_bound(rates.fpr_bound, least=False)),
        ),
        f"Tests: {source}.{' The band of UNCERTAIN is left aside in these rates.' if low < high else ''}",
    )


def _list_odds(verdict: Verdict) -> Table | None:
    odds = verdict.odds
    if odds is None:
        return None
    return Table(
        f"Where {format_share(odds.prevalence)} of all videos are fake",
        ("", "by the rates in tests", "with their bounds"),
        (
            ("P(fake) of this file", "not known" if odds.p_fake is None else format_prob(odds.p_fake), ""),
            ("of the videos that are flagged, fakes (PPV)", format_share(odds.ppv), _tell_least(odds.ppv_low)),
            ("of the videos that are not, real ones (NPV)", format_share(odds.npv), _tell_least(odds.npv_low)),
        ),
        "That share was named by whoever ran this; the model does not know it.",
    )


def _tell_least(share: float | None) -> str:
    return "" if share is None else format_bound(share, least=True)


def _order_faces(verdict: Verdict) -> list[TrackScore]:
    """The one that gave the score, those that count, the others; each by its score."""
    return sorted(verdict.tracks, key=lambda track: (track.track != verdict.face, not track.counted, -track.logit))


def _tell_face(verdict: Verdict, track: TrackScore) -> FaceWords:
    times = [frame.time_s for frame in track.frames]
    part = "gave the video its score" if track.track == verdict.face else "counts towards the score"
    return FaceWords(
        track.track,
        f"P(fake) {format_prob(track.p_fake)}; {part if track.counted else 'does not count towards the score'}; "
        f"seen in {len(times):,} frames from {format_clock(min(times))} to {format_clock(max(times))}",
        tuple(_name_stretches(track.intervals)),
    )


def _name_stretches(intervals: Sequence[Interval]) -> list[str]:
    highest = sorted(sorted(intervals, key=lambda one: -one.p_fake)[:MOST_STRETCHES], key=lambda one: one.start_s)
    named = [
        f"{format_clock(one.start_s)} to {format_clock(one.end_s)} (highest {format_prob(one.p_fake)})"
        for one in highest
    ]
    more = len(intervals) - len(highest)
    return [*named, f"and in {more} other stretches"] if more else named


def _list_file(verdict: Verdict) -> list[Fact]:
    name = Path(verdict.path).name
    rows = [("name", name)]
    if verdict.path != name:
        rows.append(("path", verdict.path))
    rows.append(("sha256", verdict.sha256 or "not known: the file could not be read"))
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


def _list_model(verdict: Verdict) -> list[Fact]:
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


def _show(value: Any) -> Any:
    if isinstance(value, str):
        return show_signs(value)
    if isinstance(value, dict):
        return {name: _show(part) for name, part in value.items()}
    return [_show(part) for part in value] if isinstance(value, list | tuple) else value
