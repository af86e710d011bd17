"""What an audit found: a leak or a damage a finding; and all of it as one sentence, a table or a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Column, Table
from rich.text import Text

Kind = Literal["person", "group", "source clip", "same file", "near duplicate", "two labels", "one class", "count"]


@dataclass(frozen=True)
class Finding:
    """One kind of leak between two splits, or of damage in one; `what` goes on from `this split ...`."""

    kind: Kind
    what: str
    splits: tuple[str, ...]
    count: int  # persons, groups, clips, files, pairs, classes or videos, by the kind
    videos: int  # videos of the last of these splits that are concerned
    protocols: tuple[str, ...]  # that these videos name
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """What was compared, what has to be known beside it, and what was found, the worst first."""

    videos: int
    splits: dict[str, dict[str, int]]  # split -> label -> videos; the name of no split is ""
    checked: tuple[str, ...]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """One sentence with the first finding of every kind, which begins with the name of the split at fault."""
        if not self.findings:
            return f"no leak found in {count_noun(self.videos, 'video')}"
        first = {finding.kind: finding for finding in reversed(self.findings)}
        named = [finding for finding in self.findings if first[finding.kind] is finding]
        protocols = sorted({protocol for finding in named for protocol in finding.protocols})
        rest = len(self.findings) - len(named)
        more = f"; and {count_noun(rest, 'finding')} more" if rest else ""
        return f"{_name_split(protocols)} {'; '.join(finding.what for finding in named)}{more}"

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return {"clean": not self.findings, "summary": self.summary, **asdict(self)}


def tabulate(audit: Audit) -> Table:
    """The findings, a line each, and examples below it."""
    table = Table("finding", Column("what it is, for example", overflow="fold"))
    for finding in audit.findings:
        lines = [finding.what, *(f"  {example}" for example in finding.examples)]
        table.add_row(Text(finding.kind), Text("\n".join(lines)))
    return table


def describe(audit: Audit) -> list[str]:
    """What the table does not say: how many videos, what was checked, and what could not be."""
    splits = (
        f"{name or 'no split'} {counts['real']} real and {counts['fake']} fake" for name, counts in audit.splits.items()
    )
    return [
        f"{count_noun(audit.videos, 'video')}: {', '.join(splits)}",
        *(f"checked: {line}" for line in audit.checked),
        *(f"note: {line}" for line in audit.notes),
    ]


def count_noun(number: int, noun: str) -> str:
    """`1 person`, `2 persons`, `3 source clips`."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def _name_split(protocols: Sequence[str]) -> str:
    if len(protocols) != 1:
        named = f" ({', '.join(protocols)})" if protocols else ""
        return f"the split of this manifest{named}"
    return f"the {'official ' if protocols[0].endswith('-official') else ''}split {protocols[0]}"
