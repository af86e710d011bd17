"""The results file of a long batch: whole lines, one a file, written as verdicts come, and continued after a kill.

Each line holds a verdict, as JSON or CSV by the file's suffix, and beside it what is needed to know the scored file
again (size and time of change) and which faces counted.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
    """A line of a results file: its bytes, and what is read in it."""

    content: bytes
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
        self._path = path
        self._terms = terms
        self._as_csv = path.suffix.lower() == ".csv"
        with translate_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(path.with_name(f".{path.name}.lock"), f"writes {path}")
        try:
            self.kept = self._continue(files, retry)
            with translate_os_errors(path):
                self._file: BinaryIO = path.open("ab")
        except BaseException:
            self._lock.release()
            raise

    def add(self, verdict: Verdict) -> None:
        """Writes a line, and returns when it is on the disk."""
        cells = {"counted_faces": self._terms.counted_faces, **_describe_state(Path(verdict.path))}
        if self._as_csv:
            line = format_row({**list_cells(verdict), **cells}.values())
        else:
            line = dump_line({**verdict.to_document(), **cells})
        with translate_os_errors(self._path):
            self._file.write(f"{line}\n".encode(errors="surrogateescape"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets others write."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _continue(self, files: Sequence[Path], retry: frozenset[str]) -> dict[str, str]:
        content = self._path.read_bytes() if self._path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a line that a kill cut off is made again
        wanted = {str(file): file for file in files}
        kept: dict[str, Line] = {}
        for line in self._read_lines(whole):
            file = wanted.get(line.path)
            if file is not None and (line.reason in retry or line.state != _read_state(file)):
                kept.pop(line.path, None)
            else:
                kept[line.path] = line
        head = f"{format_row(COLUMNS)}\n".encode() if self._as_csv else b""
        new = head + b"".join(line.content for line in kept.values())
        if new != content:
            with write_aside(self._path) as temporary:
                temporary.write_bytes(new)
        return {path: line.outcome for path, line in kept.items() if path in wanted}

    def _read_lines(self, content: bytes) -> Iterator[Line]:
        lines = _split_csv(content) if self._as_csv else content.splitlines(keepends=True)
        if self._as_csv and lines and lines[0].strip() != format_row(COLUMNS).encode():
            raise FormatError(f"{self._path} has other columns than this version writes; choose another --out")
        for number, line in enumerate(lines[1:] if self._as_csv else lines, start=1):
            try:
                found = _read_row(line) if self._as_csv else _read_document(line)
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(
                    f"{self._path}: result {number} is not one of `unmask score`; choose another --out"
                ) from error
            differences = describe_difference(vars(found.terms), vars(self._terms), words=("it has", "asked for is"))
            if differences:
                raise MismatchError(
                    f"{self._path} holds verdicts under other terms ({'; '.join(differences)}); choose another --out"
                )
            yield found


def _read_document(line: bytes) -> Line:
    document = json.loads(line)
    if document["format"] != FORMAT:
        raise ValueError(document["format"])
    odds = document["odds"]
    cells = {
        **document,
        "model": document["model"]["id"],
        "prevalence": None if odds is None else odds["prevalence"],
    }
    return _make_line(line, cells)


def _read_row(line: bytes) -> Line:
    (row,) = csv.reader([line.decode(errors="surrogateescape")], strict=True)
    if len(row) != len(COLUMNS):
        raise ValueError(row)
    return _make_line(line, {name: cell or None for name, cell in zip(COLUMNS, row, strict=True)})


def _make_line(line: bytes, cells: Mapping[str, Any]) -> Line:
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
    return Line(line, cells["path"], state, cells["outcome"], cells["reason"] or "", terms)


def _split_csv(content: bytes) -> list[bytes]:
    """The records of a CSV file, as bytes: a quoted cell may hold line ends."""
    records: list[bytes] = []
    pending = b""
    for line in content.splitlines(keepends=True):
        pending += line
        if pending.count(b'"') % 2 == 0:
            records.append(pending)
            pending = b""
    return records


def _describe_state(path: Path) -> dict[str, int | None]:
    state = _read_state(path)
    return {"size_bytes": None, "mtime_ns": None} if state is None else dict(zip(SEEN[1:], state, strict=True))


def _read_state(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def list_todo(files: Iterable[Path], kept: Mapping[str, str]) -> list[Path]:
    """The files of a batch that have no result yet."""
    return [file for file in files if str(file) not in kept]
