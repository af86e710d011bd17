"""A verdict on a line: nothing is lost, made up, or let through to the terminal."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.lines import CSV_COLUMNS, choose_lines, describe_odds, format_json, format_line, format_row, list_cells
from serve.verdict import Outcome
from tests.verdicts import ODDS, make_clip, make_track, make_verdict

NAMES = st.text(max_size=30) | st.binary(max_size=30).map(lambda name: name.decode(errors="surrogateescape"))


@given(name=NAMES)
def test_any_name_survives_json_on_one_line_of_utf_8(name: str) -> None:
    line = format_json(make_verdict(path=name))
    assert b"\n" not in line.encode()
    assert json.loads(line)["path"] == name


@given(name=NAMES)
def test_any_name_survives_csv(name: str) -> None:
    line = format_row(list_cells(make_verdict(path=name)).values())
    (row,) = csv.reader(io.StringIO(line, newline=""))
    assert dict(zip(CSV_COLUMNS, row, strict=True))["path"] == name


@given(name=NAMES)
def test_no_name_moves_the_cursor_or_breaks_the_line(name: str) -> None:
    line = format_line(make_verdict(path=f"\x1b[2J\n{name}"))
    assert all(sign.isprintable() or sign == "\xa0" for sign in line)


def test_a_file_without_a_score_has_no_number_and_its_reason() -> None:
    verdict = make_verdict(
        outcome=Outcome.NOT_SCORABLE, reason="NO_FACE", detail="no sampled frame shows a face", p_fake=None, tracks=()
    )
    assert format_line(verdict).split()[:2] == ["NOT_SCORABLE", "0.500"]  # the threshold
    assert "(NO_FACE: no sampled frame shows a face)" in format_line(verdict)
    cells = list_cells(verdict)
    assert (cells["p_fake"], cells["reason"], cells["faces"]) == (None, "NO_FACE", 0)


def test_people_read_which_face_and_when() -> None:
    tracks = (make_track(0, make_clip([0.1] * 4)), make_track(3, make_clip([0.1, 0.9, 0.9, 0.9], start_s=60.0)))
    line = format_line(make_verdict(tracks=tracks, face=3, detail="frames are missing"))
    assert "(face 3, one of 2; suspicious 60.5-61.5 s; frames are missing)" in line


def test_many_suspicious_stretches_are_counted_rather_than_listed() -> None:
    probs = ([0.9, 0.9, 0.1, 0.1]) * 6
    line = format_line(make_verdict(tracks=(make_track(0, make_clip(probs)),)))
    assert "and 2 more s" in line


def test_notices_stand_on_every_line() -> None:
    line = format_line(make_verdict(purpose="demo", untrained_backbone=True))
    assert line.endswith("[DEMONSTRATION]  [UNTRAINED BACKBONE]")


def test_each_form_has_its_first_line() -> None:
    assert choose_lines("json")[0] == ""
    assert choose_lines("csv")[0] == ",".join(CSV_COLUMNS)
    assert choose_lines("table")[0].split() == ["outcome", "P(fake)", "threshold", "file"]


@pytest.mark.parametrize("form", ["csv", "table", "json"])
def test_odds_are_told_where_they_were_asked_for(form: str) -> None:
    _, format_verdict = choose_lines(form)  # type: ignore[arg-type]
    assert "0.05" in format_verdict(make_verdict(odds=ODDS))
    text = describe_odds(ODDS)
    assert "Where 1\xa0% of all videos are fake, 7.1\xa0% of those that this threshold flags are fake" in text
    assert "nobody knows" in describe_odds(type(ODDS)(0.01, None, None, None, None, None))
