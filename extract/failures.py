"""`failures.csv`: the videos of a cache that gave no features, each with its reason, for people and spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from extract.files import write_aside
from extract.results import OK, VideoRecord

COLUMNS = ("id", "path", "status", "detail")


def write_failures(out: Path, records: Sequence[VideoRecord]) -> Path:
    """Writes the list beside the cache `out`, sorted by id; only its header when all is well. Says where."""
    name = "failures.csv" if out.name == "features.h5" else f"{out.stem}-failures.csv"
    path = out.with_name(name)
    failed = sorted((record for record in records if record.status != OK), key=lambda record: record.id)
    # A file name may hold bytes that are no UTF-8; they are written as they are.
    with (
        write_aside(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(record, column) for column in COLUMNS] for record in failed)
    return path
