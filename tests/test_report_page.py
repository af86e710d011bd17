"""The report on a file: what it says, that nothing can spoil it, and that it stays one small page."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.errors import Reason
from serve.examiner import Exhibit
from serve.occlusion import PLACES, HeatMap
from serve.pictures import Mark, draw_frame
from serve.report import render_report, write_report
from serve.verdict import DEMONSTRATION, UNTRAINED, FileFacts, Outcome, Verdict
from serve.words import REASONS
from tests.media import carphone_frames
from tests.verdicts import BOX, ODDS, RATES, make_clip, make_track, make_unscorable, make_verdict

MADE = datetime(2031, 5, 4, 12, 30, 15, tzinfo=timezone(timedelta(hours=2)))
EVIL = "\"><script>alert(1)</script>'{{ 7*7 }}&amp;.mp4"
VOID = {"meta", "img", "br", "link", "hr", "input"}
DRAWN = {"path", "rect", "line", "circle"}


class Outline(HTMLParser):
    """A page read as a browser would: its elements, its texts, and whether every element ends where it should."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in DRAWN, f"<{tag}/> is no element that closes itself"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def make_exhibits(*drops: float) -> list[Exhibit]:
    frame = carphone_frames(1)[0]
    found = []
    for number, drop in enumerate(drops):
        grid = np.zeros((PLACES, PLACES))
        grid[-2:, :2] = drop
        found.append(
            Exhibit(0.5 * number, 0, 0.8, draw_frame(frame, [Mark(0, BOX, True)]), frame[:64, :64], HeatMap(1.5, grid))
        )
    return found


def render(exhibits: tuple[float, ...] = (), missing: str = "", **changes: Any) -> str:
    return render_report(make_verdict(**changes), make_exhibits(*exhibits), MADE, "models/a b", missing)


def make_hour() -> Verdict:
    """An hour of two faces and a crowd, each with a frame every third of a second."""
    rng = np.random.default_rng(0)

    def follow(number: int, first: int, last: int) -> Any:
        clips = [make_clip(rng.uniform(0, 1, 32).tolist(), 10.0 * i, 10 / 32) for i in range(first, last)]
        return make_track(number, *clips)

    tracks = (follow(0, 0, 360), follow(1, 0, 360), *(follow(2 + i, 3 * i, 3 * i + 2) for i in range(100)))
    return make_verdict(tracks=tracks, file=FileFacts(1 << 31, "mov", "h264", 1920, 1080, 90_000, 3600.0))


PAGES = {
    "fake": lambda: render((1.0, 0.05, 0.5)),
    "real": lambda: render((0.3,), outcome=Outcome.REAL, p_fake=0.2, odds=ODDS),
    "uncertain": lambda: render(outcome=Outcome.UNCERTAIN, p_fake=0.45, missing="the file is gone"),
    "own threshold": lambda: render(preset="threshold", rates=None, uncertain=(0.5, 0.5), threshold=0.5),
    "notices": lambda: render(purpose="demo", untrained_backbone=True),
    "unscorable": lambda: render_report(make_unscorable("NO_FACE"), (), MADE),
    "hostile": lambda: render(path=f"/films/{EVIL}", detail=EVIL, file=FileFacts(1, EVIL, EVIL, 1, 1, 1, 0.0)),
    "hour": lambda: render_report(make_hour(), (), MADE),
}


# the page as such


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_well_formed_and_each_id_stands_for_one_thing(name: str) -> None:
    outline = Outline(PAGES[name]())
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_and_runs_nothing(name: str) -> None:
    page = PAGES[name]()
    outline = Outline(page)
    assert {"script", "link", "iframe", "object", "embed", "base", "form"}.isdisjoint(tag for tag, _ in outline.tags)
    assert not any(key.startswith("on") or key in ("href", "srcset") for _, found in outline.tags for key in found)
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in outline.find("img"))
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    (policy,) = (meta["content"] for meta in outline.find("meta") if meta.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_aloud(name: str) -> None:
    outline = Outline(PAGES[name]())
    assert outline.find("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(image["alt"] for image in outline.find("img"))
    assert all(header["scope"] in ("col", "row") for header in outline.find("th"))
    assert all(svg["aria-label"] for svg in outline.find("svg") if svg.get("role") == "img")


def test_a_page_knows_paper_phones_and_the_dark() -> None:
    page = render()
    for query in ("@media print", "@media (max-width", "prefers-color-scheme: dark", 'name="viewport"'):
        assert query in page


def test_a_page_with_exhibits_stays_under_a_megabyte() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    frame = np.array(
        np.clip(carphone_frames(1)[0][:108, :176].repeat(10, 0).repeat(10, 1) + noise[:1080, :1760] // 8, 0, 255),
        np.uint8,
    )
    exhibits = [replace(one, picture=draw_frame(frame, [])) for one in make_exhibits(1.0, 1.0, 1.0)]
    assert len(render_report(make_verdict(), exhibits, MADE)) < 1_000_000


def test_an_hour_of_many_faces_is_still_a_small_page() -> None:
    page = render_report(make_hour(), (), MADE)
    assert len(page) < 300_000
    outline = Outline(page)
    assert sum(svg.get("class") == "timeline" for svg in outline.find("svg")) == 8
    assert "Shown are the 8 faces with the highest scores; 94 others" in outline.text
    assert "of all 920, those with the highest scores" in outline.text


# what comes from outside


def test_a_hostile_name_is_text_and_nothing_else() -> None:
    outline = Outline(PAGES["hostile"]())
    assert EVIL in "".join(outline.texts)
    assert "49" not in outline.text
    assert not outline.find("script")


def test_signs_that_cannot_be_seen_are_written_out() -> None:
    text = Outline(render(path="/films/gpj\u202egnp.exe\x07\udcff.mp4")).text
    assert "gpj\\u202egnp.exe\\x07\\udcff.mp4" in text
    assert "\u202e" not in text


def test_a_report_is_written_whole_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    write_report(out, make_verdict(path="/films/\udcff\u2028.mp4"), (), MADE)
    assert Outline(out.read_text(encoding="utf-8")).open == []
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


# what it says


def test_notices_stand_above_everything() -> None:
    text = Outline(PAGES["notices"]()).text
    body = text[text.index(DEMONSTRATION) :]
    assert body.index(DEMONSTRATION) < body.index(UNTRAINED) < body.index("Report on clip.mp4")
    assert DEMONSTRATION not in Outline(render()).text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "takes a face in this video for manipulated. P(fake) = 0.800 at even odds; from 0.600 on a video is called",
        ),
        ({}, "not a proof: real videos are flagged too. How often in tests is said below."),
        ({"outcome": Outcome.REAL, "p_fake": 0.1}, "REAL does not prove that the video is authentic"),
        ({"outcome": Outcome.UNCERTAIN, "p_fake": 0.45}, "within the band from 0.400 to 0.600 that is left undecided"),
        ({"outcome": Outcome.UNCERTAIN, "p_fake": 0.45}, "the same score would have been called REAL or FAKE"),
        ({"outcome": Outcome.UNCERTAIN, "p_fake": 0.1}, "another face passes the threshold"),
        ({"preset": "threshold", "rates": None}, "How often is not known for this threshold."),
        ({"p_fake": 0.99996}, "P(fake) = above 0.999"),
    ],
)
def test_an_outcome_is_said_in_plain_words(changes: dict[str, Any], words: str) -> None:
    assert words in Outline(render(**changes)).text


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_words(reason: Reason) -> None:
    text = Outline(render_report(make_unscorable(reason), (), MADE)).text
    assert f"{reason}. {REASONS[reason]} That says nothing about whether the video is real or fake." in text
    assert "Detail: it was so" in text
    assert "P(fake)" not in text


def test_a_reason_of_another_version_is_given_as_it_is() -> None:
    assert "LOST_AT_SEA. LOST_AT_SEA That says" in Outline(render_report(make_unscorable("LOST_AT_SEA"), (), MADE)).text


def test_rates_stand_with_their_bounds_and_with_what_they_come_from() -> None:
    text = Outline(render()).text.replace("\xa0", " ")
    assert "fakes found, of 23 (recall) 96 % at least 73 %" in text
    assert "real videos flagged, of 40 (FPR) 12 % at most 26 %" in text
    assert "videos held out of training, on which the threshold was chosen; from toy, DFDC" in text
    assert 'the preset "security", chosen to find at least 95 % of fakes' in text
    assert "Not guaranteed: the 23 fake and 40 real videos it was chosen on do not suffice" in text
    folds = Outline(render(rates=replace(RATES, source="out-of-fold"))).text
    assert "Not guaranteed: it was chosen on 23 fake and 40 real videos that other heads scored" in folds
    assert "Guaranteed with 95 % confidence" in Outline(render(rates=replace(RATES, guaranteed=True))).text
    assert "It promises no rate" in Outline(render(rates=replace(RATES, target="balanced"))).text


def test_a_threshold_of_ones_own_has_no_known_rates() -> None:
    text = Outline(PAGES["own threshold"]()).text
    assert "The threshold is 0.500, chosen by whoever ran this." in text
    assert "Error rates are not known" in text
    assert "What this threshold did in tests" not in text


def test_odds_are_stated_where_a_prevalence_was_named_and_missed_where_not() -> None:
    text = Outline(render(odds=ODDS)).text.replace("\xa0", " ")
    assert "Where 1 % of all videos are fake" in text
    assert "P(fake) of this file 0.050" in text
    assert "fakes (PPV) 7.1 % at least 2.9 %" in text
    assert "real ones (NPV) 99.9 % at least 99.6 %" in text
    assert "as if every second video were fake" in Outline(render()).text
    unknown = replace(ODDS, ppv=None, ppv_low=None, npv=None, npv_low=None)
    assert "fakes (PPV) not known" in Outline(render(odds=unknown, rates=None)).text


def test_exhibits_come_with_their_pictures_and_what_was_found() -> None:
    outline = Outline(PAGES["fake"]())
    assert len(outline.find("img")) == 3 * 3 - 1
    assert "A: 0:00.0, face 0, P(fake) of the frame 0.800 (above the threshold)" in outline.text
    assert "with the bottom left of the crop hidden, 0.622" in outline.text
    assert outline.text.count("No single region decides") == 1
    assert "occlusion, Zeiler and Fergus 2014" in outline.text
    assert "it does not show what was changed in the picture" in outline.text


@pytest.mark.parametrize(("probs", "title"), [([0.9] * 4, "Most suspicious"), ([0.1] * 4, "Highest-scoring")])
def test_frames_are_called_suspicious_only_above_the_threshold(probs: list[float], title: str) -> None:
    assert f"{title} frames" in Outline(render(tracks=(make_track(0, make_clip(probs)),))).text


def test_why_no_frame_is_shown_is_said() -> None:
    assert "No frame is shown: the file is gone." in Outline(PAGES["uncertain"]()).text


def test_each_face_is_told_in_words_beside_its_timeline() -> None:
    beside = make_track(4, make_clip([0.1, 0.2, 0.1, 0.1], 2.0, counted=False))
    main = make_track(0, make_clip([0.7, 0.8, 0.9, 0.1]))
    text = Outline(render(tracks=(beside, main))).text
    assert text.index("Face 0") < text.index("Face 4")
    assert (
        "gave the video its score; seen in 4 frames from 0:00.0 to 0:01.5; above the threshold 0:00.0 to 0:01.0" in text
    )
    assert "does not count towards the score; seen in 4 frames from 0:02.0 to 0:03.5; no stretch of it" in text


def test_the_table_of_clips_has_every_clip() -> None:
    tracks = (make_track(0, make_clip([0.2] * 4), make_clip([0.9] * 4, 10.0)), make_track(1, make_clip([0.5] * 4, 5.0)))
    text = Outline(render(tracks=tracks)).text
    assert "0:00.0 0:02.0 0 4 0.200 0.200 yes 0:05.0 0:07.0 1 4 0.500 0.500 yes 0:10.0 0:12.0 0 4 0.900" in text


def test_file_and_model_are_named_with_their_hashes() -> None:
    text = Outline(render(detail="damaged packets were left out")).text
    for words in (
        "path /films/clip.mp4", "ab" * 32, "size 12.3 MB (12,345,678 bytes)", "1280 × 720", "250 (25 a second)",
        "cd" * 32, "tiny, fp32", "lstm, mean pooling", "mtcnn", "toy, DFDC", "research: not reviewed",
        "unmask 0.1.0, CPUExecutionProvider", "Remark: damaged packets were left out",
    ):  # fmt: skip
        assert words in text
    assert "UNTRAINED: random weights" in Outline(render(untrained_backbone=True)).text


def test_the_time_of_making_is_told_in_utc() -> None:
    assert "Made 2031-05-04 10:30:15 UTC" in Outline(render()).text
    assert render_report(make_verdict(), (), MADE) == render_report(make_verdict(), (), MADE.astimezone(UTC))


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ["--preset", "security", "--device", "cpu"]),
        ({"preset": "threshold", "threshold": 0.123456789}, ["--threshold", "0.123456789", "--device", "cpu"]),
        ({"odds": ODDS}, ["--preset", "security", "--prevalence", "0.01", "--device", "cpu"]),
        ({"provider": "CUDAExecutionProvider"}, ["--preset", "security", "--device", "cuda"]),
        (
            {"tracks": tuple(make_track(i, make_clip([0.5] * 4)) for i in range(2))},
            ["--preset", "security", "--tracks", "all", "--device", "cpu"],
        ),
        (
            {"tracks": tuple(make_track(i, make_clip([0.5] * 4, counted=not i)) for i in range(2))},
            ["--preset", "security", "--tracks", "main", "--device", "cpu"],
        ),
    ],
)
def test_the_command_that_repeats_the_score_can_be_pasted(changes: dict[str, Any], options: list[str]) -> None:
    texts = Outline(render(path="/films/it's; rm.mp4", **changes)).texts
    verify, score = (text for text in texts if text.startswith(("unmask verify", "unmask score")))
    assert shlex.split(verify) == ["unmask", "verify", "models/a b"]
    assert shlex.split(score) == ["unmask", "score", "models/a b", "/films/it's; rm.mp4", *options, "--json"]


def test_a_path_that_looks_like_an_option_is_none() -> None:
    assert "./-x.mp4 --preset" in Outline(render(path="-x.mp4")).text
