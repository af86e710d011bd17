"""The contact sheet of a cached video: the crops that were embedded, a bounded picture, and every refusal."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from extract.cache import write_cache
from extract.cache_cli import cache_group
from extract.clips import Clip, ClipSpecs, read_clips
from extract.errors import MismatchError, UsageError
from extract.files import hash_file
from extract.results import ClipRows, VideoRecord, VideoResult
from extract.sheet import MOST_CELLS, MOST_ROWS, choose_evenly, choose_lines, make_sheet, read_cells
from extract.sheet_picture import WIDTH_PX, Mark, choose_colour, draw_thumbnail
from extract.specs import EvenSampling, TrackSpec
from extract.video import open_video
from tests.conftest import FACE
from tests.fakes import FixedDetector, make_fingerprint
from tests.media import carphone_frames, write_video

PRINT = make_fingerprint()
SPECS = ClipSpecs(EvenSampling(), PRINT.crop, TrackSpec(keep="all"))
LEFT = (2.0, 40.0, 40.0, 80.0)


def cut_clips(path: Path) -> list[Clip]:
    return list(read_clips(open_video(path), SPECS, FixedDetector(FACE, LEFT)))


def as_rows(clip: Clip) -> ClipRows:
    features = np.zeros((len(clip.crops), 8), np.float16)
    return ClipRows(clip.track, 0, clip.start_s, clip.end_s, clip.times_s, clip.boxes, clip.scores, features)


def make_rows(start_s: float, track: int, count: int = 5) -> ClipRows:
    times = np.linspace(start_s, start_s + 9, count)
    return ClipRows(
        track, 0, start_s, start_s + 10, times, np.tile(np.array(FACE, np.float32), (count, 1)),
        np.ones(count, np.float32), np.zeros((count, 8), np.float16),
    )  # fmt: skip


def cache_video(folder: Path, clips: Sequence[ClipRows] | None = None, **changes: str) -> tuple[Path, Path]:
    """(cache, video) of a talking face; the cache holds a second video without a face."""
    path = write_video(folder / "talk.mp4", carphone_frames(24))
    state = path.stat()
    record = VideoRecord(
        id="a/talk.mp4", path=str(path), size=state.st_size, mtime_ns=state.st_mtime_ns, sha256=hash_file(path),
        label="real", group="", pair="", dataset="", method="", split="", protocol="", status="OK", detail="",
    )  # fmt: skip
    rows = [as_rows(clip) for clip in cut_clips(path)] if clips is None else clips
    empty = replace(record, id="b/walls.mp4", status="NO_FACE", detail="no sampled frame shows a face")
    write_cache(folder / "features.h5", PRINT, {}, [VideoResult(replace(record, **changes), tuple(rows)),  # type: ignore[arg-type]
                                                    VideoResult(empty)])  # fmt: skip
    return folder / "features.h5", path


def show(*arguments: str) -> Result:
    return CliRunner().invoke(cache_group, ["show", *arguments])


def test_the_crops_of_a_sheet_are_the_very_ones_that_were_embedded(tmp_path: Path) -> None:
    _, path = cache_video(tmp_path)
    embedded = cut_clips(path)
    lines = choose_lines([as_rows(clip) for clip in embedded])
    read_cells(path, lines, [line.clip for line in lines], PRINT.crop)
    assert [line.clip.track for line in lines] == [0, 1]
    for line, clip in zip(lines, embedded, strict=True):
        assert len(line.cells) == MOST_CELLS
        for i, cell in line.cells.items():
            assert np.array_equal(cell.crop, clip.crops[i])
            assert cell.time_s == clip.times_s[i]


def test_a_sheet_shows_every_track_in_its_colour(tmp_path: Path) -> None:
    cache, _ = cache_video(tmp_path)
    sheet = make_sheet(cache, "a/talk.mp4", tmp_path / "out" / "sheet.png")
    assert (sheet.clips, sheet.clips_shown, sheet.tracks, sheet.rows_shown) == (1, 1, 2, 2)
    picture = cv2.imread(sheet.out)
    assert picture is not None
    assert picture.shape[1] == WIDTH_PX
    for track in (0, 1):
        assert (picture[:, :, ::-1] == choose_colour(track)).all(axis=2).sum() > 1000


def test_a_video_is_found_by_its_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, path = cache_video(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert make_sheet(cache, str(path), tmp_path / "a.png").video == "a/talk.mp4"
    assert make_sheet(cache, "talk.mp4", tmp_path / "b.png").video == "a/talk.mp4"


@given(spans=st.integers(1, 60), tracks=st.integers(1, 20))
def test_a_sheet_is_bounded_however_long_the_video_and_however_many_its_faces(spans: int, tracks: int) -> None:
    lines = choose_lines([make_rows(10.0 * span, track) for span in range(spans) for track in range(tracks)])
    assert 0 < len(lines) <= MOST_ROWS
    assert len(lines) == MOST_ROWS or spans * tracks < MOST_ROWS or len(lines) + tracks > MOST_ROWS
    shown = sorted({line.number for line in lines})
    assert len(lines) == min(MOST_ROWS, len(shown) * tracks)  # all tracks of a clip, as far as they fit


@given(count=st.integers(1, 500), most=st.integers(2, 40))
def test_an_even_choice_has_both_ends_and_no_gap_wider_than_another_by_more_than_one(count: int, most: int) -> None:
    chosen = choose_evenly(count, most)
    assert len(chosen) == min(count, most)
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True


def test_a_sheet_says_what_it_leaves_out(tmp_path: Path) -> None:
    path = cache_video(tmp_path, [make_rows(10.0 * i, 0) for i in range(30)])[0]
    long = make_sheet(path, "a/talk.mp4", tmp_path / "s.png")
    assert (long.clips, long.clips_shown, long.rows_shown) == (30, MOST_ROWS, MOST_ROWS)
    path = cache_video(tmp_path, [make_rows(0.0, track) for track in range(15)])[0]
    crowded = make_sheet(path, "a/talk.mp4", tmp_path / "s.png")
    assert (crowded.clips_shown, crowded.rows, crowded.rows_shown) == (1, 15, MOST_ROWS)


def test_a_video_that_is_not_in_the_cache_is_refused_with_the_closest_ids(tmp_path: Path) -> None:
    cache, _ = cache_video(tmp_path)
    with pytest.raises(UsageError, match=r"no video 'a/tolk.mp4' among the 2 of .*closest ids are a/talk.mp4"):
        make_sheet(cache, "a/tolk.mp4", tmp_path / "s.png")


def test_a_video_without_features_is_refused_with_its_reason(tmp_path: Path) -> None:
    cache, _ = cache_video(tmp_path)
    with pytest.raises(UsageError, match=r"b/walls.mp4 has no features to show: NO_FACE \(no sampled frame"):
        make_sheet(cache, "b/walls.mp4", tmp_path / "s.png")


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    cache, path = cache_video(tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match=r"the file of a/talk.mp4 is not at"):
        make_sheet(cache, "a/talk.mp4", tmp_path / "s.png")


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    cache, path = cache_video(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(MismatchError, match="has changed since its features were taken: found sha256"):
        make_sheet(cache, "a/talk.mp4", tmp_path / "s.png")
    path.write_bytes(content + b"0")
    with pytest.raises(MismatchError, match=r"found .* bytes, expected"):
        make_sheet(cache, "a/talk.mp4", tmp_path / "s.png")


def test_a_copy_of_the_same_content_is_shown(tmp_path: Path) -> None:
    cache, path = cache_video(tmp_path)
    os.utime(path, ns=(1, 1))
    assert make_sheet(cache, "a/talk.mp4", tmp_path / "s.png").rows_shown == 2


def test_the_command_looks_into_features_h5_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = cache_video(tmp_path)
    out = tmp_path / "s.png"
    monkeypatch.chdir(tmp_path)
    done = show("a/talk.mp4", "--out", str(out), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rows_shown"] == 2
    named = show(str(cache), "a/talk.mp4", "--out", str(out))
    assert named.stdout == f"{out}: a/talk.mp4, 1 of 1 clips, 2 rows\n"


def test_the_command_refuses_more_arguments_than_two_and_a_sheet_that_is_no_png() -> None:
    many = show("a.h5", "b.mp4", "c.mp4", "--out", "s.png")
    assert (many.exit_code, "found 3 arguments" in many.stderr) == (2, True)
    jpeg = show("b.mp4", "--out", "s.jpg")
    assert (jpeg.exit_code, "name it s.png" in jpeg.stderr) == (2, True)


def test_a_frame_as_narrow_as_a_line_is_drawn() -> None:
    box = np.array([0, 0, 9, 9], np.float32)
    picture = draw_thumbnail(np.zeros((1000, 20, 3), np.uint8), [Mark(12, box, own=True)])
    assert picture.shape[0] > picture.shape[1] > 0
