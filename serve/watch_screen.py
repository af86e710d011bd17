"""The score of a live source for people: a panel where they watch, a line now and then where a log does; or JSON."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from serve.verdict import Outcome
from serve.watch import Summary, Update

LINE_S = 1.0  # of footage between two lines
BAR = 40
MOST_WIDTH = 100
WORDS = {
    Outcome.REAL: "REAL: nothing looks fake",
    Outcome.UNCERTAIN: "UNCERTAIN: too close to the threshold to say",
    Outcome.FAKE: "FAKE: this looks fake",
}
STYLES = {Outcome.REAL: "green", Outcome.UNCERTAIN: "yellow", Outcome.FAKE: "bold red", Outcome.NOT_SCORABLE: "dim"}


class JsonShow:
    """One JSON document a line: a header, then frames and clips that ended, then a summary."""

    def begin(self, header: dict[str, Any]) -> None:
        """What is watched, and with what."""
        self._say(header)

    def show(self, update: Update) -> None:
        """A line a frame, and one for every clip that ended before it."""
        for document in update.to_documents():
            self._say(document)

    def end(self, summary: Summary) -> None:
        """The last line."""
        for document in summary.to_documents():
            self._say(document)

    def _say(self, document: dict[str, Any]) -> None:
        click.echo(json.dumps(document, ensure_ascii=False))


class LineShow:
    """A line for every second of footage, and where the outcome changes."""

    def __init__(self) -> None:
        self._threshold = 0.0
        self._said_s = -LINE_S
        self._outcome: Outcome | None = None

    def begin(self, header: dict[str, Any]) -> None:
        """What must be known before any score."""
        self._threshold = header["threshold"]
        for text in (*header["notices"], *header["remarks"]):
            click.echo(text)

    def show(self, update: Update) -> None:
        """Not each of them."""
        if update.outcome == self._outcome and update.time_s < self._said_s + LINE_S:
            return
        self._said_s, self._outcome = update.time_s, update.outcome
        behind = f", {update.lag_s:.1f} s behind" if update.lag_s >= LINE_S else ""
        dropped = f", {update.dropped} frames dropped" if update.dropped else ""
        faces = f"faces: {len(update.faces)}{behind}{dropped}"
        score = describe_score(update.p_fake, self._threshold) or update.detail
        click.echo(f"{update.time_s:8.1f} s  {update.outcome:12}  {score}  {faces}")

    def end(self, summary: Summary) -> None:
        """The whole."""
        click.echo(describe_summary(summary, self._threshold))


class PanelShow:
    """A panel that is drawn over itself; nothing in it is told by colour alone."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._header: dict[str, Any] = {}
        self._drawn_s = 0.0
        self._moments: deque[float] = deque(maxlen=32)

    def begin(self, header: dict[str, Any]) -> None:
        """The empty panel."""
        self._header = header
        self._live.start()
        self._live.update(self._frame([Text("waiting for the first frame")]), refresh=True)

    def show(self, update: Update) -> None:
        """The panel again, at most ten times a second."""
        now = time.monotonic()
        self._moments.append(now)
        if now < self._drawn_s + 0.1:
            return
        self._drawn_s = now
        self._live.update(self._frame(self._draw(update)), refresh=True)

    def end(self, summary: Summary) -> None:
        """The panel stays as it was; the whole stands below it."""
        self._live.stop()
        self._console.print(describe_summary(summary, self._header["threshold"]), markup=False, highlight=False)

    def close(self) -> None:
        """Gives the terminal back, whatever happened."""
        self._live.stop()

    def _frame(self, parts: list[RenderableType]) -> Panel:
        notices = [Text(f"! {notice}", style="bold") for notice in self._header["notices"]]
        remarks = [Text(f"note: {remark}") for remark in self._header["remarks"]]
        title = Text(f"unmask watch: {self._header['source']}")
        inside = Group(*notices, *parts, *remarks)
        return Panel(inside, title=title, title_align="left", width=min(MOST_WIDTH, self._console.width))

    def _draw(self, update: Update) -> list[RenderableType]:
        words = WORDS.get(update.outcome, f"no score: {update.detail}")
        parts: list[RenderableType] = [Text(words, style=STYLES[update.outcome])]
        threshold = self._header["threshold"]
        if update.p_fake is not None:
            parts.append(Text(describe_score(update.p_fake, threshold)))
            parts.append(Text(draw_bar(update.p_fake, threshold)))
        if update.p_fake is not None and not update.faces:
            parts.append(Text(f"no face now; this is the score of the last {self._header['window_s']:g} s"))
        if update.p_fake is not None and update.detail:
            parts.append(Text(f"note: {update.detail}"))
        if update.faces:
            parts.append(_tabulate(update))
        if len(update.faces) > 1:
            parts.append(Text("* the score is this face's"))
        pace = f"{self._measure_rate():.1f} frames/s scored   {update.lag_s:.1f} s behind   dropped: {update.dropped}"
        parts.append(Text(f"{update.time_s:.1f} s   {pace}", style="dim"))
        return parts

    def _measure_rate(self) -> float:
        """Frames a second, of the last ones."""
        taken_s = self._moments[-1] - self._moments[0]
        return (len(self._moments) - 1) / taken_s if taken_s > 0 else 0.0


def _tabulate(update: Update) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("face", "P(fake)", "this frame", "frames", "at x, y", "size"):
        table.add_column(name, justify="right")
    for face in update.faces:
        x0, y0, x1, y1 = face.box
        mark = "*" if face.track == update.face else ""
        score = "..." if face.p_fake is None else f"{face.p_fake:.3f}"
        place = f"{x0:.0f}, {y0:.0f}", f"{x1 - x0:.0f}x{y1 - y0:.0f}"
        table.add_row(f"{face.track}{mark}", score, f"{face.frame_p_fake:.3f}", str(face.frames), *place)
    return table


def describe_score(p_fake: float | None, threshold: float) -> str:
    """A probability beside its threshold; nothing where there is none."""
    if p_fake is None:
        return ""
    return f"P(fake) {p_fake:.3f} {'>=' if p_fake >= threshold else '< '} {threshold:.3f}"


def draw_bar(p_fake: float, threshold: float) -> str:
    """P(fake) from 0 to 1 as a bar, the threshold as a stroke through it."""
    filled, at = round(p_fake * BAR), min(BAR - 1, round(threshold * BAR))
    signs = ["#" if i < filled else "." for i in range(BAR)]
    signs[at] = "|"
    return f"0 [{''.join(signs)}] 1   | threshold"


def describe_summary(summary: Summary, threshold: float) -> str:
    """The whole in a few lines."""
    whole = describe_score(summary.p_fake, threshold) or f"{summary.reason}: {summary.detail}"
    lines = [f"{summary.outcome} over the whole: {whole}"]
    if summary.p_fake is not None and summary.detail:
        lines.append(summary.detail)
    if summary.highest_p_fake is not None and summary.highest_at_s is not None:
        lines.append(f"highest P(fake) {summary.highest_p_fake:.3f}, at {summary.highest_at_s:.1f} s")
    frames = f"{summary.frames} frames scored ({summary.frames_per_s:.1f} a second), {summary.dropped} dropped"
    lines.append(f"{summary.ended}: {summary.seconds:.1f} s, {frames}, faces with a score: {summary.tracks}")
    return "\n".join([*lines, *([summary.note] if summary.note else [])])
