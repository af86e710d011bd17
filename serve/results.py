"""The results file of a long batch: whole lines, one a file, written as verdicts come, and continued after a kill.

Each line holds a verdict, as JSON or CSV by the file's suffix, and beside it what is needed to know the scored file
again (size and time of change) and which faces counted.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from extract.errors import FormatError, MismatchError, UsageError, describe_difference
from extract.files import translate_os_errors, write_aside
from extract.lock import Lock
from serve.lines import CSV_COLUMNS, dump_line, format_row, list_cells
from serve.ruling import Ruling
from serve.scorer import Keep, Scorer
from serve.verdict import FORMAT, Verdict

SEEN = ("counted_faces", "size_bytes", "mtime_ns")
COLUMNS = (*CSV_COLUMNS, *SEEN)
SUFFIXES = (".jsonl", ".csv")
BEGINNING = json.dumps({"format": FORMAT})[:-1].encode()  # of every JSON line


@dataclass(frozen=True)
class Terms:
    """What two verdicts must have in common to stand in one file."""

    model: str
    preset: str
    threshold: float
    counted_faces: Keep
    prevalence: float | None

    @classmethod
    def of(cls, scorer: Scorer) -> Terms:
        """Those of an open scorer."""
        ruling: Ruling = scorer.ruling
        return cls(scorer.facts.id, ruling.preset, ruling.value, scorer.tracks, ruling.prevalence)


@dataclass(frozen=True)
class Line:
    """A line of a results file: where it lies, and what is read in it."""

    start: int
    end: int
    path: str
    state: tuple[int, int] | None  # size and time of change, where the file was there
    outcome: str
    reason: str
    terms: Terms


class ResultsFile:
    """Open for one batch, and for nobody else at the same time; to be used in a `with` statement.

    `kept` are the outcomes of the batch's files that are not scored again, by path.
    """

    def __init__(self, path: Path, terms: Terms, files: Sequence[Path], retry: frozenset[str] = frozenset()) -> None:
        """Keeps the lines of files that are as they were, but for those whose reason is one of `retry`.

        Raises MismatchError for a file with verdicts under other terms.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: results are JSON lines or CSV; name a file that ends in .jsonl or .csv")
        self._path = path = path.resolve()  # of a link, what it names is written
        self._terms = terms
        # As they are before they are scored: one that changes meanwhile is scored again the next time.
        self._states = {str(file): _read_state(file) for file in files}
        self._as_csv = path.suffix.lower() == ".csv"
        with translate_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._lock = Lock(self._lock_path, f"writes {path}")
        try:
            with translate_os_errors(path):
                self.kept = self._continue(retry)
                self._file: FileIO = path.open("ab", buffering=0)
        except BaseException:
            self._unlock()
            raise

    def add(self, verdict: Verdict) -> None:
        """Writes a line, and returns when it is on the disk."""
        state = self._states.get(verdict.path) or (None, None)
        cells = {"counted_faces": self._terms.counted_faces, **dict(zip(SEEN[1:], state, strict=True))}
        if self._as_csv:
            line = format_row({**list_cells(verdict), **cells}.values())
        else:
            line = dump_line({**verdict.to_document(), **cells})
        with translate_os_errors(self._path):
            rest = memoryview(f"{line}\n".encode(errors="surrogateescape"))
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets others write."""
        try:
            self._file.close()
        finally:
            self._unlock()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unlock(self) -> None:
        with suppress(OSError):  # a lock that stays behind locks nobody out
            self._lock_path.unlink(missing_ok=True)
        self._lock.release()

    def _continue(self, retry: frozenset[str]) -> dict[str, str]:
        """Brings the file to whole lines, one a path, without those of files to score again."""
        head = f"{format_row(COLUMNS)}\n".encode() if self._as_csv else b""
        kept: dict[str, Line] = {}
        size = self._path.stat().st_size if self._path.is_file() else 0
        for line in self._read_lines(head) if size else ():
            scored_again = line.path in self._states and (line.reason in retry or line.state != self._states[line.path])
            if scored_again:
                kept.pop(line.path, None)
            else:
                kept[line.path] = line
        if not size or size != len(head) + sum(line.end - line.start for line in kept.values()):
            self._rewrite(head, kept.values())
        return {path: line.outcome for path, line in kept.items() if path in self._states}

    def _rewrite(self, head: bytes, lines: Iterable[Line]) -> None:
        with write_aside(self._path) as temporary, temporary.open("wb") as new:
            new.write(head)
            if self._path.is_file():
                with self._path.open("rb") as old:
                    for line in lines:
                        old.seek(line.start)
                        new.write(old.read(line.end - line.start))

    def _read_lines(self, head: bytes) -> Iterator[Line]:
        """The whole lines under the head; one that a kill cut off is left out, for it is made again."""
        with self._path.open("rb") as file:
            if not head.startswith(file.read(len(head))):
                raise FormatError(f"{self._path} has other columns than this version writes; choose another --out")
            start = len(head)
            for number, content in enumerate(_split_records(file) if self._as_csv else file, start=1):
                if not content.endswith(b"\n"):
                    if not self._as_csv and content[: len(BEGINNING)] != BEGINNING[: len(content)]:
                        raise FormatError(f"{self._path} holds something else than results; choose another --out")
                    return
                yield self._read_line(content, start, number)
                start += len(content)

    def _read_line(self, content: bytes, start: int, number: int) -> Line:
        try:
            cells = _read_row(content) if self._as_csv else _read_document(content)
            line = _make_line(cells, start, start + len(content))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(
                f"{self._path}: result {number} is not one of `unmask score`; choose another --out"
            ) from error
        differences = describe_difference(vars(line.terms), vars(self._terms), words=("it has", "asked for is"))
        if differences:
            raise MismatchError(
                f"{self._path} holds verdicts under other terms ({'; '.join(differences)}); choose another --out"
            )
        return line


def _read_document(line: bytes) -> Mapping[str, Any]:
    document = json.loads(line)
    if document["format"] != FORMAT:
        raise ValueError(document["format"])
    odds = document["odds"]
    return {
        **document,
        "model": document["model"]["id"],
        "prevalence": None if odds is None else odds["prevalence"],
    }


def _read_row(line: bytes) -> Mapping[str, Any]:
    (row,) = csv.reader([line.decode(errors="surrogateescape")], strict=True)
    if len(row) != len(COLUMNS):
        raise ValueError(row)
    return {name: cell or None for name, cell in zip(COLUMNS, row, strict=True)}


def _make_line(cells: Mapping[str, Any], start: int, end: int) -> Line:
    if not isinstance(cells["path"], str):
        raise TypeError(cells["path"])
    size, mtime = cells["size_bytes"], cells["mtime_ns"]
    prevalence = cells["prevalence"]
    terms = Terms(
        cells["model"],
        cells["preset"],
        float(cells["threshold"]),
        cells["counted_faces"],
        None if prevalence is None else float(prevalence),
    )
    state = None if size is None or mtime is None else (int(size), int(mtime))
    return Line(start, end, cells["path"], state, cells["outcome"], cells["reason"] or "", terms)


def _split_records(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The records of a CSV file: a quoted cell may hold line ends. One that is cut off inside a cell is left out."""
    pending = b""
    for line in lines:
        pending += line
        if pending.count(b'"') % 2 == 0:
            yield pending
            pending = b""


def _read_state(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that the system does not take
        return None
    return found.st_size, found.st_mtime_ns
