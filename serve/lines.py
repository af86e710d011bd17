"""A verdict as a line: for people, as JSON, or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any, Literal

from serve.verdict import Odds, Outcome, TrackScore, Verdict
from serve.words import format_prob, format_share, show_signs

Form = Literal["table", "json", "csv"]

CSV_COLUMNS = (
    "path", "outcome", "reason", "p_fake", "threshold", "preset", "uncertain_from", "uncertain_to", "face", "faces",
    "suspicious_s", "prevalence", "p_fake_at_prevalence", "duration_s", "sha256", "model", "provider", "purpose",
    "untrained_backbone", "detail",
)  # fmt: skip
HEADER = f"{'outcome':12}  {'P(fake)':>7}  {'threshold':>9}  file"
MOST_INTERVALS = 4  # on a line for people


def choose_lines(form: Form) -> tuple[str, Callable[[Verdict], str]]:
    """The line that comes first, if any, and what makes those of the verdicts."""
    if form == "json":
        return "", format_json
    if form == "csv":
        return format_row(CSV_COLUMNS), lambda verdict: format_row(list_cells(verdict).values())
    return HEADER, format_line


def format_json(verdict: Verdict) -> str:
    """One JSON document."""
    return dump_line(verdict.to_document())


def dump_line(document: dict[str, Any]) -> str:
    """JSON on a line, in UTF-8 as it is; a path with other bytes is escaped."""
    text = json.dumps(document, ensure_ascii=False)
    return text if text.isascii() or _is_text(text) else json.dumps(document)


def list_cells(verdict: Verdict) -> dict[str, Any]:
    """The cells of a CSV line by column; what is not known is None."""
    odds = verdict.odds
    return {
        "path": verdict.path,
        "outcome": str(verdict.outcome),
        "reason": verdict.reason,
        "p_fake": verdict.p_fake,
        "threshold": verdict.threshold,
        "preset": verdict.preset,
        "uncertain_from": verdict.uncertain[0],
        "uncertain_to": verdict.uncertain[1],
        "face": verdict.face,
        "faces": len(verdict.tracks),
        "suspicious_s": list_intervals(verdict.tracks),
        "prevalence": None if odds is None else odds.prevalence,
        "p_fake_at_prevalence": None if odds is None else odds.p_fake,
        "duration_s": None if verdict.file is None else verdict.file.duration_s,
        "sha256": verdict.sha256,
        "model": verdict.model.id,
        "provider": verdict.provider,
        "purpose": verdict.purpose,
        "untrained_backbone": verdict.untrained_backbone,
        "detail": verdict.detail,
    }


def format_row(cells: Iterable[Any]) -> str:
    """A CSV line without its end; None is an empty cell."""
    text = io.StringIO(newline="")
    # The signs of the line's end are those that a cell is quoted for.
    csv.writer(text, lineterminator="\r\n").writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue().removesuffix("\r\n")


def format_line(verdict: Verdict) -> str:
    """A verdict for people: outcome, probability, threshold and file, and what must be said with them."""
    prob = "" if verdict.p_fake is None else f"{min(max(verdict.p_fake, 0.001), 0.999):.3f}"  # never all, or nothing
    remarks = [remark for remark in _list_remarks(verdict) if remark]
    notices = "".join(f"  [{notice.split(':')[0]}]" for notice in verdict.notices)
    told = f"  ({'; '.join(remarks)})" if remarks else ""
    line = f"{verdict.outcome:12}  {prob:>7}  {verdict.threshold:9.3f}  {verdict.path}{told}{notices}"
    return show_signs(line)


def describe_odds(odds: Odds) -> str:
    """What the threshold's alarms are worth where so many videos are fake, as a sentence."""
    share = format_share(odds.prevalence)
    if odds.ppv is None or odds.npv is None:
        return f"Where {share} of all videos are fake, nobody knows what the alarms of this threshold are worth."
    return (
        f"Where {share} of all videos are fake, {format_share(odds.ppv)} of those that this threshold flags are fake "
        f"(at least {format_share(odds.ppv_low)}, with 95 % confidence), and {format_share(odds.npv)} of the others "
        f"are real (at least {format_share(odds.npv_low)})."
    )


def _list_remarks(verdict: Verdict) -> list[str]:
    if verdict.outcome is Outcome.NOT_SCORABLE:
        return [f"{verdict.reason}: {verdict.detail}"]
    several = len(verdict.tracks) > 1
    odds = verdict.odds
    return [
        f"face {verdict.face}, one of {len(verdict.tracks)}" if several else "",
        _describe_intervals(verdict.tracks),
        "" if odds is None or odds.p_fake is None else f"{format_prob(odds.p_fake)} at {format_share(odds.prevalence)}",
        verdict.detail,
    ]


def _describe_intervals(tracks: Iterable[TrackScore]) -> str:
    found = list_intervals(tracks).split()
    more = f" and {len(found) - MOST_INTERVALS} more" if len(found) > MOST_INTERVALS else ""
    return f"suspicious {', '.join(found[:MOST_INTERVALS])}{more} s" if found else ""


def list_intervals(tracks: Iterable[TrackScore]) -> str:
    """The suspicious stretches of all faces as `12.0-18.5 40.0-41.0`, in seconds, in order of time."""
    stretches = sorted({(one.start_s, one.end_s) for track in tracks for one in track.intervals})
    return " ".join(f"{start_s:.1f}-{end_s:.1f}" for start_s, end_s in stretches)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
