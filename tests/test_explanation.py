"""A verdict in words: ready to be sent, in order, bounded, and without signs that steer a screen."""

from __future__ import annotations

import json
from dataclasses import replace

from pydantic import TypeAdapter

from serve.explanation import MOST_STRETCHES, Explanation, explain
from serve.intervals import find_intervals
from serve.service.documents import JobDocument
from serve.verdict import Outcome
from serve.words import EVEN_ODDS, UNKNOWN_RATES, list_limits
from tests.verdicts import ODDS, make_clip, make_track, make_unscorable, make_verdict


def test_an_explanation_can_be_sent_as_json() -> None:
    verdict = make_verdict(odds=ODDS)
    told = json.loads(json.dumps(explain(verdict).to_document()))
    assert told["says"] == "The model takes a face in this video for manipulated."
    assert told["rates"]["rows"][0] == ["fakes found, of 23 (recall)", "96\xa0%", "at least 73\xa0%"]
    assert told["odds"]["title"] == "Where 1\xa0% of all videos are fake"
    assert told["limits"] == list(list_limits(verdict))


def test_an_explanation_is_what_the_interface_says_it_is() -> None:
    told = explain(make_verdict(odds=ODDS)).to_document()
    assert JobDocument.model_fields["explanation"].annotation == Explanation | None
    described = TypeAdapter(Explanation)
    assert json.loads(described.dump_json(described.validate_python(told))) == json.loads(json.dumps(told))


def test_signs_that_steer_a_screen_are_written_out() -> None:
    told = explain(make_verdict(path="a\u202egnp.mp4", detail="\x1b[0m")).to_document()
    assert ["name", "a\\u202egnp.mp4"] in told["file"]
    assert ["remarks", "\\x1b[0m"] in told["file"]


def test_a_path_is_named_where_it_is_more_than_a_name() -> None:
    assert ("path", "/films/clip.mp4") in explain(make_verdict()).file
    assert "path" not in dict(explain(make_verdict(path="clip.mp4")).file)


def test_what_is_not_known_is_said_and_what_is_known_is_not_denied() -> None:
    known, unknown = explain(make_verdict(odds=ODDS)), explain(make_verdict(rates=None))
    assert (known.unknown_rates, known.even_odds) == ("", "")
    assert (unknown.rates, unknown.unknown_rates, unknown.even_odds) == (None, UNKNOWN_RATES, EVEN_ODDS)


def test_a_file_without_a_score_has_no_word_on_thresholds() -> None:
    told = explain(make_unscorable("NO_FACE"))
    assert told.reason.startswith("No face was found")
    assert not any((told.decision, told.scale, told.threshold, told.rates, told.unknown_rates, told.even_odds))


def test_the_face_that_gave_the_score_comes_first_and_those_that_do_not_count_last() -> None:
    beside, high, main = (
        make_track(0, make_clip([0.99] * 4, counted=False)),
        make_track(1, make_clip([0.6] * 4)),
        make_track(2, make_clip([0.8] * 4)),
    )
    faces = explain(make_verdict(tracks=(beside, high, main), face=2)).faces
    assert [face.track for face in faces] == [2, 1, 0]


def test_of_many_stretches_the_highest_are_named_in_order_of_time() -> None:
    probs = [0.1, 0.6, 0.6, 0.6, 0.1] * 2 + [0.1, 0.9, 0.9, 0.9, 0.1] * 6
    track = make_track(0, make_clip(probs))
    (face,) = explain(make_verdict(tracks=(track,))).faces
    assert len(find_intervals(list(track.frames), 0.5)) == 8
    assert len(face.stretches) == MOST_STRETCHES + 1
    assert face.stretches[0] == "0:05.5 to 0:06.5 (highest 0.900)"
    assert face.stretches[-1] == "and in 2 other stretches"


def test_a_band_is_spoken_of_only_where_there_is_one() -> None:
    verdict = make_verdict(outcome=Outcome.FAKE)
    sharp = explain(replace(verdict, uncertain=(0.5, 0.5)))
    assert "UNCERTAIN" in explain(verdict).scale
    assert not [words for words in (sharp.scale, sharp.threshold, str(sharp.rates)) if "UNCERTAIN" in words]
