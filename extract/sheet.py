"""One video of a cache to look at: its sampled frames with their boxes, and the very crops that were embedded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.cache import CacheFile, open_cache
from extract.crops import cut_crop
from extract.errors import MismatchError, UsageError
from extract.files import hash_file
from extract.parts import FileState
from extract.results import OK, ORIGINAL_VIEW, ClipRows, VideoRecord
from extract.sheet_picture import Cell, Mark, Row, draw_thumbnail, write_picture
from extract.specs import CropSpec, Fingerprint
from extract.video import open_video

MOST_ROWS = 12
MOST_CELLS = 10  # a row


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows, and how much there would have been to show."""

    out: str
    video: str
    clips: int
    clips_shown: int
    tracks: int
    rows: int  # of the clips shown
    rows_shown: int


@dataclass
class Line:
    """A clip of one track, the frames of it that are shown, and what has been read of them."""

    clip: ClipRows
    number: int  # of its span, from 0
    chosen: NDArray[np.intp]
    cells: dict[int, Cell] = field(default_factory=dict)


def make_sheet(cache_path: Path, video: str, out: Path) -> Sheet:
    """Draws the contact sheet of the video with this id or path; refuses a file that is not the one of the cache."""
    with open_cache(cache_path) as cache:
        index = find_video(cache, video)
        (result,) = cache.read_results([index])
        fingerprint = cache.fingerprint
    record = result.record
    if record.status != OK:
        raise UsageError(f"{record.id} has no features to show: {record.status} ({record.detail or 'no detail'})")
    path = Path(record.path)
    require_same_file(path, record)
    originals = [clip for clip in result.clips if clip.view == ORIGINAL_VIEW]
    lines = choose_lines(originals)
    read_cells(path, lines, originals, fingerprint.crop)
    shown = _count_shown(out, record, originals, lines)
    write_picture(out, describe_video(record, fingerprint, shown), [_as_row(line, shown) for line in lines])
    return shown


def find_video(cache: CacheFile, wanted: str) -> int:
    """The index of the video with this id or, failing that, this path."""
    ids = cache.read_column("id")
    if wanted in ids:
        return ids.index(wanted)
    paths = cache.read_column("path")
    place = Path(wanted).resolve()
    for index, path in enumerate(paths):
        if path == wanted or Path(path).resolve() == place:
            return index
    close = get_close_matches(wanted, ids, n=3, cutoff=0.0)
    raise UsageError(
        f"no video {wanted!r} among the {len(ids)} of {cache.path}; the closest ids are {', '.join(close) or 'none'}"
    )


def require_same_file(path: Path, record: VideoRecord) -> None:
    """Refuses a file that is gone or has changed since its features were taken."""
    if not path.is_file():
        raise UsageError(
            f"the file of {record.id} is not at {path.resolve()}; go to the folder in which `unmask extract` ran, or "
            "put the file back"
        )
    state = FileState.read(path)
    if state == FileState(record.size, record.mtime_ns):
        return
    found = f"{state.size} bytes"
    if state.size == record.size:
        sha256 = hash_file(path)
        if sha256 == record.sha256:
            return
        found = f"sha256 {sha256}"
    expected = f"{record.size} bytes, sha256 {record.sha256}"
    raise MismatchError(
        f"{path} has changed since its features were taken: found {found}, expected {expected}; "
        "run `unmask extract` again, or put the old file back"
    )


def choose_lines(clips: Sequence[ClipRows]) -> list[Line]:
    """The rows of a sheet: every track of an even choice of clip spans, and an even choice of their frames."""
    spans = [list(tracks) for _, tracks in groupby(clips, key=lambda clip: clip.start_s)]
    chosen = np.arange(len(spans))
    for count in range(min(len(spans), MOST_ROWS), 0, -1):
        chosen = choose_evenly(len(spans), count)
        if sum(len(spans[i]) for i in chosen) <= MOST_ROWS:
            break
    return [Line(clip, int(i), choose_evenly(len(clip.times_s), MOST_CELLS)) for i in chosen for clip in spans[i]][
        :MOST_ROWS
    ]


def choose_evenly(count: int, most: int) -> NDArray[np.intp]:
    """At most `most` of `count` places, the first and the last among them where there are two."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def read_cells(path: Path, lines: Sequence[Line], clips: Sequence[ClipRows], spec: CropSpec) -> None:
    """Fills in the frames and crops of all lines, the video read once and no frame kept."""
    wanted: dict[float, list[tuple[Line, int]]] = defaultdict(list)
    for line in lines:
        for i in line.chosen:
            wanted[float(line.clip.times_s[i])].append((line, int(i)))
    times = np.array(sorted(wanted))
    for served, frame in open_video(path).read_at(times):
        for time_s in times[served].tolist():
            for line, i in wanted[time_s]:
                marks = _mark_faces(clips, time_s, line.clip)
                crop = cut_crop(frame.rgb, line.clip.boxes[i], spec)
                score = float(line.clip.scores[i])
                line.cells[i] = Cell(time_s, score, draw_thumbnail(frame.rgb, marks), crop)


def describe_video(record: VideoRecord, fingerprint: Fingerprint, shown: Sheet) -> list[str]:
    """The lines at the head of a sheet; the first is its title."""
    part = "1 clip" if shown.clips == 1 else f"{shown.clips} clips with a face"
    if shown.clips_shown < shown.clips:
        part = f"{shown.clips_shown} of {part}, chosen evenly"
    tracks = "1 track" if shown.tracks == 1 else f"{shown.tracks} tracks"
    if shown.rows_shown < shown.rows:
        tracks += f", {shown.rows - shown.rows_shown} of {shown.rows} rows left out"
    names = f"backbone {fingerprint.backbone.name} | detector {fingerprint.detector.name}"
    lines = [record.id, f"label {record.label or 'none'} | {record.status} | {names} | {part} | {tracks}"]
    return [*lines, f"note: {record.detail}"] if record.detail else lines


def _count_shown(out: Path, record: VideoRecord, clips: Sequence[ClipRows], lines: Sequence[Line]) -> Sheet:
    starts = {line.clip.start_s for line in lines}
    return Sheet(
        out=str(out),
        video=record.id,
        clips=len({clip.start_s for clip in clips}),
        clips_shown=len(starts),
        tracks=len({clip.track for clip in clips}),
        rows=sum(clip.start_s in starts for clip in clips),
        rows_shown=len(lines),
    )


def _mark_faces(clips: Sequence[ClipRows], time_s: float, own: ClipRows) -> list[Mark]:
    """Every cached box of the frame at this time, the line's own one last: it is drawn over the others."""
    marks = []
    for clip in sorted(clips, key=lambda clip: clip.track == own.track):
        if clip.start_s == own.start_s:
            marks += [Mark(clip.track, clip.boxes[i], clip is own) for i in np.flatnonzero(clip.times_s == time_s)]
    return marks


def _as_row(line: Line, shown: Sheet) -> Row:
    clip = line.clip
    head = f"clip {line.number + 1} of {shown.clips}, {clip.start_s:.2f} to {clip.end_s:.2f} s"
    frames = f"{len(clip.times_s)} frames" + (
        f", {len(line.chosen)} of them shown" if len(line.chosen) < len(clip.times_s) else ""
    )
    scores = f"detection score {clip.scores.min():.3f} to {clip.scores.max():.3f}"
    return Row(clip.track, f"{head} | {frames} | {scores}", [line.cells[int(i)] for i in line.chosen])
