"""An evaluation as one page of HTML that needs nothing beside it and reads on paper, on a phone and without colour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from train.evaluation.account import Account
from train.measures.metrics import format_estimate
from train.plots import BLUE, GREY, INK, ORANGE, PALE, PAPER

TEMPLATES = Path(__file__).parent / "templates"
# The page's own colours, which are others in the dark, in the place of the pictures'.
COLOURS = {INK: "ink", "#000000": "ink", BLUE: "real", ORANGE: "fake", GREY: "faint", PALE: "line", PAPER: "paper"}
TITLES = {
    "scores": "Scores",
    "roc": "ROC curve",
    "pr": "Precision and recall",
    "thresholds": "Thresholds",
    "reliability": "Reliability",
    "confusion": "Confusion matrix",
}
CAPTIONS = {
    "scores": "How the videos of each class score. Fakes (hatched) should lie right of the line, real videos (outline) "
    "left of it; in the grey band the detector does not decide.",
    "roc": "Every trade between fakes found and real videos flagged. The further up and left, the better; the dashed "
    "line is guessing.",
    "pr": "How many alarms are right as more fakes are found, at the share of fakes in this data. In the field fakes "
    "are rarer, and alarms are right less often.",
    "thresholds": "What every threshold would give: a lower one finds more fakes (solid) and flags more real videos "
    "(dashed). The dotted lines are those on offer.",
    "reliability": "Whether a stated probability can be believed: on the dashed line it can. Numbers count the videos "
    "behind each of ten points; few make it a guess. The ECE above goes by fifteen bins.",
    "confusion": "Each class by what it was called.",
}


@dataclass(frozen=True)
class Picture:
    """A picture to put into the page, and what it says."""

    svg: Markup
    title: str
    caption: str


@dataclass(frozen=True)
class Bar:
    """A figure between 0 and 1 with its interval, in hundredths."""

    label: str
    text: str
    value: float | None
    low: float | None
    high: float | None


def render_report(account: Account, pictures: Mapping[str, str]) -> str:
    """The page; `pictures` are SVG by the names of `CAPTIONS`."""
    bars = [
        Bar(
            label,
            format_estimate(found),
            *(None if x is None else 100 * x for x in (found.value, found.low, found.high)),
        )
        for label, found in account.intervals
    ]
    barred = {bar.label for bar in bars}
    shown = [Picture(adapt_colours(svg), TITLES[name], CAPTIONS[name]) for name, svg in pictures.items()]
    others = [row for row in account.figures.rows if row[0] not in barred]
    return _load_template().render(account=account, pictures=shown, bars=bars, others=others)


def adapt_colours(svg: str) -> Markup:
    """A picture of ours in the colours of the page; its texts were escaped when it was drawn."""
    pattern = re.compile("|".join(COLOURS), re.IGNORECASE)
    # Only within declarations of style: a text may look like a colour.
    styled = re.sub(
        r'(?:style|fill|stroke)="[^"<>]*"',
        lambda found: pattern.sub(lambda colour: f"var(--{COLOURS[colour[0].lower()]})", found[0]),
        svg,
    )
    return Markup(styled)  # noqa: S704


def mark_code(text: str) -> Markup:
    """A text in which `commands` are set as such; all else of it is escaped."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


@cache
def _load_template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = mark_code
    return environment.get_template("report.html.j2")
