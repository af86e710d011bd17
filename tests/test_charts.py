"""The drawings of a report: nothing is lost by thinning, nothing runs out of the picture, and grey tells as much."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve.charts import MOST_POINTS, TICKS, Axis, Level, draw_scale, draw_timeline
from serve.occlusion import PLACES, HeatMap
from serve.pictures import FRAME_PX, Mark, Picture, colour_heat, draw_crop, draw_frame, draw_heat
from serve.words import (
    describe_place,
    describe_target,
    format_bound,
    format_bytes,
    format_clock,
    format_prob,
    format_share,
)
from tests.media import carphone_frames
from tests.verdicts import make_clip, make_track

LEVEL = Level(0.5, 0.4, 0.6)


def decode(picture: Picture) -> NDArray[np.uint8]:
    found = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    assert found.shape[:2] == (picture.height, picture.width)
    return np.asarray(found[:, :, ::-1], np.uint8)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 1e6))
def test_a_time_axis_has_a_few_round_ticks(end_s: float) -> None:
    ticks = Axis(end_s).ticks
    assert 2 <= len(ticks) <= TICKS + 1 or end_s < 0.1
    assert all(0 <= Axis(end_s).place(tick) <= 100 for tick in ticks)


def test_every_frame_of_a_short_video_is_a_dot() -> None:
    drawing = draw_timeline(make_track(0, make_clip([0.1, 0.9, 0.5])), Axis(1.5), LEVEL, [], "told")
    (dots,) = re.findall(r'class="frames" d="([^"]*)"', drawing)
    assert dots == "M0.0 900h0M333.3 100h0M666.7 500h0"


def test_a_long_video_keeps_its_highest_and_its_lowest_frame() -> None:
    probs = np.random.default_rng(0).uniform(0.3, 0.6, 20 * MOST_POINTS)
    probs[[777, 9999]] = 0.95, 0.05
    drawing = draw_timeline(make_track(0, make_clip(probs.tolist())), Axis(probs.size / 2), LEVEL, [], "told")
    (cloud,) = re.findall(r'class="frames many" d="([^"]*)"', drawing)
    ends = [(float(low), float(high)) for low, high in re.findall(r"M[\d.]+ (\d+)V(\d+)", cloud)]
    assert min(low for low, _ in ends) == 50
    assert max(high for _, high in ends) == 950
    assert len(drawing) < 20_000


def test_many_clips_are_thinned_too() -> None:
    clips = [make_clip([0.5] * 4, 10.0 * number) for number in range(3 * MOST_POINTS)]
    clips[1234] = make_clip([0.99] * 4, 12340.0)
    drawing = draw_timeline(make_track(0, *clips), Axis(30.0 * MOST_POINTS), LEVEL, [], "told")
    (steps,) = re.findall(r'class="clip" d="([^"]*)"', drawing)
    assert " 10H" in steps
    assert len(steps) < 20_000


def test_suspicious_stretches_are_hatched_and_exhibits_lettered() -> None:
    track = make_track(0, make_clip([0.1, 0.1, 0.9, 0.9, 0.9, 0.1]))
    drawing = draw_timeline(track, Axis(3.0), LEVEL, [("A", 1.5)], 'told "so" & thus')
    assert re.findall(r'x="(\d+\.\d+)%" width="(\d+\.\d+)%" [^>]*fill="url\(#hatch\)"', drawing) == [("33.33", "33.33")]
    assert '<text class="own" x="50.00%" y="13" text-anchor="middle">A</text>' in drawing
    assert 'aria-label="told &#34;so&#34; &amp; thus"' in drawing
    assert "url(#hatch)" not in draw_timeline(make_track(0, make_clip([0.1] * 6)), Axis(3.0), LEVEL, [], "told")


def test_clips_that_do_not_count_are_drawn_otherwise() -> None:
    track = make_track(0, make_clip([0.5] * 4), make_clip([0.2] * 4, 10.0, counted=False))
    drawing = draw_timeline(track, Axis(20.0), LEVEL, [], "told")
    assert 'class="clip" d="M0.0 500H100.0"' in drawing
    assert 'class="clip beside" d="M500.0 800H600.0"' in drawing


@given(st.floats(0, 1), st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_a_scale_stays_inside_and_says_what_it_shows(prob: float, levels: list[float]) -> None:
    low, threshold, high = levels
    drawing = draw_scale(prob, Level(threshold, low, high))
    assert all(0 <= float(left) <= 100 for left in re.findall(r'x1?="([\d.]+)%"', drawing))
    assert f"P(fake) of this file is {format_prob(prob)} on a scale" in drawing
    assert "nan" not in drawing


def test_a_word_that_does_not_fit_into_the_scale_is_left_out() -> None:
    assert ">UNCERTAIN</text>" in draw_scale(0.5, Level(0.5, 0.3, 0.7))
    assert ">UNCERTAIN</text>" not in draw_scale(0.5, Level(0.5, 0.45, 0.55))


# pictures


def test_large_frames_are_made_small_and_small_ones_left() -> None:
    frame = np.zeros((1080, 1920, 3), np.uint8)
    assert (draw_frame(frame, []).width, draw_frame(frame, []).height) == (FRAME_PX, 540)
    assert draw_frame(carphone_frames(1)[0], []).width == 176


@pytest.mark.parametrize("zoom", [1, 12])
def test_faces_are_boxed_where_they_are_and_ones_own_thickly(zoom: int) -> None:
    frame = np.full((144 * zoom, 176 * zoom, 3), 128, np.uint8)
    own, other = (
        (20.0 * zoom, 40.0 * zoom, 60.0 * zoom, 100.0 * zoom),
        (100.0 * zoom, 40.0 * zoom, 140.0 * zoom, 100.0 * zoom),
    )
    picture = draw_frame(frame, [Mark(1, other, False), Mark(0, own, True)])
    found, scale = decode(picture), picture.width / 176
    marked = (np.abs(found.astype(int) - 128).max(axis=2) > 40)[round(70 * scale)]  # a row across both boxes
    left, right = marked[: round(40 * scale)].sum(), marked[round(80 * scale) : round(120 * scale)].sum()
    assert left > right > 0
    assert marked[round(20 * scale)]
    assert marked[round(100 * scale)]


def test_a_box_beyond_the_frame_is_no_trouble() -> None:
    picture = draw_frame(carphone_frames(1)[0], [Mark(12, (-50.0, -40.0, 300.0, 290.0), True)])
    assert (picture.width, picture.height) == (176, 144)


def test_a_heat_map_is_dark_where_it_matters_even_in_grey() -> None:
    drops = np.zeros((PLACES, PLACES))
    drops[:3, -3:] = 2.0
    crop = np.full((64, 64, 3), 128, np.uint8)
    grey = cv2.cvtColor(decode(draw_heat(crop, HeatMap(2.0, drops))), cv2.COLOR_RGB2GRAY).astype(float)
    half = len(grey) // 2
    assert grey[: half // 2, half + half // 2 :].mean() < 0.6 * grey[half:, :half].mean()


def test_a_weak_heat_map_looks_weak() -> None:
    drops = np.zeros((PLACES, PLACES))
    drops[:3, -3:] = 1.0
    crop = np.full((64, 64, 3), 128, np.uint8)
    strong, weak = (decode(draw_heat(crop, HeatMap(2.0, drops * size))).mean() for size in (1.0, 0.2))
    assert weak > strong + 5


def test_more_heat_is_always_darker() -> None:
    colours = colour_heat(np.linspace(0, 1, 200))
    luminance = colours @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luminance) <= 1e-9).all()
    assert luminance[0] > 254
    assert luminance[-1] < 100


def test_a_crop_is_shown_at_the_size_of_its_heat_map() -> None:
    crop = carphone_frames(1)[0][:64, :64]
    assert draw_crop(crop).width == draw_heat(crop, HeatMap(0.0, np.ones((PLACES, PLACES)))).width


# words


@given(st.floats(0, 1))
def test_what_is_not_all_is_never_called_all_nor_nothing_nothing(share: float) -> None:
    assert (format_share(share) == "100\xa0%") == (share == 1)
    assert (format_share(share) == "0\xa0%") == (share == 0)
    assert (format_prob(share) == "1.000") == (share == 1)
    assert (format_prob(share) == "0.000") == (share == 0)


@given(st.floats(0, 1))
def test_a_bound_is_never_rounded_to_a_better_one(share: float) -> None:
    least, most = (float(format_bound(share, least=least).split()[2]) / 100 for least in (True, False))
    assert least - 1e-9 <= share <= most + 1e-9
    assert most - least <= 0.0101


@pytest.mark.parametrize(
    ("time_s", "exact", "shown"),
    [
        (0.0, True, "0:00.0"), (59.96, True, "1:00.0"), (187.25, True, "3:07.2"), (187.6, False, "3:08"),
        (3599.97, True, "1:00:00.0"), (3787.0, False, "1:03:07"), (90_000.0, False, "25:00:00"),
    ],
)  # fmt: skip
def test_times_are_told_as_a_player_does(time_s: float, exact: bool, shown: str) -> None:
    assert format_clock(time_s, exact) == shown


@pytest.mark.parametrize(
    ("right", "down", "place"),
    [
        (0.1, 0.9, "bottom left"),
        (0.5, 0.5, "centre"),
        (0.5, 0.1, "top"),
        (1.0, 0.5, "right"),
        (1.0, 1.0, "bottom right"),
    ],
)
def test_places_have_names(right: float, down: float, place: str) -> None:
    assert describe_place(right, down) == place


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("recall=0.95", "chosen to find at least 95 % of fakes"),
        ("fpr=0.01", "chosen to flag at most 1 % of real videos"),
        ("balanced", "chosen for the best balance between fakes found and real videos flagged"),
        (
            "cost=10@0.01",
            "chosen for the lowest cost where a missed fake costs 10 times a false alarm and 1 % of videos are fake",
        ),
    ],
)
def test_targets_are_told_in_words(target: str, words: str) -> None:
    assert describe_target(target).replace("\xa0", " ") == words


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 bytes"), (999, "999 bytes"), (1_500_000, "1.5 MB (1,500,000 bytes)")]
)
def test_sizes_are_told_for_people_and_exactly(size: int, shown: str) -> None:
    assert format_bytes(size) == shown
