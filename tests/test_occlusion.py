"""Heat maps by occlusion: what matters is found where it is, and where nothing matters no place is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from extract.backbone_files import wrap_backbone
from extract.backbones import Backbone
from serve.occlusion import BATCH, LEAST_DROP, PLACES, HeatMap, Score, hide_regions

SIZE = 64


def light_corner(top: int, left: int, side: int = 14) -> NDArray[np.uint8]:
    """A dark crop with a bright square."""
    crop = np.full((SIZE, SIZE, 3), 20, np.uint8)
    crop[top : top + side, left : left + side] = 240
    return crop


def weigh(top: int, left: int, side: int = 14) -> Score:
    """A score that is the brightness of a square of the crop, and of nothing else."""
    return lambda crops: crops[:, top : top + side, left : left + side].mean(axis=(1, 2, 3)) / 50.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, SIZE - 14), st.integers(0, SIZE - 14))
def test_the_region_that_gives_the_score_is_found(top: int, left: int) -> None:
    heat = hide_regions(light_corner(top, left), weigh(top, left))
    right, down = heat.place
    assert abs(right * SIZE - (left + 7)) <= SIZE / 8  # no farther than half a patch
    assert abs(down * SIZE - (top + 7)) <= SIZE / 8
    assert heat.decisive
    assert heat.p_hidden < heat.p_whole


def write_mask_network(path: Path, crop_px: int) -> Path:
    """A network whose one feature is the brightness of the lower left quarter."""
    mask = np.zeros((1, 3, crop_px, crop_px), np.float32)
    mask[:, :, crop_px // 2 :, : crop_px // 2] = 4.0
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["picture", "mask"], ["masked"]),
            helper.make_node("ReduceMean", ["masked"], ["features"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Reshape", ["features", "shape"], ["column"]),
        ],
        "mask",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, crop_px, crop_px])],
        [helper.make_tensor_value_info("column", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(mask, "mask"), numpy_helper.from_array(np.array([-1, 1]), "shape")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_a_backbone_that_looks_at_one_quarter_is_seen_to_do_so(tmp_path: Path) -> None:
    wrap_backbone(write_mask_network(tmp_path / "mask.onnx", SIZE), tmp_path / "backbone.onnx")
    backbone = Backbone(tmp_path / "backbone.onnx", "cpu")
    crop = light_corner(SIZE * 5 // 8, SIZE // 8, SIZE // 4)
    heat = hide_regions(crop, lambda crops: backbone.embed(crops)[:, 0].astype(np.float64))
    right, down = heat.place
    assert right < 0.5 < down
    upper = heat.drops[: PLACES // 2 - 1]
    assert np.abs(upper).max() < 0.02 * heat.drop  # patches that hide nothing the network sees


def test_where_nothing_matters_no_region_decides() -> None:
    heat = hide_regions(light_corner(10, 10), lambda crops: np.full(len(crops), 3.0))
    assert not heat.decisive
    assert heat.drop == 0
    assert not HeatMap(1.0, np.full((PLACES, PLACES), LEAST_DROP * 0.99)).decisive
    assert HeatMap(1.0, np.full((PLACES, PLACES), LEAST_DROP * 1.01)).decisive


def test_what_speaks_for_real_is_no_region_that_speaks_for_fake() -> None:
    heat = hide_regions(light_corner(10, 10), lambda crops: -weigh(10, 10)(crops))
    assert heat.drops.min() < -1
    assert not heat.decisive


def test_one_patch_alone_does_not_outweigh_a_region() -> None:
    drops = np.zeros((PLACES, PLACES))
    drops[1, 1] = 1.1
    drops[4:7, 4:7] = 1.0
    assert HeatMap(0.0, drops).peak == (5, 5)
    assert HeatMap(0.0, drops).drop == 1.0


def test_crops_are_scored_in_batches_that_stay_small() -> None:
    batches: list[int] = []

    def score(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        batches.append(len(crops))
        return np.zeros(len(crops))

    hide_regions(light_corner(0, 0), score)
    assert sum(batches) == PLACES**2 + 1
    assert max(batches) == BATCH


@given(st.integers(8, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_pixels_lie_between_the_patches_around_them(size_px: int, seed: int) -> None:
    heat = HeatMap(0.0, np.random.default_rng(seed).normal(size=(PLACES, PLACES)))
    spread = heat.spread(size_px)
    assert spread.shape == (size_px, size_px)
    assert heat.drops.min() - 1e-9 <= spread.min() <= spread.max() <= heat.drops.max() + 1e-9


def test_a_map_is_not_turned_or_mirrored() -> None:
    drops = np.zeros((PLACES, PLACES))
    drops[0, -1] = 1.0
    spread = HeatMap(0.0, drops).spread(80)
    row, column = divmod(int(spread.argmax()), 80)
    assert row < 10
    assert column >= 70
